"""G2: a limit of L admits L of ten times as many calls released together, whatever workers and hosts they reach."""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import ClassVar

from soak import kernel
from soak.figure import Figure, Row, Size
from soak.hosts import Network
from soak.lane import Lane, post
from soak.ledger import Ledger
from soak.redis_server import RedisServer
from soak.served import Served, limited
from soak.volley import ADMITTED, REFUSED, faults, volley
from tests.support.process import run

LIMITS = (1, 30, 1000)
CALLS = 10
"""For each unit of the limit."""
ALGORITHMS = ("sliding", "gcra")
SKEWS_S = (-30, 0, 30)
MOST_EVIDENCE = 3
CLOCK_GRACE_S = 5.0
EX_CONFIG = 78
"""Exit status for a bad configuration (<sysexits.h>)."""
_REFUSAL_S = 10.0
_DATE = re.compile(rb"\r\nDate: ([^\r]+)\r\n")


@dataclass(frozen=True)
class Plan:
    """``seeds`` for each limit, algorithm and store; ``lanes`` to each host."""

    seeds: Mapping[int, int]
    workers: int
    lanes: int


@dataclass(frozen=True)
class Case:
    """What is measured at a time."""

    store: str
    algorithm: str
    limit: int
    hosts: int


class Exact(Figure[Plan]):
    """First on three hosts that share a Redis, then on one host whose workers share a table."""

    name = "G2"
    about = "a limit of L admits L, over all workers and hosts"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(dict.fromkeys(LIMITS, 200), 4, 80),
        "quick": Plan({1: 50, 30: 20, 1000: 3}, 4, 80),
        "test": Plan({1: 10, 30: 4}, 2, 24),
    }

    async def run(self) -> list[Row]:
        """Both."""
        kernel.raise_fd_limit()
        rows = []
        with Network(SKEWS_S) as network:
            self.say(f"  redis: {network.description}, {self.plan.workers} workers each")
            async with RedisServer(network.hub) as redis, self._gateways(network, redis.url) as (lanes, ledger):
                rows += await self._measure(lanes, ledger, "redis", network)
        with Network((0,)) as network:
            async with self._gateways(network, "shared") as (lanes, ledger):
                rows += await self._measure(lanes, ledger, "shared", network)
        return [*rows, await asyncio.to_thread(self._apart)]

    def _apart(self) -> Row:
        """Workers that would count each by itself do not come to that."""
        workers = str(self.plan.workers)
        try:
            ended = run(
                "serve", SLUICE__WORKERS=workers, SLUICE__LIMITS__STORE="memory", PORT="0", timeout_s=_REFUSAL_S
            )
            said, status = ended.stderr.strip(), ended.returncode
        except subprocess.TimeoutExpired:
            said, status = "it serves", 0
        goal = "several workers with the store memory: refused at start"
        return Row(self.name, goal, f"exit status {status}", f"{workers} workers", status == EX_CONFIG, (said,))

    @asynccontextmanager
    async def _gateways(self, network: Network, store: str) -> AsyncIterator[tuple[list[Lane], Ledger]]:
        """Lanes to every host, all of whose workers answer."""
        ledger = Ledger()
        await ledger.start(network.hub)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(ledger.stop)
            # Twelve workers share a few cores here: how soon Redis answers is for G12 and G13 to say.
            settings = limited((network.hub, ledger.port), network.hub, store, LIMIT, limits={"timeout_s": 10.0})
            served = [Served(host, settings, self.plan.workers) for host in network.hosts]
            await asyncio.gather(*map(stack.enter_async_context, served))
            lanes = [lane for each in served for lane in await each.lanes(self.plan.lanes)]
            for lane in lanes:
                stack.callback(lane.close)
            await asyncio.gather(*(lane.ask(_NOTHING) for lane in lanes))
            await _check_clocks(served)
            before = [each.worker_cpu_s() for each in served]
            yield lanes, ledger
            _check_workers(served, before)

    async def _measure(self, lanes: Sequence[Lane], ledger: Ledger, store: str, network: Network) -> list[Row]:
        rows = []
        for algorithm in ALGORITHMS:
            for limit in self.plan.seeds:
                rows.append(await self._row(lanes, ledger, Case(store, algorithm, limit, len(network.hosts))))
                self.say(f"  {rows[-1].goal}: {rows[-1].measured}, {rows[-1].counts}")
        return rows

    async def _row(self, lanes: Sequence[Lane], ledger: Ledger, case: Case) -> Row:
        limit, calls = case.limit, CALLS * case.limit
        seeds = self.plan.seeds[limit]
        started = time.perf_counter()
        wrong: list[str] = []
        admitted = over = under = 0
        for number in range(seeds):
            choose = random.Random(f"{self.seed} {case} {number}")
            name = f"{case.algorithm}-{limit}-{number}"
            client = client_ip(case.algorithm, limit, number)
            outcome, arrived = await volley(lanes, ledger, client, name, calls, choose)
            let_in = outcome.statuses[ADMITTED]
            admitted += let_in
            over += max(let_in - limit, 0)
            under += max(limit - let_in, 0)
            wrong += [f"seed {number}: {fault}" for fault in faults(limit, calls, outcome, arrived)]
        workers = case.hosts * self.plan.workers
        took = f"{seeds} seeds x {calls} calls, {workers} workers, {len(lanes)} connections"
        return Row(
            self.name,
            f"{case.store}, {case.algorithm}: of {calls} calls {limit} admitted, and the same at the upstream",
            f"{admitted} of {seeds * limit}, {over} over, {under} under",
            f"{took}, {time.perf_counter() - started:.0f} s",
            not wrong,
            tuple(wrong[:MOST_EVIDENCE]),
        )


