"""What Sluice is to come to, and whether it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from bench.figures import Medians, number
from bench.section import TRANSPORTS, Plan

_LEAST_MS = 0.01
"""What nginx adds at least, for a ratio: where it adds less than can be told, or seems to add less than nothing."""


class Goal(NamedTuple):
    """A bound on something computed from the medians, which is None where it was not measured."""

    title: str
    bound: float
    measure: Callable[[Medians], float | None]
    is_lower_bound: bool = False

    @property
    def wanted(self) -> str:
        """The bound, as text."""
        return f"{'≥' if self.is_lower_bound else '≤'} {self.bound:g}"


class Result(NamedTuple):
    """A goal and what was measured."""

    goal: Goal
    measured: float | None

    @property
    def verdict(self) -> str:
        """``held``, ``missed`` or ``not measured``."""
        if self.measured is None:
            return "not measured"
        holds = self.measured >= self.goal.bound if self.goal.is_lower_bound else self.measured <= self.goal.bound
        return "held" if holds else "missed"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Goal, bound, measured, verdict, as text."""
        return (
            self.goal.title,
            self.goal.wanted,
            "–" if self.measured is None else number(self.measured),
            self.verdict,
        )


def _times(figure: str, to: str, transport: str = "plain", peer: str = "sluice") -> Callable[[Medians], float | None]:
    return lambda medians: medians.ratio(figure, peer, to, transport)


def _added(medians: Medians) -> float | None:
    """Who cannot do the rate at all has missed the goal."""
    if (
        medians.said("added_p99_ms", "sluice").startswith("cannot")
        and medians.value("added_p99_ms", "sluice") is None
    ):
        return math.inf
    ours_ms, nginx_ms = (medians.value("added_p99_ms", peer) for peer in ("sluice", "nginx"))
    return None if ours_ms is None or nginx_ms is None else ours_ms / max(nginx_ms, _LEAST_MS)


def _start_s(medians: Medians) -> float | None:
    return medians.value("start_s", "sluice")


def _second_worker(medians: Medians) -> float | None:
    return medians.value("second_worker", "sluice")


def _crowd(figure: str, transport: str) -> Callable[[Medians], float | None]:
    """A quick run opens fewer streams, and says nothing about the goal."""

    def measure(medians: Medians) -> float | None:
        is_whole = medians.detail("streams", figure, "sluice", transport) == Plan.crowd
        return medians.value(figure, "sluice", transport) if is_whole else None

    return measure


def _worst_idle(medians: Medians) -> float | None:
    shares = [_crowd("crowd_silent_cpu", transport)(medians) for transport in TRANSPORTS]
    measured = [share for share in shares if share is not None]
    return max(measured) if measured else None


GOALS = (
    Goal("CPU per JSON request, × nginx", 3.0, _times("json_us", "nginx")),
    Goal("CPU per JSON request, × nginx, stretch", 2.2, _times("json_us", "nginx")),
    Goal("CPU per JSON request, × Envoy", 0.8, _times("json_us", "envoy")),
    Goal("CPU per JSON request, TLS upstream, × nginx", 2.0, _times("json_us", "nginx", "tls")),
    Goal("CPU per SSE chunk, × nginx", 1.4, _times("sse_us", "nginx")),
    Goal("CPU per SSE chunk, × Envoy", 1.0, _times("sse_us", "envoy")),
    Goal("LiteLLM's CPU per JSON request, × ours", 100, _times("json_us", "sluice", peer="litellm"), True),
    Goal("LiteLLM's CPU per SSE chunk, × ours", 100, _times("sse_us", "sluice", peer="litellm"), True),
    Goal("latency added at 1,000/s, 99 %, × nginx", 2.0, _added),
    Goal("MiB for 10,240 open streams", 240, _crowd("crowd_mib", "plain")),
    Goal("MiB for 10,240 open streams, TLS upstream", 450, _crowd("crowd_mib", "tls")),
    Goal("CPU of 10,240 silent streams, % of a core", 10, _worst_idle),
    Goal("CPU per request, two workers, × one", 1.1, _second_worker),
    Goal("start to first answer, s", 0.7, _start_s),
)


def results(medians: Medians) -> list[Result]:
    """Each goal with what was measured."""
    return [Result(goal, goal.measure(medians)) for goal in GOALS]


def missed(found: Iterable[Result]) -> list[Result]:
    """Those that do not hold."""
    return [result for result in found if result.verdict == "missed"]
