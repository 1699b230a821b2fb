"""Sweeping the shared store: expired accounts go in small slices, and nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from time import perf_counter

import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Claim, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits import sweep
from proxy.limits.instance import open_instance
from proxy.limits.shared import SharedStore
from tests.limits.contract import rule
from tests.support.clock import FakeClock

MINUTE, HOUR = Window("minute", 2, 60), Window("hour", 50, 3600)
WIDE = rule(SLIDING, MINUTE, room=100_000)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Iterator[SharedStore]:
    instance = open_instance()
    store = SharedStore(instance.path, clock, max_bytes=16 * 1024 * 1024)
    yield store
    asyncio.run(store.close())
    instance.close()


def seen(store: SharedStore, asked: Rule, subjects: int, name: str = "s") -> None:
    for n in range(subjects):
        assert store.acquire((Claim(asked, f"{name}{n}"),)).allowed


def swept(store: SharedStore) -> int:
    """How many steps until nothing is left to drop."""
    steps = 1
    while store.sweep() < sweep.IDLE_S:
        steps += 1
    return steps


def test_expired_accounts_go_and_others_stay(store: SharedStore, clock: FakeClock) -> None:
    seen(store, WIDE, 300, "old")
    clock.advance(30)
    seen(store, WIDE, 300, "new")
    clock.advance(30 - 1 / 64)
    swept(store)
    assert len(store) == 600
    clock.advance(1 / 64)
    for _ in range(20):
        store.sweep()
    assert len(store) == 300
    assert store.standing(Claim(WIDE, "new7")).is_known
    assert not store.standing(Claim(WIDE, "old7")).is_known


def test_each_account_lives_as_long_as_the_longest_window_of_its_rule(store: SharedStore, clock: FakeClock) -> None:
    short, long = rule(GCRA, MINUTE, name="short"), rule(SLIDING, MINUTE, HOUR, name="long")
    seen(store, short, 10)
    seen(store, long, 10)
    clock.advance(60)
    store.sweep()
    assert [store.standing(Claim(each, "s1")).is_known for each in (short, long)] == [False, True]
    clock.advance(3540)
    store.sweep()
    assert len(store) == 0


def test_a_request_gives_its_account_a_longer_life(store: SharedStore, clock: FakeClock) -> None:
    seen(store, WIDE, 2)
    clock.advance(59)
    assert store.acquire((Claim(WIDE, "s1"),)).allowed
    clock.advance(1)
    store.sweep()
    assert [store.standing(Claim(WIDE, f"s{n}")).is_known for n in range(2)] == [False, True]


def test_the_shared_account_goes_too_and_is_no_subject(store: SharedStore, clock: FakeClock) -> None:
    asked = rule(SLIDING, MINUTE, room=1)
    seen(store, asked, 3)
    with store.env.begin() as txn:
        before = txn.stat()["entries"]
    clock.advance(60)
    store.sweep()
    assert len(store) == 0
    with store.env.begin() as txn:
        assert txn.stat()["entries"] == before - 2


def test_a_slice_is_small(store: SharedStore, clock: FakeClock) -> None:
    seen(store, WIDE, 1000)
    clock.advance(60)
    sizes = []
    for _ in range(4):
        assert store.sweep() <= sweep.BUSY_S
        sizes.append(len(store))
    assert sizes == [1000 - sweep.MOST_DROPPED * n for n in (1, 2, 3, 4)]


def test_a_slice_costs_less_than_a_millisecond(store: SharedStore, clock: FakeClock) -> None:
    seen(store, WIDE, 5000)
    clock.advance(60)
    took = []
    for _ in range(60):
        began = perf_counter()
        store.sweep()
        took.append(perf_counter() - began)
    assert sorted(took)[30] < 0.001


def test_a_table_that_is_more_than_half_full_is_swept_faster(store: SharedStore, clock: FakeClock) -> None:
    asked = rule(SLIDING, MINUTE, room=600)
    seen(store, asked, 300)
    assert store.sweep() == sweep.IDLE_S
    seen(store, asked, 301)
    assert store.sweep() == sweep.BUSY_S
    clock.advance(60)
    # Two slices later it is half full no longer.
    assert store.sweep() == sweep.BUSY_S
    assert len(store) == 301 - sweep.MOST_DROPPED


def test_a_crowded_one_with_much_to_drop_faster_still(store: SharedStore, clock: FakeClock) -> None:
    asked = rule(SLIDING, MINUTE, room=600)
    seen(store, asked, 600)
    clock.advance(60)
    assert store.sweep() == sweep.CROWDED_S


def test_bytes_crowd_it_as_subjects_do(store: SharedStore, clock: FakeClock) -> None:
    seen(store, rule(SLIDING, MINUTE, room=1_000_000), 100)
    assert store.sweep() == sweep.IDLE_S
    large = rule(SLIDING, Window("hour", 10_000, 3600), name="large", room=1_000_000)
    for n in range(120):
        for _ in range(10_000 if n == 0 else 0):
            store.acquire((Claim(large, "s0"),))
    # A ring of 80 KB each, copied as it lies there: making them by requests would take a minute.
    space = store._space(large)

    def copy() -> None:
        with store.env.begin(write=True) as txn:
            value = txn.get(space.key("s0"))
            assert value is not None
            for n in range(1, 110):
                txn.put(space.key(f"s{n}"), value)
            space.add(txn, 109)

    store._done(copy)
    assert store.sweep() == sweep.BUSY_S


def test_all_of_a_large_table_is_walked(store: SharedStore, clock: FakeClock) -> None:
    seen(store, rule(SLIDING, HOUR, name="early", room=100_000), 3000)
    seen(store, rule(SLIDING, MINUTE, name="late", room=100_000), 200)
    clock.advance(60)
    for _ in range(3000 // sweep.MOST_READ + 5):
        store.sweep()
    assert len(store) == 3000


def test_a_subject_that_comes_back_while_it_is_swept_stays(store: SharedStore, clock: FakeClock) -> None:
    # Between the look and the deletion another process may have charged it.
    seen(store, WIDE, 3)
    clock.advance(60)
    with store.env.begin() as txn:
        keys = [store._space(WIDE).key(f"s{n}") for n in range(3)]
        assert all(txn.get(key) for key in keys)
    now = clock()
    assert store.acquire((Claim(WIDE, "s1"),)).allowed
    with store.env.begin(write=True) as txn:
        assert sweep.drop(txn, keys, now) == 2
    assert len(store) == 1
    assert store.standing(Claim(WIDE, "s1")).is_known
