"""G13: what limits cost: time for a decision, memory for a subject, CPU for a request, let through or refused."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import repeat
from statistics import median
from typing import Any, ClassVar, cast

from bench.request import ANSWER, JSON_TARGET, request
from soak import kernel
from soak.drive import AT_ONCE, drive
from soak.figure import Figure, Row, Size, mib, ms
from soak.hosts import Network
from soak.lane import Lane
from soak.ledger import Ledger, answer
from soak.process import module
from soak.redis_server import RedisServer
from soak.served import Served, limited
from soak.volley import ADMITTED, REFUSED

MEMORY_P99_S = 30e-6
REDIS_P99_S = 1e-3
RATE = 5000
MIB = 1 << 20
MANY = 1_000_000
KEYS = (("memory", "sliding", 300 * MIB), ("shared", "gcra", 160 * MIB))
"""What a million subjects that are seen once may take."""
KEPT = 200_000
"""The default of ``max_subjects``."""
CAPS = (("memory", KEPT, 0, 80 * MIB), ("shared", 100 * MANY, 64 * MIB, 96 * MIB))
"""Store, ``max_subjects``, ``max_bytes``, and what the flood may take of the process and the table together."""
_BESIDE = 65_536
"""Bytes of the files beside the table, such as lmdb's of its readers."""
SHARED_S = 6e-6
DENIAL_SHARE = 0.6
DENIAL_S = 150e-6
_SUBJECTS = 1000
_CLIENTS = [f"127.10.{number >> 8}.{number & 255}" for number in range(1, 501)]
"""Each has a lane of its own, and comes some 200 times: an account is as large as its requests are many."""
_REFUSED = "127.11.0.1"
_TASK_S = 1200.0
RULES: dict[str, object] = {
    "hour": 10_000,
    "minute": 10_000,
    "second": 10_000,
    "overrides": {f"{_REFUSED}/32": {"hour": 1}},
}
"""Out of reach for each of the clients, but for one."""
REQUEST = request(JSON_TARGET, "gateway.test")


@dataclass(frozen=True)
class Plan:
    """How much of each. ``slack``: what goals of time may be exceeded by where other work shares the processors.

    Of fewer than a million subjects, each may take its share, and the process ``spare_bytes`` beside them.
    """

    decisions: int
    seconds: float
    subjects: int
    spare_bytes: int
    flood: int
    kept: int
    rounds: int
    requests: int
    slack: float


@dataclass
class Spent:
    """CPU seconds of a worker for each request, by round."""

    forwarded_s: list[float] = field(default_factory=list)
    refused_s: list[float] = field(default_factory=list)


