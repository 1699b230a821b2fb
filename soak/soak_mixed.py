"""The soak: mixed traffic with a random fault every few seconds, after which nothing has grown."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from soak import caller
from soak.answers import answer, completion, stream
from soak.book import Book, End, Verdict
from soak.caller import Caller, Way
from soak.faults import FAULTS, IDLE_S, Door, Fault
from soak.figure import Figure, Row, Size, mib, slope
from soak.origin import Asked, Origin
from soak.process import Gateway, State, config
from tests.support.relay import BlackHole, Dribble, Latency, Relay
from tests.support.relay import End as RelayEnd
from tests.support.relay import Fault as RelayFault
from tests.support.upstream import Wire

_FAULT_S = 0.5
_POOL_IDLE_S = 0.5
_MIB = 1 << 20
CLIENTS = {"json": 4, "stream": 4, "upload": 2, "chat": 2}
WAYS: dict[str, Way] = {
    "json": caller.plainly,
    "stream": caller.plainly,
    "upload": caller.with_upload,
    "chat": caller.on_the_chat_route,
}


@dataclass(frozen=True)
class Plan:
    """``seconds`` in all, ``warm_up_s`` of them before anything counts. After it RSS may gain ``growth`` bytes."""

    seconds: float
    warm_up_s: float
    fault_every_s: float
    growth: int


@dataclass(frozen=True)
class Purpose:
    """What a request is: a kind of `CLIENTS`, perhaps under a fault."""

    kind: str
    fault: Fault | None = None


class Mixed(Figure[Plan]):
    """Clients, gateway, relay, upstream; the faults are the upstream's, the network's and the clients' own."""

    name = "soak"
    about = "mixed traffic under random faults: nothing lost, nothing grows"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(600, 60, 5, 1 * _MIB),
        "quick": Plan(20, 6, 1, 2 * _MIB),
        "test": Plan(3, 1, 0.4, 4 * _MIB),
    }

    async def run(self) -> list[Row]:
        """One soak."""
        self._random = random.Random(self.seed)
        self._fault: Fault | None = None
        self._stop = False
        self._met: Counter[str] = Counter()
        self._book: Book[Purpose] = Book(self.seed)
        self._origin = Origin(self._book, _whole, _head, seed=self.seed)
        await self._origin.start()
        self._relay = Relay(self._origin.port)
        await self._relay.start()
        try:
            upstream = {"idle_timeout_s": IDLE_S, "pool_idle_timeout_s": _POOL_IDLE_S}
            async with Gateway(config(self._relay.port, upstream=upstream)) as gateway:
                return await self._measure(gateway)
        finally:
            await self._relay.stop()
            await self._origin.stop()

    async def _measure(self, gateway: Gateway) -> list[Row]:
        total = Verdict()
        points: list[tuple[float, float]] = []
        await self._traffic(gateway, self.plan.warm_up_s, [])
        before = await self._quiet(gateway, None, total)
        rss = gateway.rss_bytes()
        await self._traffic(gateway, self.plan.seconds - self.plan.warm_up_s, points)
        after = await self._quiet(gateway, before, total)
        return self._rows(total, points, before, after, gateway.rss_bytes() - rss)

    async def _traffic(self, gateway: Gateway, seconds: float, points: list[tuple[float, float]]) -> None:
        """Traffic and faults for so long; ``points`` gets (second, resident bytes) every second."""
        end = time.monotonic() + seconds
        self._stop = False
        clients = [
            asyncio.ensure_future(self._client(gateway.port, kind, number))
            for kind, many in CLIENTS.items()
            for number in range(many)
        ]
        faults = asyncio.ensure_future(self._faults(gateway.port, end))
        while time.monotonic() < end:
            await asyncio.sleep(min(1.0, seconds / 8))
            points.append((time.monotonic(), gateway.rss_bytes()))
        await faults
        self._stop = True
        await asyncio.gather(*clients)

    async def _client(self, port: int, kind: str, number: int) -> None:
        asking = Caller(port, self.seed + number)
        while not self._stop:
            # Only these take the faults of the upstream: the other scripts stand for other clients' requests.
            fault = self._fault if kind in ("json", "stream") else None
            way = fault.way if fault else WAYS[kind]
            await asking.ask(self._book, self._book.issue(Purpose(kind, fault)), way)
            await asyncio.sleep(asking.random.uniform(0.002, 0.02))
        asking.close()

    async def _faults(self, port: int, end: float) -> None:
        """One fault after the other, each over before the next."""
        every_s = self.plan.fault_every_s
        lasting_s = min(_FAULT_S, every_s / 2)
        faults: dict[str, Callable[[float], Awaitable[None]]] = {
            **{name: self._scripted(fault) for name, fault in FAULTS.items() if _is_scripted(fault)},
            "refused": self._refused,
            "network-latency": self._network(Latency(0.02, 0.05)),
            "network-dribble": self._network(Dribble(16)),
            "network-black-hole": self._network(BlackHole()),
            "network-reset": self._network_reset,
        }
        while time.monotonic() + every_s + lasting_s < end:
            await asyncio.sleep(every_s - lasting_s)
            name = self._random.choice(list(faults))
            self._met[name] += 1
            await faults[name](lasting_s)

    def _scripted(self, fault: Fault) -> Callable[[float], Awaitable[None]]:
        async def act(seconds: float) -> None:
            self._fault = fault
            await asyncio.sleep(seconds)
            self._fault = None

        return act

    def _network(self, fault: RelayFault) -> Callable[[float], Awaitable[None]]:
        async def act(seconds: float) -> None:
            self._set_network([fault])
            await asyncio.sleep(seconds)
            self._set_network([])

        return act

    def _set_network(self, faults: Sequence[RelayFault]) -> None:
        self._relay.faults = faults
        for relayed in self._relay.connections:
            relayed.faults = faults

    async def _network_reset(self, seconds: float) -> None:
        for relayed in tuple(self._relay.connections):
            relayed.cut(RelayEnd.RST)

    async def _refused(self, seconds: float) -> None:
        await self._origin.refuse()
        await asyncio.sleep(seconds)
        await self._origin.accept_again()

    async def _quiet(self, gateway: Gateway, since: State | None, total: Verdict) -> State:
        """What the gateway holds when nothing is under way and no connection is idle; the book's page is closed."""
        await asyncio.sleep(_POOL_IDLE_S + 0.5)
        state = await gateway.state(count_objects=True)
        if since is not None and state.leaked(since):
            await gateway.settled(since, within_s=5.0)
            state = await gateway.state(count_objects=True)
        total.add(self._book.close())
        return state

    def _rows(
        self, total: Verdict, points: list[tuple[float, float]], before: State, after: State, gained: int
    ) -> list[Row]:
        plan = self.plan
        per_hour = slope(points) * 3600
        # What the slope makes of the time it was measured in: a bound that means the same for any length.
        grown = slope(points) * (points[-1][0] - points[0][0])
        met = f"{self._met.total()} faults of {len(self._met)} kinds, seed {self.seed}"
        wrong = ", ".join(f"{count} {what}" for what, count in total.violations.most_common()) or "0 violations"
        if self._origin.strangers:
            wrong += f", {self._origin.strangers} requests that nobody made"
        ends = f"{total.requests} requests in {plan.seconds:g} s, {total.ends[End.OK]} whole; {met}"
        leaked = ", ".join(f"{count} {name}" for name, count in after.leaked(before).items()) or "0"
        objects = f"{after.objects - before.objects:+d} objects, at rest {after.fds} fds, {after.tasks} tasks"
        rss = f"{grown / _MIB:+.2f} MiB over the run = {per_hour / _MIB:+.1f} MiB/h; at rest {gained / _MIB:+.2f} MiB"
        is_well = not total.violations and not self._origin.strangers
        return [
            Row(self.name, "0 lost without notice, 0 sent twice", wrong, ends, is_well, tuple(total.evidence[:12])),
            Row(self.name, f"RSS grows <= {mib(plan.growth)}", rss, f"{len(points)} samples", grown <= plan.growth),
            Row(self.name, "0 fds, tasks, exchanges more than before", leaked, objects, not after.leaked(before)),
        ]


def _is_scripted(fault: Fault) -> bool:
    """Whether a fault needs nothing but its own request."""
    return fault.door is Door.OPEN and not fault.in_rounds


async def _head(asked: Asked[Purpose], wire: Wire) -> None:
    fault = asked.purpose.fault
    if fault is not None and fault.head is not None:
        await fault.head(asked, wire)


async def _whole(asked: Asked[Purpose], wire: Wire) -> None:
    kind, fault = asked.purpose.kind, asked.purpose.fault
    if fault is not None:
        await fault.script(asked, wire)
    elif kind == "stream":
        for piece in stream(asked.nonce, asked.random.choice(["chunked", "length"])):
            await wire.send(piece)
            await asyncio.sleep(0.002)
    elif kind == "chat":
        await wire.send(completion(asked.nonce))
    else:
        await wire.send(answer(asked.nonce))
