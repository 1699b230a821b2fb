"""G1: under every fault, no request is lost without notice and none is sent twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from soak.book import NEVER, Book, End, Seen, Verdict
from soak.caller import Caller
from soak.faults import FAULTS, IDLE_S, Door, Fault
from soak.figure import Figure, Row, Size
from soak.origin import Asked, Origin
from soak.process import Gateway, config
from tests.support.upstream import Wire

_SETTLE_S = 0.05


@dataclass(frozen=True)
class Plan:
    """``per_fault`` requests under each fault, by ``clients`` at once."""

    per_fault: int
    clients: int


async def _head(asked: Asked[Fault], wire: Wire) -> None:
    if asked.purpose.head is not None:
        await asked.purpose.head(asked, wire)


async def _whole(asked: Asked[Fault], wire: Wire) -> None:
    await asked.purpose.script(asked, wire)


class Faults(Figure[Plan]):
    """Each fault in turn, on one gateway."""

    name = "G1"
    about = "no request lost without notice, none sent twice, under every fault"
    plans: ClassVar[Mapping[Size, Plan]] = {"full": Plan(10_000, 64), "quick": Plan(50, 25), "test": Plan(6, 6)}

    async def run(self) -> list[Row]:
        """All faults."""
        book: Book[Fault] = Book(self.seed)
        origin = Origin(book, _whole, _head, seed=self.seed)
        await origin.start()
        total = Verdict()
        missed: list[str] = []
        try:
            upstream = {"connect_timeout_s": 5.0, "idle_timeout_s": IDLE_S}
            async with Gateway(config(origin.port, upstream=upstream)) as gateway:
                for fault in FAULTS.values():
                    started = time.perf_counter()
                    verdict = await self._batch(fault, gateway.port, book, origin)
                    self.say(f"  {fault.name:24} {verdict}  [{time.perf_counter() - started:.1f} s]")
                    total.add(verdict)
                    missed += [f"{fault.name}: {line}" for line in verdict.evidence]
                await gateway.state()  # raises if it has ended
        finally:
            await origin.stop()
        return [self._row(total, missed, origin.strangers)]

    def _row(self, total: Verdict, missed: list[str], strangers: int) -> Row:
        wrong = ", ".join(f"{count} {what}" for what, count in total.violations.most_common()) or "0 violations"
        if strangers:
            wrong += f", {strangers} requests that nobody made"
        errors = f"{total.ends[End.ERROR]} errors of ours"
        return Row(
            self.name,
            "0 lost without notice, 0 sent twice, upstream-sent agrees with the ledger",
            wrong,
            f"{total.requests} requests, {len(FAULTS)} faults, {errors}",
            not total.violations and not strangers,
            tuple(missed),
        )

    async def _batch(self, fault: Fault, port: int, book: Book[Fault], origin: Origin[Fault]) -> Verdict:
        clients = min(self.plan.per_fault, max(self.plan.clients, fault.connections))
        callers = [Caller(port, self.seed + number) for number in range(clients)]
        left = iter(range(self.plan.per_fault))

        async def one(caller: Caller) -> None:
            await caller.ask(book, book.issue(fault), fault.way)

        async def many(caller: Caller) -> None:
            for _ in left:
                await one(caller)

        await _set_door(origin, fault.door)
        try:
            if fault.in_rounds:
                for _ in range(-(-self.plan.per_fault // clients)):
                    await asyncio.gather(*map(one, callers))
                    await origin.end_round()
                    await asyncio.sleep(0.02)  # its last words have arrived
            else:
                await asyncio.gather(*map(many, callers))
            await asyncio.sleep(_SETTLE_S)  # a request sent twice may come late
        finally:
            await _reopen(origin, fault.door)
            for caller in callers:
                caller.close()
        return book.close(judge(fault))


def judge(fault: Fault) -> Callable[[Seen], list[str]]:
    """What is wrong with an end under this very fault."""

    def unexpected(seen: Seen) -> list[str]:
        found = []
        if seen.end not in fault.ends | NEVER:
            found.append(f"ends {seen.end.value!r}")
        if seen.end is End.ERROR and seen.said not in fault.said:
            found.append(f"says upstream-sent: {seen.said}")
        return found

    return unexpected


async def _set_door(origin: Origin[Fault], door: Door) -> None:
    if door is Door.REFUSED:
        await origin.refuse()
    elif door is Door.SLAMMED:
        origin.close_connections()
        origin.on_connect = Wire.close


async def _reopen(origin: Origin[Fault], door: Door) -> None:
    if door is Door.REFUSED:
        await origin.accept_again()
    origin.on_connect = None
