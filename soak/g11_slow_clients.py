"""G11: a flood of clients that send next to nothing delays nobody who behaves, and each of them is closed in time."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

from soak import kernel
from soak.answers import answer
from soak.book import Book, End
from soak.caller import Caller, plainly
from soak.figure import Figure, Row, Size, ms, percentile
from soak.flood import LATE_S, FloodPlan, Result
from soak.origin import Asked, Origin
from soak.process import Gateway, config, module
from tests.support.upstream import Wire

RATE = 100
"""Good requests a second."""
FACTOR = 2.0


@dataclass(frozen=True)
class Plan:
    """``connections`` slow ones for ``seconds``. ``floor_s``: below it two p99 are taken for the same.

    The shorter a run, the fewer requests decide its p99, and the less a factor of two between two of them says.
    """

    connections: int
    seconds: float
    base_s: float
    header_timeout_s: float
    body_timeout_s: float
    byte_every_s: float
    floor_s: float

    @property
    def ramp_s(self) -> float:
        """In which the connections are opened one by one: else they would all be closed in one moment as well."""
        return min(self.header_timeout_s, self.seconds / 4)


class SlowClients(Figure[Plan]):
    """The good requests alone, then the same under the flood."""

    name = "G11"
    about = "slow clients delay nobody and are closed at their timeouts"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(5000, 60, 20, 10, 30, 10, 0.0),
        "quick": Plan(300, 8, 4, 2, 3, 1, 0.010),
        "test": Plan(60, 3, 1, 0.8, 1.2, 0.3, 0.250),
    }

    async def run(self) -> list[Row]:
        """Both runs."""
        limit = kernel.raise_fd_limit()
        book: Book[None] = Book(self.seed)
        origin = Origin(book, _whole)
        await origin.start()
        plan = self.plan
        try:
            limits = {"header_timeout_s": float(plan.header_timeout_s), "body_timeout_s": float(plan.body_timeout_s)}
            async with Gateway(config(origin.port, downstream=limits)) as gateway:
                await self._good(gateway.port, book, min(1.0, plan.base_s / 4))  # warm-up
                alone = await self._good(gateway.port, book, plan.base_s)
                flood = self._flood(gateway.port)
                try:
                    await asyncio.sleep(plan.ramp_s + 0.5)  # it starts, and the connections are being opened
                    under = await self._good(gateway.port, book, plan.seconds - plan.ramp_s - 1.0)
                    said, _ = await asyncio.to_thread(flood.communicate, timeout=plan.seconds + 30)
                finally:
                    if flood.poll() is None:
                        flood.kill()
                        await asyncio.to_thread(flood.wait)
                await gateway.state()
        finally:
            await origin.stop()
        return self._rows(alone, under, Result(**json.loads(said)), limit)

    def _flood(self, port: int) -> subprocess.Popen[bytes]:
        plan = self.plan
        times = (plan.header_timeout_s, plan.body_timeout_s, plan.byte_every_s)
        flood = FloodPlan(port, plan.connections, plan.seconds, plan.ramp_s, *times)
        return module("soak.flood", json.dumps(asdict(flood)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    async def _good(self, port: int, book: Book[None], seconds: float) -> Good:
        """Ask at a steady rate, whether or not earlier answers are in; time counts from when each was due."""
        loop = asyncio.get_running_loop()
        good = Good([], Counter(), Counter())
        idle: list[Caller] = []
        tasks = []

        async def one(due_s: float) -> None:
            caller = idle.pop() if idle else Caller(port, self.seed)
            seen = await caller.ask(book, book.issue(None), plainly)
            good.took_s.append(time.perf_counter() - due_s)
            good.ends[seen.end] += 1
            idle.append(caller)

        started = time.perf_counter()
        for number in range(int(seconds * RATE)):
            due_s = started + number / RATE
            await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
            tasks.append(loop.create_task(one(due_s)))
        await asyncio.gather(*tasks)
        for caller in idle:
            caller.close()
        good.violations = book.close().violations
        return good

    def _rows(self, alone: Good, under: Good, flood: Result, limit: int) -> list[Row]:
        plan = self.plan
        base_s, p99_s = percentile(alone.took_s, 0.99), percentile(under.took_s, 0.99)
        allowed_s = max(FACTOR * base_s, plan.floor_s)
        failures = sum(count for end, count in under.ends.items() if end is not End.OK) + under.violations.total()
        slow = f"{flood.most_open} slow connections, {plan.seconds:g} s, fd limit {limit}"
        floor = f" or {ms(plan.floor_s)}" if plan.floor_s else ""
        wrong = f"{flood.late} late, {flood.early} early, {flood.refused} refused"
        closed = f"{flood.on_time} closed on time, latest +{flood.latest_s:.2f} s, {flood.open_at_end} had time left"
        is_flood = flood.on_time > 0 and flood.most_open >= 0.9 * plan.connections
        in_time = is_flood and not flood.late and not flood.early and not flood.refused
        many = f"{len(under.took_s)} requests, {slow}"
        no_failure = f"0 failures of {RATE} good requests/s"
        faster = f"p99 < {FACTOR:g} x the p99 alone{floor}"
        both = f"{ms(p99_s)}, alone {ms(base_s)}"
        return [
            Row(self.name, no_failure, str(failures), many, not failures and is_flood),
            Row(self.name, faster, both, slow, p99_s < allowed_s),
            Row(self.name, f"each slow one closed at its timeout, + <= {LATE_S:g} s", wrong, closed, in_time),
        ]


@dataclass
class Good:
    """The good requests of one run."""

    took_s: list[float]
    ends: Counter[End]
    violations: Counter[str]


async def _whole(asked: Asked[None], wire: Wire) -> None:
    await wire.send(answer(asked.nonce))
