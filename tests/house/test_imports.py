"""Imports point one way only, and a few names are never used."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "proxy").rglob("*.py"))

# What the modules of each package may import besides the standard library: packages of ours, and of others.
ALLOWED: dict[str, set[str]] = {
    "core": {"proxy.core"},
    "limits": {"proxy.core", "proxy.limits", "lmdb", "redis"},
    "stages": {"proxy.core", "proxy.limits", "proxy.stages", "pydantic"},
    "settings": {
        "proxy.core", "proxy.limits", "proxy.stages", "proxy.settings", "pydantic", "pydantic_core", "yaml",
    },
    "wire": {"proxy.core", "proxy.wire", "tornado", "httptools", "aiohappyeyeballs"},
    # The version is the one name of the package itself that others need.
    "gateway": {
        "proxy.__version__", "proxy.core", "proxy.limits", "proxy.stages", "proxy.settings", "proxy.wire",
        "proxy.gateway", "tornado", "uvloop",
    },
}  # fmt: skip
ON_TOP = {"admin", "cli", "mock", "supervisor"}
"""They may import whatever they need, and nothing below imports them."""

# Modules that reach out of the process, or read a clock: the pure packages are handed what they need.
OUTSIDE = {
    "asyncio", "concurrent", "ctypes", "datetime", "http", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "shutil", "signal", "socket", "socketserver", "ssl", "subprocess", "tempfile", "threading", "time",
    "urllib.request", "uuid",
}  # fmt: skip
# What a pure package may use of it all the same: a store on another machine is asked through the loop.
MAY_REACH: dict[str, set[str]] = {"limits": {"asyncio"}}
# And files whose very task is a directory of this machine.
REACHING: dict[str, set[str]] = {
    "limits/instance.py": {"os", "secrets", "shutil", "tempfile"},
    "limits/shared.py": {"os"},
    "limits/snapshot.py": {"os", "threading"},
}

BANNED: dict[str, str] = {
    "asyncio.create_task": "use the loop that was passed in, and keep the task",
    "time.time": "it is stepped; take a monotonic clock as a parameter (time.time_ns for a date in a log)",
    "datetime.datetime.now": "take a clock as a parameter",
    "datetime.datetime.utcnow": "take a clock as a parameter",
    "os.environ": "only proxy/settings reads the environment; take a mapping as a parameter",
    "os.environb": "only proxy/settings reads the environment; take a mapping as a parameter",
    "os.getenv": "only proxy/settings reads the environment; take a mapping as a parameter",
    "os.putenv": "the environment is not ours to change",
}
# Python's verdicts on these changed between releases: our own tables decide.
BANNED_ATTRIBUTES = {"is_private", "is_global", "is_reserved"}
MAY_IMPORT_OPENAI = {"mock", "cli"}
"""A worker would pay a second of start-up and 60 MB for it."""


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def package_of(path: Path) -> str:
    """The package a file belongs to: ``core``, ``stages`` ..., or its own name at the top."""
    return path.relative_to(ROOT / "proxy").parts[0].removesuffix(".py")


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes(), shown(path))


def imports(node: ast.AST) -> Iterator[str]:
    """The dotted names a statement imports."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(path: Path) -> set[str]:
    """Every dotted name a file imports, wherever the statement stands."""
    return {name for node in ast.walk(tree(path)) for name in imports(node)}


def running_imports(body: list[ast.stmt]) -> Iterator[str]:
    """What is imported when the module is: not inside functions, and not for type checkers only."""
    for statement in body:
        yield from imports(statement)
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) or _is_for_type_checkers(statement):
            continue
        for block in ("body", "orelse", "finalbody"):
            yield from running_imports(getattr(statement, block, []))
        for handler in getattr(statement, "handlers", []):
            yield from running_imports(handler.body)


