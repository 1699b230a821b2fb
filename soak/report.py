"""What comes out: the cases that missed, one table, and all of it as JSON."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from soak.figure import Row

_TITLES = ("figure", "goal", "measured", "counts", "")


def table(rows: Sequence[Row]) -> str:
    """One line a goal; the last column says whether it was met."""
    lines = [_TITLES, *((row.figure, row.goal, row.measured, row.counts, verdict(row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_TITLES))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def verdict(row: Row) -> str:
    """In a word."""
    return "ok" if row.ok else "MISSED"


def misses(rows: Sequence[Row]) -> list[str]:
    """The evidence of every goal that was missed."""
    return [f"{row.figure}, {row.goal}: {line}" for row in rows if not row.ok for line in row.evidence]


def document(rows: Sequence[Row], size: str, seed: int) -> dict[str, Any]:
    """Everything that was measured, for ``--json``."""
    machine = {"system": platform.platform(), "python": platform.python_version()}
    return {"machine": machine, "size": size, "seed": seed, "rows": [asdict(row) for row in rows]}
