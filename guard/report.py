"""What is printed: the table, the culprits, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

from guard import verdict
from guard.session import Measured
from guard.verdict import LEAST_GROWTH, TOLERANCE, Growth, Row

MOST_NAMED = 8


def table(rows: Sequence[Row]) -> str:
    """One line a unit: instructions now and recorded, and the ratio."""
    cells = [("unit", "now", "baseline", "ratio")]
    unjudged = "-" if all(row.baseline is None for row in rows) else "new"
    for row in rows:
        baseline = "-" if row.baseline is None else f"{row.baseline:,.0f}"
        ratio = unjudged if row.ratio is None else f"{row.ratio:.3f}"
        cells.append((row.unit, f"{row.now:,.0f}", baseline, ratio))
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in cells
    )


def culprits(unit: str, now: Measured, baseline: Measured) -> str:
    """Who has made a unit dearer: Python functions by what they do more, C functions by their instructions."""
    after, before = now.costs[unit], baseline.costs[unit]
    functions = verdict.grown_functions(after.functions, before.functions)
    in_c = verdict.grown_c(after, before, verdict.build_factor(now, baseline))
    lines = [f"{unit}: what does more than recorded, per unit, most first"]
    lines += [f"  {growth.function}  {_python(growth)}" for growth in functions[:MOST_NAMED]]
    if len(functions) > MOST_NAMED:
        lines.append(f"  and {len(functions) - MOST_NAMED} more Python functions")
    if not functions:
        lines.append(
            f"  no Python function by {LEAST_GROWTH:.0f} bytecodes: it is in C, in the bytes that are passed on, "
            "or a little of it in many"
        )
    lines += [
        f"  in C, {growth.function}  {_change(growth, 'steps', 'instructions')}" for growth in in_c[:MOST_NAMED]
    ]
    return "\n".join(lines)


def _python(growth: Growth) -> str:
    parts = ["new"] if growth.is_new else []
    for what in sorted(growth.counts, key=lambda what: (what != "steps", what != "calls", what)):
        title = {"steps": "bytecodes", "calls": "calls"}.get(what, f"calls of {what.removeprefix('C ')}")
        parts.append(_change(growth, what, title))
    return ", ".join(parts)


def _change(growth: Growth, what: str, title: str) -> str:
    before, after = growth.counts[what]
    return f"+{_number(after - before)} {title} ({_number(before)} → {_number(after)})"


def _number(value: float) -> str:
    """With decimals only where they matter: many counts are whole, and those of instructions are long."""
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.2f}"


def no_baseline(version: str, *, is_strict: bool) -> str:
    """What to do where nothing is recorded for this version of Python; if ``is_strict``, that fails."""
    told = f"There is no baseline for Python {version}: nothing is judged"
    if is_strict:
        told += ", and where CI is set, that fails"
    return f"{told}. To record one, for guard/baselines/{version}.json to be committed: python -m guard --record"


def advice(rows: Sequence[Row]) -> list[str]:
    """What to do about it where there is a baseline, a sentence each."""
    found = []
    if new := [row.unit for row in rows if row.baseline is None]:
        found.append(
            f"New, not in the baseline and so not judged: {'; '.join(new)}. Record the new baseline: "
            "python -m guard --record"
        )
    if dearer := [row.unit for row in rows if row.is_dearer]:
        found.append(
            f"Over {TOLERANCE:.0%} dearer than recorded: {'; '.join(dearer)}. If it has to be so, record the new "
            "baseline with the reason: python -m guard --record"
        )
    if cheaper := [row.unit for row in rows if row.is_cheaper]:
        found.append(
            f"Over {TOLERANCE:.0%} cheaper than recorded: {'; '.join(cheaper)}. Record the new baseline, or the gain "
            "is not guarded: python -m guard --record"
        )
    return found
