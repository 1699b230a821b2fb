"""The limiter by itself, in a process of its own: ``python -m soak.limiter TASK ARGUMENTS``.

TASK is the name of one of the functions below, ARGUMENTS its arguments as JSON; the result is printed as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import uvloop

from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, Claim, Decision, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.gateway.worker import calm_collector
from proxy.limits.address import parse_store
from proxy.limits.instance import open_instance
from proxy.limits.memory import MemoryStore
from proxy.limits.redis import RedisStore
from proxy.limits.shared import SharedStore
from proxy.limits.store import LimitStore
from proxy.stages import Services
from proxy.stages.limit import Limit, LimitConfig
from soak.figure import percentile
from tests.support.exchange import make_exchange

WINDOWS = (Window("second", 50, 1), Window("minute", 500, 60), Window("hour", 5000, 3600))
"""The three windows that most operators set."""
FLOOD_LIMIT = 30
ACTIVE = 1000
"""Subjects in use while the flood comes: half of them have spent their limit, half a third of it."""
_SPENT = (FLOOD_LIMIT, FLOOD_LIMIT // 3)
_EACH = 10_000
_MAX_BYTES = 256 * 2**20
_ALGORITHMS: Mapping[str, Algorithm] = {"sliding": SLIDING, "gcra": GCRA}


def subject(number: int) -> str:
    """A client as limits call it: every second one by its IPv4 address, the others by their IPv6 network."""
    if number % 2:
        return f"{10 + (number >> 24)}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    return f"2001:db8:{0x1000 + (number >> 16):x}:{number & 0xFFFF:x}::/64"


class Held:
    """What this process holds for limits: memory of its own, and the pages of the table it shares."""

    def __init__(self, table: Path | None) -> None:
        self._table = table
        gc.collect()
        self._before = _own_bytes()

    def bytes(self) -> int:
        """How much more than at first."""
        return _own_bytes() - self._before + self.table_bytes()

    def table_bytes(self) -> int:
        """The blocks of the table's files."""
        return 0 if self._table is None else sum(file.stat().st_blocks * 512 for file in self._table.iterdir())


def _own_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not say what this process holds")


@contextmanager
def _opened(store: str, max_bytes: int) -> Iterator[tuple[Callable[[Claim], Decision], LimitStore, Held]]:
    """Asks a store for a decision on one claim; both kinds answer at once."""
    if store == "memory":
        memory = MemoryStore(time.monotonic)
        yield lambda claim: memory.acquire((claim,)), memory, Held(None)
        return
    instance = open_instance()
    try:
        shared = SharedStore(instance.path, time.monotonic, max_bytes=max_bytes)
        yield lambda claim: shared.acquire((claim,)), shared, Held(instance.path)
        asyncio.run(shared.close())
    finally:
        instance.close()


def keys(store: str, algorithm: str, subjects: int) -> dict[str, float]:
    """What so many subjects take that are seen once each."""
    rule = Rule("limit", WINDOWS, _ALGORITHMS[algorithm], max_subjects=subjects)
    with _opened(store, _MAX_BYTES) as (ask, opened, held):
        for number in range(subjects):
            ask(Claim(rule, subject(number)))
        kept = len(cast(Sequence[object], opened))
        return {"bytes": held.bytes(), "table_bytes": held.table_bytes(), "subjects": kept}


