"""The recorded baselines: one file for each minor version of Python, in ``guard/baselines``.

The versions interpret the same code in different ways, and no one factor turns the counts of one into another's.
Builds of one version differ by a factor, and that is what the calibration finds.
"""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from guard.session import Cost, Functions, Measured

FOLDER = Path(__file__).resolve().parent / "baselines"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_LEAST_SHARE = 0.001
"""Of the C functions, those with a smaller part of a unit's cost are left out."""
_LEAST_STEPS = 1.0


def read(folder: Path = FOLDER, version: str = VERSION) -> Measured | None:
    """The baseline of a version of Python; None if there is none."""
    path = folder / f"{version}.json"
    if not path.is_file():
        return None
    document = json.loads(path.read_text("utf-8"))
    costs = {unit: Cost(**cost) for unit, cost in document["units"].items()}
    return Measured(calibration=document["calibration"], costs=costs)


def write(measured: Measured, folder: Path = FOLDER, version: str = VERSION) -> Path:
    """Record what was measured; the file written."""
    units = {unit: _recorded(cost) for unit, cost in measured.costs.items()}
    document = {
        "python": f"{platform.python_implementation()} {platform.python_version()}, {platform.python_compiler()}",
        "machine": platform.machine(),
        "calibration": round(measured.calibration),
        "units": units,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{version}.json"
    path.write_text(_lines(document) + "\n", "utf-8")
    return path


def _recorded(cost: Cost) -> dict[str, Any]:
    least = cost.instructions * _LEAST_SHARE
    by_c = {name: round(count) for name, count in cost.by_c.items() if count >= least}
    return {
        "instructions": round(cost.instructions),
        "python": round(cost.python),
        "by_c": dict(sorted(by_c.items())),
        "functions": _of_weight(cost.functions),
    }


def _of_weight(functions: Functions) -> Functions:
    """Without what a timer did once in many units."""
    return {
        name: {what: round(count, 2) for what, count in sorted(counts.items())}
        for name, counts in sorted(functions.items())
        if counts.get("steps", 0) >= _LEAST_STEPS
    }


def _lines(value: Mapping[str, Any], indent: str = "") -> str:
    """JSON with one function a line, so that a new baseline shows what has changed."""
    inner = f"{indent} "
    entries = []
    for key, entry in value.items():
        is_table = isinstance(entry, Mapping) and (indent.count(" ") < 2 or key in ("by_c", "functions"))
        text = _lines(entry, inner) if is_table else json.dumps(entry)
        entries.append(f"{inner}{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
