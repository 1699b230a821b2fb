"""Valgrind's callgrind: how it is called, and what it writes.

The format is that of the manual, "Callgrind Format Specification": of it only what each function cost by itself.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

_NAME = re.compile(r"(c?(?:ob|fn))=\((\d+)\)(?: (.*))?")
_COST = re.compile(r"[+\-*\d][\d]* (\d+)")
_NO_NAME = re.compile(r"0x[0-9a-f]+|\(below main\)|\?\?\?")
_COPY = re.compile(r"(?:'\d+|@@?[\w.]+|\.(?:constprop|isra|part|cold|lto_priv)(?:\.\d+)?)+$")
_PYTHON = re.compile(r"(?:libpython|python)[\d.]*t?(?:\.so[\d.]*)?$|ld-linux|ld-musl")


PYTHON = "python"
"""How the Python is called, be it a library or the program; with the dynamic linker, which only a library asks."""


def command(mark: str, out: Path) -> list[str]:
    """What goes before the program. Counting is off at first; each call of the C function ``mark`` writes a part."""
    return [
        "valgrind",
        "--tool=callgrind",
        "--instr-atstart=no",
        "--dump-line=no",
        f"--dump-before={mark}",
        f"--callgrind-out-file={out}",
        f"--log-file={out}.log",
        "--vgdb=yes",
    ]


def parse(lines: Iterable[str]) -> Counter[str]:
    """Instructions by ``object:function``, of each function alone; ``object:?`` is all that has no symbol."""
    names: dict[tuple[str, str], str] = {}
    here = {"ob": "???", "fn": "???"}
    costs: Counter[str] = Counter()
    is_inclusive = False
    for line in lines:
        found = _NAME.match(line)
        if found is not None:
            key, number, name = found.groups()
            kind = key.removeprefix("c")
            if name is not None:
                names[kind, number] = name
            if key in here:
                here[key] = names.get((kind, number), "???")
        elif line.startswith("calls="):
            is_inclusive = True  # the line behind it is what the callee cost
        else:
            cost = _COST.match(line)
            if cost is not None and not is_inclusive:
                costs[_function(here["ob"], here["fn"])] += int(cost[1])
            is_inclusive = is_inclusive and cost is None
    return costs


def _function(path: str, name: str) -> str:
    library = path.rpartition("/")[2]
    if _PYTHON.match(library):
        library = PYTHON
    return f"{library.partition('.')[0]}:{'?' if _NO_NAME.match(name) else _COPY.sub('', name)}"


def is_python(function: str) -> bool:
    """Whether a function belongs to the Python itself."""
    return function.startswith(f"{PYTHON}:")
