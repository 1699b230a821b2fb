"""A steady stream of calls, each noted: where it went, when, and how it ended."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from soak.lane import Lane, post

TICK_S = 0.002


@dataclass(slots=True)
class Call:
    """One call. ``took_s`` is how long its answer took, None = it is not in yet; ``status`` 0 = none came."""

    subject: str
    host: int
    body: bytes
    sent_s: float
    took_s: float | None = None
    status: int = 0
    is_unavailable: bool = False

    def is_within(self, begin_s: float, end_s: float) -> bool:
        """Whether it was made and answered in that time."""
        return self.took_s is not None and begin_s <= self.sent_s and self.sent_s + self.took_s <= end_s


class Steady:
    """Calls at a rate, to all hosts in turn, whether or not earlier ones were answered; for an ``async with`` block.

    ``choose`` names the subject of a call when it is made. No call waits behind another: each takes the lane that has
    rested longest.
    """

    def __init__(self, hosts: Sequence[list[Lane]], rate: float, choose: Callable[[], str]) -> None:
        self.calls: list[Call] = []
        self.short_of_lanes = 0
        """Calls that had to wait behind another after all."""
        self._lanes = [deque(lanes) for lanes in hosts]
        self._rate = rate
        self._choose = choose

    async def __aenter__(self) -> Steady:
        self._task = asyncio.get_running_loop().create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def check(self) -> None:
        """Raises what has kept it from making calls, if something has."""
        if self._task.done():
            self._task.result()

    async def settle(self, within_s: float = 10.0) -> None:
        """Make no more calls, and wait until all are answered or the time is up: what has no answer then is lost."""
        self.check()
        self._task.cancel()
        end = time.perf_counter() + within_s
        while any(call.took_s is None for call in self.calls) and time.perf_counter() < end:  # noqa: ASYNC110 - they are many
            await asyncio.sleep(TICK_S)

    async def _run(self) -> None:
        begun = time.perf_counter()
        while True:
            for number in range(len(self.calls), int((time.perf_counter() - begun) * self._rate)):
                self._ask(number)
            await asyncio.sleep(TICK_S)

    def _ask(self, number: int) -> None:
        host = number % len(self._lanes)
        call = Call(self._choose(), host, b'{"steady": "s-%08d"}' % number, time.perf_counter())
        self.calls.append(call)

        def seen(status: int, answer: bytes) -> None:
            call.took_s = time.perf_counter() - call.sent_s
            call.status = status
            call.is_unavailable = b'"limits_unavailable"' in answer

        self._lane(host).send([post(call.subject, call.body)], [seen])

    def _lane(self, host: int) -> Lane:
        lanes = self._lanes[host]
        for _ in range(len(lanes)):
            lanes.rotate(-1)
            if lanes[-1].is_idle and lanes[-1].is_open:
                return lanes[-1]
        self.short_of_lanes += 1
        lanes.rotate(-1)
        return lanes[-1]
