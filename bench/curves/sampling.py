"""Rounds of a curve: every size in turn, so that what else the machine does meets all of them alike.

The cheapest round of each counts: on a machine with other work to do costs differ by half from one second to the
next, and whatever else runs, and shares caches and cores, only ever adds. The shape of a curve is asked for, not a
typical cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from bench.curves.load import CONNECTIONS, Requests, load
from bench.curves.verdict import Point

Ask = Callable[[float], Awaitable[int]]
"""Puts the load on for so many seconds; how many answers came."""


@dataclass(frozen=True)
class Plan:
    """How much is measured: rounds of so many seconds for each point, after a short warm-up.

    ``is_rough``: fewer sizes.
    """

    rounds: int = 6
    seconds: float = 0.3
    warm_up_s: float = 0.3
    is_rough: bool = False

    def some(self, sizes: Sequence[int]) -> Sequence[int]:
        """The sizes to measure: if it is rough the first, the last, and every second one before it."""
        return (*sizes[:1], *sizes[:0:-2][::-1]) if self.is_rough else sizes


QUICK = Plan(rounds=4, seconds=0.15, warm_up_s=0.2, is_rough=True)


@dataclass(frozen=True)
class Series:
    """One point to be: what puts its load on, and the clock of the CPU time that is used by it, in seconds."""

    ask: Ask
    cpu_s: Callable[[], float]


def asking(port: int, requests: Requests, cpu_s: Callable[[], float], *, connections: int = CONNECTIONS) -> Series:
    """Ordinary requests on kept connections."""
    return Series(partial(_load, port, requests, connections), cpu_s)


async def _load(port: int, requests: Requests, connections: int, seconds: float) -> int:
    return await load(port, requests, seconds, connections)


async def sample(sizes: Mapping[int, Series], plan: Plan) -> tuple[Point, ...]:
    """The least cost of one request at each size. Raises RuntimeError for an answer that is not as it must be."""
    for series in sizes.values():
        await series.ask(plan.warm_up_s)
    costs: dict[int, list[float]] = {x: [] for x in sizes}
    for _ in range(plan.rounds):
        for x, series in sizes.items():
            before = series.cpu_s()
            count = await series.ask(plan.seconds)
            # What is left to do for the last answers, their log lines for one, is a part of their cost.
            await asyncio.sleep(0.05)
            costs[x].append((series.cpu_s() - before) / count * 1e6)
    return tuple(Point(x, min(found)) for x, found in sorted(costs.items()))