def cap(store: str, subjects: int, max_subjects: int, max_bytes: int) -> dict[str, float]:
    """A flood of so many subjects, seen once each, beside some that are in use, on a store with less room than that.

    ``lost`` counts decisions on those in use that were not what their accounts say; ``expected`` is how many of the
    flood are to be admitted: one for each subject with an account of its own, and what all the others share.
    """
    rule = Rule("limit", (Window("hour", FLOOD_LIMIT, 3600),), SLIDING, max_subjects=max_subjects)
    active = [Claim(rule, f"active {number}") for number in range(ACTIVE)]
    most = lost = admitted = 0
    with _opened(store, max_bytes) as (ask, opened, held):
        for number, claim in enumerate(active):
            lost += sum(not ask(claim).allowed for _ in range(_SPENT[number % 2]))
        begun = time.perf_counter()
        for number in range(subjects):
            admitted += ask(Claim(rule, subject(number))).allowed
            if number % _EACH == 0:
                most = max(most, held.bytes())
                # Who has spent his limit is refused; asking costs him nothing.
                lost += sum(ask(claim).allowed for claim in active[number // _EACH * 2 % ACTIVE :: ACTIVE // 4][:4:2])
        took_s = time.perf_counter() - begun
        for number, claim in enumerate(active):
            left = FLOOD_LIMIT - _SPENT[number % 2]
            lost += sum(ask(claim).allowed for _ in range(FLOOD_LIMIT + 1)) != left
        kept = len(cast(Sequence[object], opened))
        return {
            "bytes": max(most, held.bytes()),
            "table_bytes": held.table_bytes(),
            "kept": kept,
            "lost": lost,
            "admitted": admitted,
            "expected": kept - ACTIVE + FLOOD_LIMIT,
            "each_s": took_s / subjects,
        }


def decisions(count: int, subjects: int) -> dict[str, float]:
    """How long the stage takes for one decision in memory, claims included."""
    services = Services(clock=time.monotonic, store=MemoryStore(time.monotonic), hop_id=b"soak")
    limit = Limit("limit", LimitConfig(second=5000, minute=5000, hour=5000), services)
    exchanges = [make_exchange(client_ip=subject(2 * number + 1)) for number in range(subjects)]
    calm_collector()
    took_s = []
    admitted = 0
    for number in range(count):
        exchange = exchanges[number % subjects]
        begun = time.perf_counter_ns()
        reply = limit.on_request_headers(exchange)
        took_s.append((time.perf_counter_ns() - begun) / 1e9)
        admitted += reply is None
    return {"p50_s": percentile(took_s, 0.5), "p99_s": percentile(took_s, 0.99), "admitted": admitted}


def asked(url: str, rate: int, seconds: float, subjects: int) -> dict[str, float]:
    """How long decisions take in Redis, asked for at a rate whatever the answers; and what goes over the wire."""
    return uvloop.run(_asked(url, rate, seconds, subjects))


async def _asked(url: str, rate: int, seconds: float, subjects: int) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    store = RedisStore(parse_store(url), timeout_s=5.0)
    rule = Rule("limit", tuple(Window(name, 5000, length) for name, _, length in WINDOWS), SLIDING)
    claims = [(Claim(rule, subject(number)),) for number in range(subjects)]
    took_s: list[float] = []

    async def one(due_s: float, number: int) -> None:
        await store.acquire(claims[number % subjects])
        took_s.append(time.perf_counter() - due_s)

    for number in range(rate // 10):
        await one(0.0, number)
    took_s.clear()
    calm_collector()
    tasks = set()
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        due_s = begun + number / rate
        while time.perf_counter() < due_s:  # noqa: ASYNC110 - a timer would be a millisecond late
            await asyncio.sleep(0)
        task = loop.create_task(one(due_s, number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    per_second = len(took_s) / (time.perf_counter() - begun)
    trips = await _round_trips(url, lambda: store.acquire(claims[0]))
    await store.close()
    return {
        "p50_s": percentile(took_s, 0.5),
        "p99_s": percentile(took_s, 0.99),
        "decisions": len(took_s),
        "per_second": per_second,
        "round_trips": trips,
    }


async def _round_trips(url: str, ask: Callable[[], Any], decisions: int = 100) -> float:
    """Commands that reach the server for each decision, by its own account; what a script does there is none."""
    host, port = parse_store(url).hosts[0]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"MONITOR\r\n")
    await reader.readline()
    for _ in range(decisions):
        await ask()
    lines = b""
    try:
        while True:
            async with asyncio.timeout(0.3):
                lines += await reader.read(1 << 20)
    except TimeoutError:
        writer.close()
    heard = [line for line in lines.splitlines() if line.startswith(b"+") and b" lua] " not in line]
    return len(heard) / decisions


TASKS: Mapping[str, Callable[..., dict[str, float]]] = {task.__name__: task for task in (keys, cap, decisions, asked)}


def main(argv: Sequence[str]) -> int:
    """One task."""
    print(json.dumps(TASKS[argv[0]](**json.loads(argv[1]))))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
