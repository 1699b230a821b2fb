"""What comes out: medians, ratios to the first peer, a table, and all of it as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.rounds import Plan, Sample

TITLES = {"json": "JSON request", "sse": "SSE chunk"}


def medians(samples: Sequence[Sample], kind: str) -> dict[str, float]:
    """The median CPU time of one unit in microseconds, by peer, in the order the peers were measured."""
    by_peer: dict[str, list[float]] = {}
    for sample in samples:
        if sample.kind == kind:
            by_peer.setdefault(sample.peer, []).append(sample.cpu_us)
    return {peer: median(values) for peer, values in by_peer.items()}


def ratios(values: Mapping[str, float], baseline: str) -> dict[str, float]:
    """Each value as a multiple of the baseline's; empty if that was not measured."""
    if baseline not in values:
        return {}
    return {peer: value / values[baseline] for peer, value in values.items()}


def table(samples: Sequence[Sample], rss_bytes: Mapping[str, int], baseline: str) -> str:
    """One row a peer: µs of CPU per request and per chunk, each with its ratio, and MiB when idle."""
    columns = {kind: medians(samples, kind) for kind in TITLES}
    times = {kind: ratios(values, baseline) for kind, values in columns.items()}
    rows = [("", *(cell for title in TITLES.values() for cell in (f"{title}, µs", f"× {baseline}")), "idle RSS, MiB")]
    for peer, rss in rss_bytes.items():
        cells = [peer]
        for kind in TITLES:
            cells.append(f"{columns[kind][peer]:.1f}" if peer in columns[kind] else "-")
            cells.append(f"{times[kind][peer]:.2f}" if peer in times[kind] else "-")
        rows.append((*cells, f"{rss / 2**20:.1f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)),
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def warnings(samples: Sequence[Sample], load_before: float) -> list[str]:
    """What makes the figures worth less than they look."""
    found = []
    if load_before > 0.5:
        found.append(f"the machine was busy with something else at the start (load {load_before:.1f})")
    if len(os.sched_getaffinity(0)) < 2:
        found.append("there is one core: gateway, upstream and load share it")
    coalesced = {s.peer for s in samples if s.units_per_read is not None and s.units_per_read > 1.1}
    found.extend(f"{peer} passed on several chunks at once" for peer in sorted(coalesced))
    for kind in TITLES:
        for peer in medians(samples, kind):
            values = [sample.cpu_us for sample in samples if (sample.peer, sample.kind) == (peer, kind)]
            if max(values) > 1.25 * min(values):
                found.append(
                    f"the rounds of {peer}, {TITLES[kind]}, differ: {min(values):.1f} to {max(values):.1f} µs"
                )
    return found


def document(
    samples: Sequence[Sample], rss_bytes: Mapping[str, int], versions: Mapping[str, str], plan: Plan, baseline: str
) -> dict[str, Any]:
    """Everything that was measured, for ``--json``."""
    per_kind = {kind: medians(samples, kind) for kind in TITLES}
    return {
        "machine": {"cpu": cpu_model(), "system": platform.platform(), "python": platform.python_version()},
        "plan": vars(plan),
        "versions": dict(versions),
        "cpu_us": per_kind,
        "ratio": {kind: ratios(values, baseline) for kind, values in per_kind.items()},
        "idle_rss_bytes": dict(rss_bytes),
        "samples": [vars(sample) | {"cpu_us": sample.cpu_us, "per_s": sample.rate} for sample in samples],
    }


def cpu_model() -> str:
    """The processor's name, as Linux has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
