"""G12: while Redis cannot be asked, every decision comes in time and is what the rule says; then limits are exact."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from enum import Enum
from itertools import cycle, islice
from typing import ClassVar

from soak import kernel
from soak.figure import Figure, Row, Size, ms, percentile
from soak.hosts import Network
from soak.lane import Lane, post
from soak.ledger import Ledger
from soak.redis_server import RedisServer
from soak.served import Served, limited
from soak.steady import Call, Steady
from soak.volley import ADMITTED, REFUSED, faults, volley

MODES = ("deny", "local", "allow")
LIMIT = 30
CALLS = 10
HOSTS = 3
SHARE = -(-LIMIT // HOSTS)
"""What ``local`` promises of each host."""
DECISION_S = 0.05
BACK_S = 1.0
UNAVAILABLE = 503
MOST_EVIDENCE = 5
_REST_S = 0.4
"""Between the end of one cycle and the next outage."""
_VOLLEY_LANES = 16
_USUAL = "10.9.0.1"
"""The client of the calls that only show whether the store is asked: its limit is out of reach."""
_CHANGE = re.compile(r"^.* (?:WARNING|ERROR) +sluice\.limits: .*$", re.MULTILINE)


class Kind(Enum):
    """How Redis goes away, and comes back."""

    FROZEN = "stopped and continued"
    REFUSED = "killed, its port closed, started"
    RESTARTED = "killed and started at once"


@dataclass(frozen=True)
class Plan:
    """``cycles`` outages of ``outage_s``; the workers of each host, and lanes to it; calls a second to all hosts.

    ``grace_s`` is what timers, and two processes that share a processor, may add to a decision.
    """

    cycles: int
    outage_s: float
    workers: int
    lanes: int
    rate: float
    grace_s: float


@dataclass
class Seen:
    """What all cycles together have shown: latencies, and what was wrong with each promise."""

    normal_s: list[float] = field(default_factory=list)
    outage_s: list[float] = field(default_factory=list)
    back_s: list[float] = field(default_factory=list)
    admitted: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    beyond: dict[str, list[str]] = field(default_factory=lambda: {mode: [] for mode in MODES})
    inexact: list[str] = field(default_factory=list)
    wrong_lines: list[str] = field(default_factory=list)
    changes: int = 0


@dataclass(frozen=True)
class Cycle:
    """One outage: Redis was away from ``begin_s`` to ``end_s`` for certain, and answers since ``back_s``."""

    number: int
    kind: Kind
    begin_s: float
    end_s: float
    back_s: float

    def is_near(self, at_s: float) -> bool:
        """Whether a call made then may have met it, or what it leaves for the time that is promised."""
        return self.begin_s - DECISION_S <= at_s <= self.back_s + BACK_S

    def is_before(self, at_s: float) -> bool:
        """Whether a call made then is of the quiet time before it."""
        return self.begin_s - _REST_S <= at_s < self.begin_s - DECISION_S


class Outage(Figure[Plan]):
    """Three hosts, one Redis, a rule for each ``on_store_error``, a steady load all the time."""

    name = "G12"
    about = "without Redis each decision comes in time and by its rule, and with it again limits are exact"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(50, 1.2, 2, 32, 500.0, 0.005),
        "quick": Plan(6, 1.2, 2, 32, 500.0, 0.005),
        "test": Plan(1, 0.6, 1, 24, 400.0, 0.1),
    }

    async def run(self) -> list[Row]:
        """All cycles."""
        kernel.raise_fd_limit()
        self._random = random.Random(self.seed)
        self._subjects: Sequence[str] = (_USUAL,)
        self._seen = Seen()
        self._ledger = Ledger()
        with Network((0,) * HOSTS) as network:
            self.say(f"  {network.description}, {self.plan.workers} workers each")
            await self._ledger.start(network.hub)
            async with AsyncExitStack() as stack:
                stack.push_async_callback(self._ledger.stop)
                self._redis = await stack.enter_async_context(RedisServer(network.hub))
                upstream = (network.hub, self._ledger.port)
                settings = limited(upstream, network.hub, self._redis.url, RULES, limits={"hosts": HOSTS})
                self._served = [Served(host, settings, self.plan.workers) for host in network.hosts]
                await asyncio.gather(*map(stack.enter_async_context, self._served))
                steady = [await self._lanes(stack, each, self.plan.lanes) for each in self._served]
                self._volley = [
                    lane for each in self._served for lane in await self._lanes(stack, each, _VOLLEY_LANES)
                ]
                return await self._under_load(steady)

    async def _lanes(self, stack: AsyncExitStack, served: Served, count: int) -> list[Lane]:
        lanes = await served.lanes(count)
        for lane in lanes:
            stack.callback(lane.close)
            await lane.ask(post(_USUAL, b"{}"))
        return lanes

    async def _under_load(self, lanes: Sequence[list[Lane]]) -> list[Row]:
        cycles = []
        async with Steady(lanes, self.plan.rate, lambda: self._random.choice(self._subjects)) as steady:
            for number, kind in enumerate(islice(cycle(Kind), self.plan.cycles)):
                cycles += [await self._cycle(number, kind)]
                steady.check()
            await asyncio.sleep(_REST_S)
            await steady.settle()
        for each in cycles:
            self._judge(each, steady.calls)
        unexpected = self._unexpected(cycles, steady.calls)
        return self._rows(cycles, steady, unexpected)

    async def _cycle(self, number: int, kind: Kind) -> Cycle:
        await asyncio.sleep(_REST_S)
        before = [_changes(served) for served in self._served]
        await (self._redis.freeze() if kind is Kind.FROZEN else self._redis.kill())
        begin_s = time.perf_counter()
        self._subjects = [client_ip(mode, number, 0) for mode in MODES]
        if kind is not Kind.RESTARTED:
            await asyncio.sleep(self.plan.outage_s)
        end_s = time.perf_counter()
        await self._return(kind)
        back_s = time.perf_counter()
        self._subjects = (_USUAL,)
        await asyncio.sleep(max(0.0, back_s + BACK_S - time.perf_counter()))
        for mode in MODES:
            name = f"{mode}-{number}"
            outcome, arrived = await volley(
                self._volley, self._ledger, client_ip(mode, number, 1), name, CALLS * LIMIT, self._random
            )
            wrong = faults(LIMIT, CALLS * LIMIT, outcome, arrived)
            self._seen.inexact += [f"{name}, after {kind.value}: {fault}" for fault in wrong]
        self._count_lines(number, kind, before)
        return Cycle(number, kind, begin_s, end_s, back_s)

    async def _return(self, kind: Kind) -> None:
        if kind is Kind.FROZEN:
            self._redis.thaw()
        else:
            await self._redis.start()

    def _count_lines(self, number: int, kind: Kind, before: Sequence[Sequence[str]]) -> None:
        """Each worker says that Redis is gone, and that it is back; after a short outage it may not have noticed."""
        most = 2 * self.plan.workers
        for served, then in zip(self._served, before, strict=True):
            lines = _changes(served)[len(then) :]
            self._seen.changes += len(lines)
            if len(lines) > most or len(lines) % 2 or (len(lines) < most and kind is not Kind.RESTARTED):
                texts = " | ".join(line[:160] for line in lines)
                self._seen.wrong_lines.append(
                    f"cycle {number}, {kind.value}, {served.host.address}: {len(lines)} lines: {texts}"
                )

    def _judge(self, cycle: Cycle, calls: Sequence[Call]) -> None:
        """What was decided while Redis was away."""
        seen = self._seen
        hosts: Counter[int] = Counter()
        back_s = 0.0
        for call in calls:
            if call.took_s is None:
                continue
            if cycle.begin_s <= call.sent_s < cycle.back_s:
                seen.outage_s.append(call.took_s)
            elif call.is_unavailable and cycle.back_s <= call.sent_s < cycle.back_s + BACK_S:
                back_s = max(back_s, call.sent_s + call.took_s - cycle.back_s)
            mode = MODE_OF.get(call.subject.rsplit(".", 2)[0])
            if mode is None or not call.is_within(cycle.begin_s, cycle.end_s):
                continue
            seen.asked[mode] += 1
            seen.admitted[mode] += call.status == ADMITTED
            hosts[call.host] += call.status == ADMITTED and mode == "local"
            if call.status not in ANSWERS[mode]:
                seen.beyond[mode].append(f"cycle {cycle.number}, {cycle.kind.value}: {call}")
        seen.back_s.append(back_s)
        if cycle.kind is not Kind.RESTARTED and any(hosts[host] != SHARE for host in range(HOSTS)):
            seen.beyond["local"].append(f"cycle {cycle.number}, {cycle.kind.value}: {dict(hosts)} admitted by host")

    def _unexpected(self, cycles: Sequence[Cycle], calls: Sequence[Call]) -> list[str]:
        """Calls without an answer, with one nobody should get, or that the upstream has otherwise than the client."""
        found = []
        for call in calls:
            if call.took_s is not None and any(each.is_before(call.sent_s) for each in cycles):
                self._seen.normal_s.append(call.took_s)
            is_away = any(each.is_near(call.sent_s) for each in cycles)
            if call.status not in (ADMITTED, REFUSED) and not (is_away and call.is_unavailable):
                found.append(f"{call}")
        arrived = self._ledger.take(b'{"steady": "s')
        if arrived != Counter(call.body for call in calls if call.status == ADMITTED):
            found.append(f"{arrived.total()} calls at the upstream are not those that were let through")
        return found

    def _rows(self, cycles: Sequence[Cycle], steady: Steady, unexpected: Sequence[str]) -> list[Row]:
        seen, plan = self._seen, self.plan
        usual_s = percentile(seen.normal_s, 0.99)
        worst_s = max(seen.outage_s, default=float("nan"))
        kinds = Counter(cycle.kind.value for cycle in cycles)
        many = f"{len(cycles)} cycles: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        late = sum(took_s > DECISION_S for took_s in seen.outage_s)
        back_s = max(seen.back_s)
        return [
            Row(
                self.name,
                f"decision <= {ms(DECISION_S)} (+ {ms(plan.grace_s)} of timers) over the usual p99",
                f"max {ms(worst_s - usual_s)} over it: {_spread(seen.outage_s)}, {late} over {ms(DECISION_S)}",
                f"{len(seen.outage_s)} decisions; usual {_spread(seen.normal_s)}",
                worst_s - usual_s <= DECISION_S + plan.grace_s,
            ),
            *(self._mode(mode) for mode in MODES),
            Row(
                self.name,
                f"asked again <= {BACK_S:g} s after its return",
                f"at most {back_s:.2f} s, p50 {percentile(seen.back_s, 0.5):.2f} s",
                many,
                back_s <= BACK_S,
            ),
            Row(
                self.name,
                f"{BACK_S:g} s after its return of {CALLS * LIMIT} calls {LIMIT} admitted",
                f"{len(seen.inexact)} faults",
                f"{len(cycles) * len(MODES)} volleys to {HOSTS} hosts",
                not seen.inexact,
                tuple(seen.inexact[:MOST_EVIDENCE]),
            ),
            Row(
                self.name,
                "0 calls lost, each with a proper answer",
                f"{len(unexpected)} faults",
                f"{len(steady.calls)} calls, {plan.rate:g} a second, {steady.short_of_lanes} had to wait their turn",
                not unexpected and not steady.short_of_lanes,
                tuple(unexpected[:MOST_EVIDENCE]),
            ),
            Row(
                self.name,
                "one line in the log for each change",
                f"{len(seen.wrong_lines)} faults",
                f"{seen.changes} lines of {HOSTS * plan.workers} workers",
                not seen.wrong_lines and seen.changes > 0,
                tuple(seen.wrong_lines[:MOST_EVIDENCE]),
            ),
        ]

    def _mode(self, mode: str) -> Row:
        seen = self._seen
        promise = {"deny": "0 admitted", "local": f"{SHARE} admitted by each host", "allow": "all admitted"}[mode]
        return Row(
            self.name,
            f"while it is away, {mode}: {promise}",
            f"{seen.admitted[mode]} of {seen.asked[mode]}, {len(seen.beyond[mode])} faults",
            f"L = {LIMIT}, {HOSTS} hosts",
            not seen.beyond[mode] and seen.asked[mode] > 0,
            tuple(seen.beyond[mode][:MOST_EVIDENCE]),
        )


ANSWERS = {"deny": {UNAVAILABLE}, "local": {ADMITTED, REFUSED}, "allow": {ADMITTED}}
"""What a decision without Redis may be."""
MODE_OF = {f"10.{20 + place}": mode for place, mode in enumerate(MODES)}
_NETWORKS = {mode: network for network, mode in MODE_OF.items()}


def client_ip(mode: str, cycle: int, use: int) -> str:
    """A client that nobody has seen before: of a cycle, once for its outage and once for what follows."""
    return f"{_NETWORKS[mode]}.{use * 128 + (cycle >> 8)}.{cycle & 255}"


def _rule(mode: str) -> dict[str, object]:
    return {"on_store_error": mode, "overrides": {f"{_NETWORKS[mode]}.0.0/16": {"day": LIMIT}}}


RULES: dict[str, object] = {
    "algorithm": "gcra",
    "burst": 1_000_000,
    "overrides": {f"{_USUAL}/32": {"minute": 100_000_000}},
    "limits": {f"when_{mode}": _rule(mode) for mode in MODES},
}


def _spread(took_s: Sequence[float]) -> str:
    shares = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return ", ".join(f"{name} {ms(percentile(took_s, share))}" for name, share in shares.items())


def _changes(served: Served) -> list[str]:
    """What a gateway has said of its store."""
    return _CHANGE.findall(served.said())
