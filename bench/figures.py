"""The figures: what they are called, in the order of the table, and their medians over the rounds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from statistics import median
from typing import NamedTuple

from bench.section import FAILED, TRANSPORTS, Sample


class Figure(NamedTuple):
    """One row of the table, or two: one for each transport it is measured with."""

    key: str
    title: str
    has_ratio: bool = True


FIGURES = (
    Figure("json_us", "CPU per JSON request, µs"),
    Figure("json_new_us", "CPU per JSON request, head never seen before, µs"),
    Figure("sse_us", "CPU per SSE chunk, µs"),
    Figure("upload_us", "CPU per 1 MiB upload, µs"),
    Figure("added_p50_ms", "latency added at 1,000/s, median, ms"),
    Figure("added_p99_ms", "latency added at 1,000/s, 99 %, ms"),
    Figure("first_byte_p50_ms", "first byte beside open streams, median, ms"),
    Figure("first_byte_p99_ms", "first byte beside open streams, 99 %, ms"),
    Figure("rss_idle_mib", "memory, idle, MiB"),
    Figure("rss_load_mib", "memory under load, MiB"),
    Figure("rss_stream_kib", "memory per open stream, KiB"),
    Figure("start_s", "start to first answer, plain upstream only, s"),
    Figure("one_worker_us", "CPU per JSON request at 2,000/s, one worker, µs"),
    Figure("two_workers_us", "CPU per JSON request at 2,000/s, two workers, µs"),
    Figure("second_worker", "two workers' CPU per request, × one's", False),
    Figure("crowd_mib", "memory with all streams open, two workers, MiB", False),
    Figure("crowd_silent_cpu", "CPU meanwhile, all silent, % of a core", False),
    Figure("crowd_events_cpu", "CPU meanwhile, an event in 15 s each, % of a core", False),
)


class Row(NamedTuple):
    """A figure with one transport."""

    figure: Figure
    transport: str

    @property
    def title(self) -> str:
        """As the table has it."""
        return self.figure.title + (", TLS upstream" if self.transport == "tls" else "")


class Medians:
    """What the rounds come to."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}
        self._said: dict[tuple[str, str, str], list[str]] = {}
        self._details: dict[tuple[str, str, str], Mapping[str, float]] = {}
        for sample in samples:
            key = (sample.figure, sample.transport, sample.peer)
            self._details.setdefault(key, sample.details)
            if sample.value is None:
                self._said.setdefault(key, []).append(sample.said)
            else:
                self._values.setdefault(key, []).append(sample.value)

    def rows(self) -> Iterator[Row]:
        """Those that were measured, the transports of a figure one below the other."""
        keys = {key[:2] for key in (*self._values, *self._said)}
        for figure in FIGURES:
            for transport in TRANSPORTS:
                if (figure.key, transport) in keys:
                    yield Row(figure, transport)

    def values(self, figure: str, transport: str = "plain") -> list[float]:
        """Every value of a figure, of all peers."""
        return [value for key, values in self._values.items() if key[:2] == (figure, transport) for value in values]

    def value(self, figure: str, peer: str, transport: str = "plain") -> float | None:
        """The median; None if one round failed, or half of them gave none."""
        key = (figure, transport, peer)
        values, said = self._values.get(key, []), self._said.get(key, [])
        return None if FAILED in said or len(values) <= len(said) else median(values)

    def detail(self, name: str, figure: str, peer: str, transport: str = "plain") -> float | None:
        """What else its first sample tells, by name."""
        return self._details.get((figure, transport, peer), {}).get(name)

    def said(self, figure: str, peer: str, transport: str = "plain") -> str:
        """What stands in place of a figure: ``cannot: 83/s``, ``failed``; empty if nothing does."""
        said = self._said.get((figure, transport, peer), [""])
        return FAILED if FAILED in said else said[0]

    def ratio(self, figure: str, peer: str, to: str, transport: str = "plain") -> float | None:
        """One peer's figure as a multiple of another's; None if either is missing, or the other's not above zero."""
        value, other = self.value(figure, peer, transport), self.value(figure, to, transport)
        return None if value is None or other is None or other <= 0 else value / other


def number(value: float) -> str:
    """Three digits or so, no more than rounds on a shared machine are good for."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"