def _is_for_type_checkers(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def dotted_uses(path: Path) -> set[str]:
    """Every dotted name a file uses, with the names it imported spelt out: ``t.time`` as ``time.time``."""
    known: dict[str, str] = {}
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                name = alias.asname or (alias.name if prefix else alias.name.partition(".")[0])
                known[name] = prefix + (alias.name if prefix or alias.asname else name)
    found: set[str] = set(known.values())
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            start, _, rest = ast.unparse(node).partition(".")
            if start in known:
                found.add(f"{known[start]}.{rest}")
    return found


def is_within(name: str, allowed: set[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


def foreign(path: Path) -> set[str]:
    """What a file imports that is not of the standard library."""
    return {name for name in all_imports(path) if name.partition(".")[0] not in sys.stdlib_module_names}


def test_the_rules_name_every_package_there_is() -> None:
    packages = {path.parent.name for path in FILES if path.name == "__init__.py"} - {"proxy"}
    assert packages <= set(ALLOWED) | ON_TOP, "a new package needs a line in ALLOWED"
    assert packages >= {"core", "limits", "stages", "settings", "wire", "gateway"}


@pytest.mark.parametrize("path", [path for path in FILES if package_of(path) in ALLOWED], ids=shown)
def test_imports_point_one_way(path: Path) -> None:
    wrong = {name for name in foreign(path) if not is_within(name, ALLOWED[package_of(path)])}
    assert not wrong, f"{package_of(path)} must not import {', '.join(sorted(wrong))}"


@pytest.mark.parametrize(
    "path", [path for path in FILES if package_of(path) in {"core", "limits", "stages"}], ids=shown
)
def test_the_pure_packages_reach_nothing_outside(path: Path) -> None:
    allowed = MAY_REACH.get(package_of(path), set()) | REACHING.get(str(path.relative_to(ROOT / "proxy")), set())
    wrong = {name for name in all_imports(path) if is_within(name, OUTSIDE - allowed)}
    assert not wrong, "no loop, clock, socket, thread or environment: they are passed in"


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_openai_is_imported_late(path: Path) -> None:
    if package_of(path) not in MAY_IMPORT_OPENAI:
        assert not [name for name in running_imports(tree(path).body) if is_within(name, {"openai"})]


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_banned_names(path: Path) -> None:
    used = {name for name in BANNED if any(is_within(found, {name}) for found in dotted_uses(path))}
    if package_of(path) == "settings":
        used -= {"os.environ", "os.getenv"}
    assert not used, "; ".join(f"{name}: {BANNED[name]}" for name in sorted(used))


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_pythons_own_table_of_address_ranges_decides_nothing(path: Path) -> None:
    attributes = {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
    assert not attributes & BANNED_ATTRIBUTES


@pytest.mark.parametrize("path", FILES, ids=shown)
def test_other_peoples_packages_are_declared(path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = {
        requirement.partition(";")[0].strip().split(">")[0].split("=")[0].split("[")[0]
        for requirement in (*project["dependencies"], *project["optional-dependencies"]["redis"])
    }
    modules = {name.lower().replace("-", "_") for name in declared}
    modules = modules - {"pyyaml"} | {"yaml", "proxy", "pydantic_core"}  # pydantic's own, which it brings
    assert {name.partition(".")[0] for name in foreign(path)} <= modules


class TestTheWalk:
    """The walk itself sees what it must: a rule that cannot fail guards nothing."""

    @pytest.fixture
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
        path = tmp_path / "proxy" / "core" / "module.py"
        path.parent.mkdir(parents=True)
        return path

    @pytest.mark.parametrize(
        ("source", "found"),
        [
            ("import time\ntime.time()", "time.time"),
            ("import time as t\nt.time()", "time.time"),
            ("from time import time", "time.time"),
            ("from time import time as now", "time.time"),
            ("import asyncio\ndef f():\n  asyncio.create_task(x)", "asyncio.create_task"),
            ("from asyncio import create_task", "asyncio.create_task"),
            ("import os\nos.environ['X']", "os.environ"),
            ("from os import environ", "os.environ"),
            ("import os\nos.environ.get('X')", "os.environ"),
            ("from datetime import datetime\ndatetime.now()", "datetime.datetime.now"),
        ],
    )
    def test_uses(self, module: Path, source: str, found: str) -> None:
        module.write_text(source)
        with pytest.raises(AssertionError, match=found):
            test_banned_names(module)

    @pytest.mark.parametrize("source", ["import time\ntime.time_ns()", "import os\nos.path.join()", "x.time.time()"])
    def test_innocent_uses(self, module: Path, source: str) -> None:
        module.write_text(source)
        test_banned_names(module)

    @pytest.mark.parametrize(
        "source",
        [
            "import openai",
            "from openai import OpenAI",
            "from openai.types import Model",
            "try:\n  import openai\nexcept ImportError:\n  pass",
            "class A:\n  import openai",
            "with x:\n  import openai",
        ],
    )
    def test_late_imports(self, module: Path, source: str) -> None:
        module.write_text(source)
        with pytest.raises(AssertionError):
            test_openai_is_imported_late(module)
        tree.cache_clear()
        module.write_text("def f():\n" + "\n".join(f"  {line}" for line in source.splitlines()))
        test_openai_is_imported_late(module)

    @pytest.mark.parametrize(
        "source",
        [
            "import tornado.web",
            "from proxy.wire import server",
            "from proxy import __version__",
            "import proxy",
            "def f():\n  import yaml",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n  from proxy.stages import Services",
        ],
    )
    def test_directions(self, module: Path, source: str) -> None:
        module.write_text(source)
        with pytest.raises(AssertionError):
            test_imports_point_one_way(module)
