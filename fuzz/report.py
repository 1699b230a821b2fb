"""What comes out: one row a target, the totals beside the goals of a release, and every finding with its input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fuzz.campaign import Result

RAW = "raw"
GOALS = {"in-process": 20_000_000, RAW: 1_000_000}
"""Inputs per release, with nothing found."""


def totals(results: Sequence[Result]) -> dict[str, int]:
    """How many inputs there were, in this process and over sockets."""
    raw = sum(result.inputs for result in results if result.target == RAW)
    return {"in-process": sum(result.inputs for result in results) - raw, RAW: raw}


def table(results: Sequence[Result]) -> str:
    """One row a target, then the totals."""
    rows = [("target", "engine", "inputs", "per s", "RSS, MiB", "findings")]
    for result in results:
        growth = f"{result.rss_growth_bytes / 2**20:+.1f}"
        count = len(result.findings)
        rows.append((result.target, result.engine, f"{result.inputs:,}", f"{result.rate:,.0f}", growth, str(count)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        named = [cell.ljust(width) for cell, width in zip(row[:2], widths, strict=False)]
        counted = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*named, *counted]).rstrip())
    for kind, count in totals(results).items():
        if count:
            goal = GOALS[kind]
            reached = "reached" if count >= goal else f"{100 * count / goal:.2f} %: a reduced count"
            lines.append(f"{kind}: {count:,} inputs of the {goal:,} of a release ({reached})")
    return "\n".join(lines)


def findings(results: Sequence[Result]) -> str:
    """Every finding, with what made it."""
    lines = []
    for result in results:
        for found in result.findings:
            lines.append(f"\n{result.target}: {found['rule']} ({found['times']} times)")
            lines.append(f"  {found['message']}")
            lines.append(f"  input {found['input']}")
            lines.append(f"  in {found['file']}")
    return "\n".join(lines)


def document(results: Sequence[Result]) -> dict[str, Any]:
    """The same, for ``--json``."""
    rows = [asdict(result) | {"per_s": result.rate} for result in results]
    return {"goals": GOALS, "totals": totals(results), "targets": rows}