def _rule(algorithm: str) -> dict[str, object]:
    """Numbers for the networks of this algorithm only. A day is so long that no unit comes back meanwhile."""
    overrides = {f"{_network(algorithm, limit)}.0.0/16": {"day": limit} for limit in LIMITS}
    # All of gcra's units may be taken at once: it promises the same number then.
    burst = {"burst": max(LIMITS)} if algorithm == "gcra" else {}
    return {"algorithm": algorithm, **burst, "overrides": overrides}


def _network(algorithm: str, limit: int) -> str:
    return f"10.{10 * (1 + ALGORITHMS.index(algorithm)) + LIMITS.index(limit)}"


def client_ip(algorithm: str, limit: int, number: int) -> str:
    """The client of a seed: nobody has seen it before."""
    return f"{_network(algorithm, limit)}.{number >> 8}.{number & 255}"


LIMIT: dict[str, object] = {**_rule("sliding"), "limits": {"smooth": _rule("gcra")}}
_NOTHING = post("192.0.2.1", b"{}")
_NOBODY = 65_535
"""The number of no seed."""


async def _check_clocks(served: Sequence[Served]) -> None:
    """That each host's clock is as wrong as it should be, by the ``Date`` of a refusal. Raises RuntimeError."""
    for number, each in enumerate(served):
        (lane,) = await each.lanes(1)
        question = post(client_ip("sliding", 1, _NOBODY - number), b"{}")
        await lane.ask(question)
        status, answer = await lane.ask(question)
        lane.close()
        found = _DATE.search(answer)
        if status != REFUSED or found is None:
            raise RuntimeError(f"this should be a refusal with a date: {answer!r}")
        skew_s = parsedate_to_datetime(found[1].decode()).timestamp() - time.time()
        if abs(skew_s - each.host.skew_s) > CLOCK_GRACE_S:
            raise RuntimeError(f"the clock of {each.host} is {skew_s:+.0f} s wrong")


def _check_workers(served: Sequence[Served], before: Sequence[Mapping[int, float]]) -> None:
    """That every worker had a part in it, and none ended. Raises RuntimeError."""
    for each, then in zip(served, before, strict=True):
        now = each.worker_cpu_s()
        idle = [pid for pid in then if now.get(pid, 0.0) <= then[pid]]
        if now.keys() != then.keys() or idle:
            raise RuntimeError(f"workers {sorted(then)}, later {sorted(now)}; without work {idle}\n{each.said()}")
