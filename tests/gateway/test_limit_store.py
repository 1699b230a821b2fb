"""Which store the settings mean, and what it needs beside it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.core.rate import Claim, Claims, Decision
from proxy.gateway import limit_store
from proxy.gateway.limit_store import SharedLimits, SharedPlace, needs_place, open_place, open_store, wall_clock
from proxy.limits.guarded import GuardedStore
from proxy.limits.memory import MemoryStore
from proxy.limits.outage import OutageStore
from proxy.limits.redis import RedisStore
from proxy.settings import Settings, load
from proxy.stages.limit import LimitConfig

REDIS = "redis://127.0.0.1:1/0"
CLUSTER = "redis+cluster://127.0.0.1:1,127.0.0.1:2"


def settings(
    workers: int = 1, store: str | None = None, limit: dict[str, Any] | None = None, **more: Any
) -> Settings:
    limits = {**({} if store is None else {"store": store}), **more}
    stages = {"limit": {"minute": 3, **(limit or {})}}
    return load({"workers": workers, "limits": limits, "stages": stages}, {}).settings


@contextmanager
def placed(max_bytes: int = 1 << 20, saved: Path | None = None) -> Iterator[SharedPlace]:
    place = SharedPlace(max_bytes, None if saved is None else str(saved))
    try:
        yield place
    finally:
        place.close()


def claims_of() -> Claims:
    return (Claim(LimitConfig(minute=3).rule("limit"), "203.0.113.7"),)


@pytest.mark.parametrize(
    ("made", "is_needed"),
    [
        (settings(), False),
        (settings(store="memory"), False),
        (settings(workers=2), True),
        (settings(store="shared"), True),
        (settings(store=REDIS), False),
        (settings(2, REDIS), False),
        (settings(1, REDIS, {"on_store_error": "local"}, hosts=2), False),
        (settings(2, REDIS, {"on_store_error": "local"}, hosts=2), True),
        (settings(2, REDIS, {"minute": 0, "on_store_error": "local"}, hosts=2), False),
        (settings(2, REDIS, {"limits": {"x": {"hour": 1, "on_store_error": "local"}}}, hosts=2), True),
    ],
)
def test_a_place_is_made_where_workers_share_something(made: Settings, is_needed: bool) -> None:
    assert needs_place(made) is is_needed
    place = open_place(made)
    assert (place is not None) is is_needed
    if place is not None:
        assert place.path.is_dir()
        place.close()
        assert not place.path.exists()


def test_each_store_is_what_was_asked_for() -> None:
    assert type(open_store(settings(), time.monotonic)) is MemoryStore
    far = open_store(settings(store=REDIS), time.monotonic)
    assert type(far) is OutageStore
    assert "127.0.0.1:1" in repr(far)
    asyncio.run(far.close())
    with pytest.raises(ValueError, match="shared needs `sluice serve`"):
        open_store(settings(store="shared"), time.monotonic)


@pytest.mark.parametrize(
    ("store", "limit", "is_spread"),
    [
        (REDIS, {}, False),
        (CLUSTER, {}, True),
        (CLUSTER, {"limits": {"daily": {"day": 9}}}, True),
        (CLUSTER, {"limits": {"on_path": {"by": "path", "day": 9}}}, False),
        (CLUSTER, {"by": "path"}, True),
    ],
)
def test_accounts_are_spread_over_a_cluster_alone(store: str, limit: dict[str, Any], is_spread: bool) -> None:
    # Elsewhere a further limit would give them other names, and so begin anew.
    far = open_store(settings(store=store, limit=limit), time.monotonic)
    assert isinstance(far, OutageStore)
    assert isinstance(far._store, RedisStore)
    assert far._store._keys.spread is is_spread
    asyncio.run(far.close())


def test_two_workers_count_in_one_place() -> None:
    with placed() as place:
        child = os.fork()
        if child == 0:
            os._exit(_use_up(place))
        one = SharedLimits(place, time.monotonic, is_keeper=True)
        assert os.waitpid(child, 0)[1] == 0
        store = open_store(settings(workers=2), time.monotonic, one.store)
        assert type(store) is GuardedStore
        decisions = [store.acquire(claims_of()) for _ in range(2)]
        assert [decision.allowed for decision in decisions] == [True, False]
        asyncio.run(one.store.close())


def _use_up(place: SharedPlace) -> int:
    """Be another worker, which is sent two requests."""
    store = SharedLimits(place, time.monotonic, is_keeper=False).store
    return 0 if all(store.acquire(claims_of()).allowed for _ in range(2)) else 1


async def one_request(place: SharedPlace, is_keeper: bool) -> Decision:
    """One request of a worker that then ends."""
    limits = SharedLimits(place, time.monotonic, is_keeper=is_keeper)
    limits.start(asyncio.get_running_loop())
    decision = limits.store.acquire(claims_of())
    await asyncio.sleep(0)
    await limits.close()
    await limits.store.close()
    return decision


@pytest.mark.parametrize("is_keeper", [True, False])
def test_what_the_last_worker_counted_survives_the_gateway(tmp_path: Path, is_keeper: bool) -> None:
    for number in range(4):
        with placed(saved=tmp_path / "limits") as place:
            decision = asyncio.run(one_request(place, is_keeper))
            assert decision.allowed is (number < 3)


def test_two_gateways_cannot_save_in_one_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_store, "HELD_S", 0.2)
    with placed(saved=tmp_path), pytest.raises(OSError, match="another running gateway") as caught:
        SharedPlace(1 << 20, str(tmp_path))
    assert caught.value.filename == "limits.dir"


def test_a_size_that_is_not_to_be_had_says_what_to_do() -> None:
    with pytest.raises(OSError, match="shm_size") as caught:
        SharedPlace(1 << 60, None)
    assert caught.value.filename == "limits.max_bytes"


def test_the_wall_clock_is_the_systems() -> None:
    assert abs(wall_clock() - time.time()) < 5
