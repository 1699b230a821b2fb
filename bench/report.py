"""What comes out: one table, the goals, what to think of the figures, and all of it as Markdown or JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from bench.figures import Medians, Row, number
from bench.goals import results
from bench.section import Plan, Sample

_MOST_SPREAD = 1.25
_MOST_STRAIGHT_MS = 2.0
_TIMES_OF_CPU = ("json_us", "json_new_us", "sse_us", "upload_us", "one_worker_us", "two_workers_us")


class Origin(NamedTuple):
    """Where figures come from: the command that measured them, the day (ISO 8601), and how many cores there were."""

    command: str
    date: str
    cores: int

    def __str__(self) -> str:
        """One sentence for README."""
        cores = "one core" if self.cores == 1 else f"{self.cores} cores"
        return f"`{self.command}`, {self.date}, {cores} of {cpu_model()}."


def grid(medians: Medians, peers: Sequence[str], baseline: str) -> list[list[str]]:
    """The table's cells: a row for each figure and transport, a column for each peer, values with their ratios."""
    return [[row.title, *(_cell(medians, row, peer, baseline) for peer in peers)] for row in medians.rows()]


def _cell(medians: Medians, row: Row, peer: str, baseline: str) -> str:
    figure, transport = row.figure, row.transport
    value = medians.value(figure.key, peer, transport)
    if value is None:
        return medians.said(figure.key, peer, transport) or "–"
    ratio = medians.ratio(figure.key, peer, baseline, transport) if figure.has_ratio and peer != baseline else None
    return number(value) if ratio is None else f"{number(value)} ({number(ratio)}×)"


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """For a terminal."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """For README."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def heads(versions: Mapping[str, str]) -> list[str]:
    """Above the columns: who, and which version of it."""
    return ["", *(f"{name} {version}".strip() for name, version in versions.items())]


GOAL_HEADS = ("goal", "bound", "measured", "")


def page(
    samples: Sequence[Sample], versions: Mapping[str, str], baseline: str, notes: Iterable[str], origin: Origin
) -> str:
    """Where it comes from, both tables and the notes in Markdown."""
    medians = Medians(samples)
    parts = [
        str(origin),
        markdown(heads(versions), grid(medians, list(versions), baseline)),
        markdown(GOAL_HEADS, [result.cells for result in results(medians)]),
        "\n".join(f"- {note}" for note in notes),
    ]
    return "\n\n".join(part for part in parts if part)


def warnings(samples: Sequence[Sample], load_before: float) -> list[str]:
    """What makes the figures worth less than they look."""
    found = []
    if load_before > 0.5:
        found.append(f"the machine was busy with something else at the start (load {load_before:.1f})")
    if len(os.sched_getaffinity(0)) < 2:
        found.append("there is one core: gateway, upstream and load share it")
    coalesced = {sample.peer for sample in samples if sample.details.get("units_per_read", 1) > 1.1}
    found.extend(f"{peer} passed on several chunks at once" for peer in sorted(coalesced))
    straight_ms = [sample.details["straight_ms"] for sample in samples if "straight_ms" in sample.details]
    if straight_ms and max(straight_ms) > _MOST_STRAIGHT_MS:
        found.append(f"the upstream alone took up to {max(straight_ms):.1f} ms: latencies are the machine's, too")
    spreads: dict[tuple[str, str, str], list[float]] = {}
    for sample in samples:
        if sample.figure in _TIMES_OF_CPU and sample.value is not None:
            spreads.setdefault((sample.peer, sample.figure, sample.transport), []).append(sample.value)
    for (peer, figure, transport), values in spreads.items():
        if max(values) > _MOST_SPREAD * min(values):
            found.append(
                f"the rounds of {peer}, {figure}, {transport}, differ: {min(values):.1f} to {max(values):.1f}"
            )
    return found


def document(
    samples: Sequence[Sample],
    versions: Mapping[str, str],
    plan: Plan,
    baseline: str,
    notes: Sequence[str],
    origin: Origin,
) -> dict[str, Any]:
    """Everything that was measured, for ``--json``."""
    medians = Medians(samples)
    rows = [
        {
            "figure": row.figure.key,
            "title": row.title,
            "transport": row.transport,
            "median": {peer: medians.value(row.figure.key, peer, row.transport) for peer in versions},
            "ratio": {peer: medians.ratio(row.figure.key, peer, baseline, row.transport) for peer in versions},
        }
        for row in medians.rows()
    ]
    goals = [
        {
            "title": result.goal.title,
            "bound": result.goal.wanted,
            "measured": result.measured,
            "verdict": result.verdict,
        }
        for result in results(medians)
    ]
    return {
        "command": origin.command,
        "date": origin.date,
        "machine": {
            "cpu": cpu_model(),
            "cores": origin.cores,
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "plan": asdict(plan),
        "versions": dict(versions),
        "baseline": baseline,
        "rows": rows,
        "goals": goals,
        "notes": list(notes),
        "samples": [asdict(sample) for sample in samples],
    }


def cpu_model() -> str:
    """The processor's name, as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