class Limiter(Figure[Plan]):
    """Decisions, subjects and the cap in processes of their own; requests through the whole gateway."""

    name = "G13"
    about = "what limits cost in time, memory and CPU"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(1_000_000, 20.0, MANY, 0, 10_000_000, KEPT, 81, 1_200, 1.0),
        "quick": Plan(200_000, 3.0, MANY // 4, 24 * MIB, 2_000_000, KEPT, 31, 800, 1.0),
        "test": Plan(20_000, 0.3, 20_000, 24 * MIB, 40_000, 8_000, 3, 300, 20.0),
    }

    async def run(self) -> list[Row]:
        """All of them, one after the other where time is measured; memory does not mind company."""
        rows: list[Row] = []
        for measure in (self._decisions, self._redis, self._keys, self._caps, self._requests):
            for row in await measure():
                self.say(f"  {row.goal}: {row.measured}")
                rows.append(row)
        return rows

    async def _decisions(self) -> list[Row]:
        found = await _task("decisions", count=self.plan.decisions, subjects=_SUBJECTS)
        goal_s = MEMORY_P99_S * self.plan.slack
        return [
            Row(
                self.name,
                f"a decision in memory, three windows: p99 <= {us(goal_s)}",
                f"p50 {us(found['p50_s'])}, p99 {us(found['p99_s'])}",
                f"{self.plan.decisions} decisions",
                found["p99_s"] <= goal_s and found["admitted"] == self.plan.decisions,
            )
        ]

    async def _redis(self) -> list[Row]:
        async with RedisServer() as redis:
            found = await _task("asked", url=redis.url, rate=RATE, seconds=self.plan.seconds, subjects=_SUBJECTS)
        goal_s = REDIS_P99_S * self.plan.slack
        return [
            Row(
                self.name,
                f"a decision in Redis at {RATE} a second: p99 <= {ms(goal_s)}",
                f"p50 {found['p50_s'] * 1e3:.2f} ms, p99 {found['p99_s'] * 1e3:.2f} ms",
                f"{found['decisions']:.0f} decisions, {found['per_second']:.0f} a second",
                found["p99_s"] <= goal_s,
            ),
            Row(
                self.name,
                "one round trip for all limits of a request",
                f"{found['round_trips']:g}",
                "by MONITOR",
                found["round_trips"] == 1,
            ),
        ]

    async def _keys(self) -> list[Row]:
        return await asyncio.gather(*(self._keys_in(*each) for each in KEYS))

    async def _keys_in(self, store: str, algorithm: str, for_many: int) -> Row:
        many = self.plan.subjects
        found = await _task("keys", store=store, algorithm=algorithm, subjects=many)
        goal = for_many * many // MANY + self.plan.spare_bytes
        table = f"{mib(found['table_bytes'])} of it in the table, " if store == "shared" else ""
        return Row(
            self.name,
            f"{many} subjects seen once, {algorithm} in {store}: <= {mib(goal)}",
            mib(found["bytes"]),
            f"{table}{found['bytes'] / many:.0f} bytes each, three windows",
            found["bytes"] <= goal and found["subjects"] == many,
        )

    async def _caps(self) -> list[Row]:
        both = await asyncio.gather(*(self._cap_of(*each) for each in CAPS))
        return [row for rows in both for row in rows]

    async def _cap_of(self, store: str, most: int, max_bytes: int, goal: int) -> list[Row]:
        plan = self.plan
        kept = most if max_bytes else plan.kept
        # The table of a small flood is small as well, or it would never be full.
        size = max_bytes * plan.kept // KEPT
        found = await _task("cap", store=store, subjects=plan.flood, max_subjects=kept, max_bytes=size)
        holds = found["bytes"] <= goal and (not size or found["table_bytes"] <= size + _BESIDE)
        room = f"max_bytes {mib(size)}" if size else f"max_subjects {kept}"
        is_full = found["kept"] < plan.flood
        return [
            Row(
                self.name,
                f"{plan.flood} keys made up, {store}, {room}: <= {mib(goal)}",
                mib(found["bytes"]),
                f"{found['kept']:.0f} subjects kept apart, {us(found['each_s'])} each",
                holds and is_full,
            ),
            Row(
                self.name,
                f"the same, {store}: no account in use is lost, one bucket for the rest",
                f"{found['lost']:.0f} lost, {found['admitted']:.0f} of {found['expected']:.0f} admitted",
                "1000 subjects in use",
                not found["lost"] and found["admitted"] == found["expected"] and is_full,
            ),
        ]

    async def _requests(self) -> list[Row]:
        """Two gateways of one worker take turns, short ones: what slows one of them down slows the other as well."""
        spent = {"memory": Spent(), "shared": Spent()}
        upstream = 0
        kernel.raise_fd_limit()
        with Network([0] * len(spent), apart=False) as network:
            ledger = Ledger(answer(ANSWER))
            await ledger.start(network.hub)
            async with AsyncExitStack() as stack:
                stack.push_async_callback(ledger.stop)
                gateways = []
                for store, host in zip(spent, network.hosts, strict=True):
                    settings = limited((network.hub, ledger.port), network.hub, store, RULES)
                    served = await stack.enter_async_context(Served(host, settings, 1))
                    let_in = await served.lanes(len(_CLIENTS), _CLIENTS)
                    refused = await served.lanes(AT_ONCE, [_REFUSED])
                    for lane in (*let_in, *refused):
                        stack.callback(lane.close)
                    await refused[0].ask(REQUEST)
                    gateways.append((spent[store], served, let_in, refused))
                for number in range(self.plan.rounds + 1):
                    for costs, served, let_in, refused in gateways:
                        forwarded_s = await self._spent(served, let_in, ADMITTED)
                        before = ledger.requests + ledger.connections
                        refused_s = await self._spent(served, refused, REFUSED)
                        upstream += ledger.requests + ledger.connections - before
                        if number:  # the first round warms up
                            costs.forwarded_s.append(forwarded_s)
                            costs.refused_s.append(refused_s)
        return self._costs(spent["memory"], spent["shared"], upstream)

    async def _spent(self, served: Served, lanes: Sequence[Lane], status: int) -> float:
        """CPU seconds of the worker for each request."""
        count = self.plan.requests
        before = served.worker_cpu_s()
        statuses = await drive(lanes, repeat(REQUEST, count))
        after = served.worker_cpu_s()
        if statuses[status] != count or before.keys() != after.keys():
            raise RuntimeError(f"{count} requests to be answered {status}: {dict(statuses)}\n{served.said()[-2000:]}")
        return (sum(after.values()) - sum(before.values())) / count

    def _costs(self, memory: Spent, shared: Spent, upstream: int) -> list[Row]:
        plan = self.plan
        more_s = median(s - m for s, m in zip(shared.forwarded_s, memory.forwarded_s, strict=True))
        rounds = f"{plan.rounds} rounds of {plan.requests} in turns, one worker each, no access log"
        both = f"{us(median(shared.forwarded_s))} against {us(median(memory.forwarded_s))}"
        goal_s = SHARED_S * plan.slack
        rows = [
            Row(
                self.name,
                f"shared adds <= {us(goal_s)} CPU to a request over memory",
                us(more_s),
                f"{both}, {rounds}",
                more_s <= goal_s,
            )
        ]
        # Of few requests on a crowded machine both sides vary.
        most = DENIAL_SHARE if plan.slack == 1 else 1.5
        for store, spent in (("memory", memory), ("shared", shared)):
            forwarded_s, refused_s = median(spent.forwarded_s), median(spent.refused_s)
            rows.append(
                Row(
                    self.name,
                    f"a refusal, {store}: <= {most} x the CPU of a request, <= {us(DENIAL_S * plan.slack)}",
                    f"{refused_s / forwarded_s:.2f} x, {us(refused_s)}",
                    f"against {us(forwarded_s)}",
                    refused_s <= most * forwarded_s and refused_s <= DENIAL_S * plan.slack,
                )
            )
        goal = "a refusal opens no connection and sends nothing upstream"
        refusals = f"{2 * (plan.rounds + 1) * plan.requests} refusals"
        return [*rows, Row(self.name, goal, f"{upstream} of both", refusals, not upstream)]


def us(seconds: float) -> str:
    """Seconds as microseconds."""
    return f"{seconds * 1e6:.1f} µs"


async def _task(name: str, **arguments: object) -> dict[str, float]:
    """A task of `soak.limiter`. Raises RuntimeError if it fails."""
    process = module("soak.limiter", name, json.dumps(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    try:
        out, _ = await asyncio.to_thread(process.communicate, timeout=_TASK_S)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        raise RuntimeError(f"the task {name} has failed")
    return cast(dict[str, Any], json.loads(out))
