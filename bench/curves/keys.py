"""More limited keys: the cost of a request, and of its decision alone, by how many keys were counted before it.

The table of the ``shared`` store is filled while its gateway runs: the bench opens it as another worker would, and
admits a request of each key through the store's own `acquire`. The accounts of ``memory`` live in the gateway's
process alone, which only requests could fill, a million of them; so of ``memory`` the decisions are measured, in
this process, and beside them those of ``shared`` on the gateways' own tables.

A key is a client's address here, told by a trusted proxy. Each request is one of a random key.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from itertools import pairwise

from bench.curves.gateway import EVENLY, Config, Place, config, gateways
from bench.curves.load import Requests, post
from bench.curves.sampling import Plan, Series, asking, sample
from bench.curves.verdict import Curve, Point
from bench.process import pinned
from bench.request import QUESTION
from proxy.core.rate import Claim, Rule
from proxy.limits.memory import MemoryStore
from proxy.limits.shared import SharedStore
from proxy.stages.limit import LimitConfig
from proxy.stages.subjects import Subjects

SIZES = {"sliding": (10_000, 100_000, 1_000_000), "gcra": (1, 1000, 100_000, 1_000_000)}
"""Of `sliding` no fewer: it remembers the time of each request, so a few keys cost what is in their own accounts
after thousands of requests, and say nothing about how many keys there are."""
ROUGH_KEYS = 100_000
"""The most there are in a rough measurement."""
STORE_BYTES = 512 * 1024 * 1024
"""A million accounts are 65 to 100 MB; from seven eighths of the size on, new subjects share one account."""
MAX_SUBJECTS = 4_000_000
DECISIONS = 10_000
"""In a round."""
AT_ONCE = 8
"""Keys in one `acquire` when a table is filled: a third quicker than one by one."""

_NOTE = "Larger tables are deeper and leave the processor's caches; what it does to a request is what counts."

Store = MemoryStore | SharedStore


def limit(algorithm: str) -> dict[str, object]:
    """Three windows that nobody here fills, for more keys than there are."""
    sliding = {"algorithm": "sliding", "second": 10_000, "minute": 10_000, "hour": 10_000}
    return {**(EVENLY if algorithm == "gcra" else sliding), "by": "client_ip", "max_subjects": MAX_SUBJECTS}


def settings(algorithm: str, upstream_port: int) -> Config:
    """A gateway with room for a million keys, which believes its peers about who they speak for."""
    return config(
        upstream_port,
        ip_allowlist={"allow": ["10.0.0.0/8", "127.0.0.0/8"]},
        limit=limit(algorithm),
        limits={"store": "shared", "max_bytes": STORE_BYTES},
        trusted_proxies=["127.0.0.0/8"],
    )


def rule(algorithm: str) -> Rule:
    """The rule by which the stage ``limit`` of `settings` counts."""
    (found,) = Subjects("limit", LimitConfig.model_validate(limit(algorithm))).rules
    return found


def subject(number: int) -> str:
    """One client address for each number, scattered over 10.0.0.0/8.

    A table has its keys in order, and clients do not come in it.
    """
    # An odd factor visits every number below 2^24 once.
    place = number * 0x9E3779 + 1 & 0xFFFFFF
    return f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}"


def admit(store: Store, of: Rule, numbers: range) -> None:
    """Count one request of each subject. Raises RuntimeError if one is refused, or finds no room."""
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        some = numbers[start - numbers.start : start - numbers.start + AT_ONCE]
        decision = store.acquire(tuple([Claim(of, subject(number)) for number in some]))
        if not decision.allowed or decision.overflow:
            raise RuntimeError(f"no room for key {start:,} in {store!r}")


def requests(count: int) -> Requests:
    """Requests of the first so many keys, each as likely as any other."""
    chance = random.Random(count)
    before, after = post(QUESTION, "X-Forwarded-For: 0.0.0.0").split(b"0.0.0.0")
    return lambda: b"%b%b%b" % (before, subject(chance.randrange(count)).encode(), after)


def decision(store: Store, of: Rule, count: int, plan: Plan) -> Point:
    """The least cost of one decision on a random one of so many keys. Raises RuntimeError for one that refuses."""
    chance = random.Random(count)
    costs = []
    for _ in range(plan.rounds):
        claims = [(Claim(of, subject(chance.randrange(count))),) for _ in range(DECISIONS)]
        began = time.thread_time()
        allowed = [store.acquire(claim).allowed for claim in claims]
        costs.append((time.thread_time() - began) / DECISIONS * 1e6)
        if not all(allowed):
            raise RuntimeError(f"{store!r} refuses")
    return Point(count, min(costs))


def in_memory(algorithm: str, sizes: Sequence[int], plan: Plan) -> Curve:
    """Decisions of the ``memory`` store, which fills between one size and the next."""
    store, of = MemoryStore(time.monotonic), rule(algorithm)
    points = []
    for filled, count in pairwise((0, *sizes)):
        admit(store, of, range(filled, count))
        points.append(decision(store, of, count, plan))
    return _of_decisions("memory", algorithm, points)


async def shared(place: Place, algorithm: str, sizes: Sequence[int], plan: Plan) -> list[Curve]:
    """Requests of gateways whose shared tables hold so many keys each, and decisions on those tables.

    Raises RuntimeError if a gateway does not count the keys in the accounts that were made for them.
    """
    name, of = f"keys-{algorithm}", rule(algorithm)
    wanted = {f"{name}-{count}": settings(algorithm, place.upstream_port) for count in sizes}
    stores: dict[int, SharedStore] = {}
    series: dict[int, Series] = {}
    with gateways(place, wanted) as started:
        try:
            for count, gateway in zip(sizes, started, strict=True):
                directory = gateway.holds("data.mdb").parent
                stores[count] = SharedStore(directory, time.monotonic, max_bytes=STORE_BYTES)
                admit(stores[count], of, range(count))
                series[count] = asking(gateway.port, requests(count), gateway.cpu_s)
            points = await sample(series, plan)
            for count, store in stores.items():
                if len(store) != count:
                    raise RuntimeError(f"a gateway knows {len(store):,} keys, not the {count:,} it was asked by")
            with pinned(place.cores.gateway):
                decided = [decision(store, of, count, plan) for count, store in stores.items()]
        finally:
            for store in stores.values():
                await store.close()
    curve = Curve(name, f"more keys counted, shared store, {algorithm}", "keys", points, "flat")
    return [curve, _of_decisions("shared", algorithm, decided)]


def _of_decisions(kind: str, algorithm: str, points: Sequence[Point]) -> Curve:
    title = f"more keys counted, decisions of the {kind} store alone, {algorithm}"
    return Curve(f"decisions-{kind}-{algorithm}", title, "keys", tuple(points), unit="decision", note=_NOTE)


async def curves(place: Place, plan: Plan) -> list[Curve]:
    """Every curve of limited keys."""
    found = []
    for algorithm, every in SIZES.items():
        sizes = [size for size in every if not plan.is_rough or size <= ROUGH_KEYS]
        found += await shared(place, algorithm, sizes, plan)
        with pinned(place.cores.gateway):
            found.append(in_memory(algorithm, sizes, plan))
    return found
