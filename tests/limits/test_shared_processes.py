"""The shared store between processes: exact behind a barrier, and whoever is killed, at whatever instant."""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import signal
import struct
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, Claim, Rule, Window
from proxy.core.sliding import SLIDING, Sliding
from proxy.limits import table
from proxy.limits.instance import open_instance
from proxy.limits.shared import SharedStore
from proxy.limits.table import Space
from tests.limits.contract import rule
from tests.limits.forked import Child

MAX_BYTES = 32 * 1024 * 1024
DAY = 86_400


@pytest.fixture
def path() -> Iterator[Path]:
    instance = open_instance()
    yield instance.path
    instance.close()


def opened(path: Path) -> SharedStore:
    return SharedStore(path, monotonic, max_bytes=MAX_BYTES)


def spaces_hold_what_they_count(store: SharedStore) -> bool:
    """Whether each space's count is the number of its accounts."""
    with store.env.begin() as txn:
        counted = {space.number: space.count(txn) for space in table.spaces(txn)}
        held = dict.fromkeys(counted, 0)
        for key, _ in table.walk(txn, table.FIRST):
            held[table.number_of(key)] += key[2] != table.SHARED
    return held == counted


class Behind:
    """Processes that open the store, wait for all others, then ask as fast as they can."""

    def __init__(self, path: Path, asked: Rule, subjects: int, times: int, processes: int = 4) -> None:
        ready_read, ready_write = os.pipe()
        go_read, go_write = os.pipe()

        def ask() -> int:
            os.close(go_write)
            store = opened(path)
            claims = [(Claim(asked, f"s{n}"),) for n in range(subjects)] * times
            os.write(ready_write, b"x")
            os.read(go_read, 1)
            admitted = 0
            for n, claim in enumerate(claims):
                admitted += store.acquire(claim).allowed
                if not n % 10:
                    os.sched_yield()
            return admitted

        children = [Child(ask) for _ in range(processes)]
        for _ in children:
            os.read(ready_read, 1)
        os.close(go_write)
        self.admitted = [int(child.answer()) for child in children]
        for end in (ready_read, ready_write, go_read):
            os.close(end)


@pytest.mark.parametrize("algorithm", [SLIDING, GCRA], ids=lambda algorithm: algorithm.name)
@pytest.mark.parametrize(("limit", "subjects"), [(1, 200), (30, 20), (1000, 2)])
def test_they_admit_the_limit_and_no_more(path: Path, algorithm: Algorithm, limit: int, subjects: int) -> None:
    asked = rule(algorithm, Window("day", limit, DAY), burst=limit)
    behind = Behind(path, asked, subjects, times=limit)
    assert sum(behind.admitted) == limit * subjects
    if limit == 1000:
        assert sum(admitted > 0 for admitted in behind.admitted) > 1, "they asked side by side"


@pytest.mark.long
@pytest.mark.parametrize("limit", [1, 30, 1000])
def test_200_seeds(path: Path, limit: int) -> None:
    for seed in range(200):
        asked = rule(SLIDING, Window("day", limit, DAY), name=f"seed {seed}")
        assert sum(Behind(path, asked, 1, times=max(10 * limit // 4, 3)).admitted) == limit


def test_the_room_of_a_rule_is_one_for_all(path: Path) -> None:
    asked = rule(SLIDING, Window("day", 1, DAY), room=100)
    behind = Behind(path, asked, subjects=150, times=1)
    store = opened(path)
    assert len(store) == 100
    assert sum(behind.admitted) == 101, "and one for the account that the others share"
    assert spaces_hold_what_they_count(store)
    asyncio.run(store.close())


class DyingIn(Sliding):
    """The algorithm `sliding`, in a process that is killed while it charges for the so-manieth time."""

    def __init__(self, charges: int) -> None:
        self.charges = charges

    def charge(self, account: array[float], rule: Rule, now: float) -> None:
        super().charge(account, rule, now)
        self.charges -= 1
        if not self.charges:
            os.kill(os.getpid(), signal.SIGKILL)


def test_killed_within_a_transaction(path: Path) -> None:
    window = Window("day", 10, DAY)
    fine = rule(SLIDING, window)
    claims = tuple(Claim(fine, subject) for subject in "abc")

    def die() -> None:
        store = opened(path)
        dying = rule(DyingIn(3), window)
        store.acquire(tuple(Claim(dying, subject) for subject in "abc"))

    store = opened(path)
    assert store.acquire(claims).allowed
    asyncio.run(store.close())
    for _ in range(5):
        assert Child(die).wait() == -signal.SIGKILL
    store = opened(path)
    assert [store.standing(claim).left[0].remaining for claim in claims] == [9, 9, 9]
    assert store.acquire(claims).allowed
    assert spaces_hold_what_they_count(store)
    asyncio.run(store.close())


class Board:
    """What processes have counted, where a kill takes nothing away: 8 bytes for each of their places."""

    def __init__(self, places: int) -> None:
        self._map = mmap.mmap(-1, 8 * (places + 1))
        self._places = places

    def add(self, place: int) -> None:
        struct.pack_into("=Q", self._map, 8 * place, 1 + struct.unpack_from("=Q", self._map, 8 * place)[0])

    def count(self, place: int) -> int:
        return int(struct.unpack_from("=Q", self._map, 8 * place)[0])

    def total(self) -> int:
        return sum(struct.unpack_from(f"={self._places}Q", self._map))

    def stop(self) -> None:
        struct.pack_into("=Q", self._map, 8 * self._places, 1)

    @property
    def is_stopped(self) -> bool:
        return struct.unpack_from("=Q", self._map, 8 * self._places) == (1,)


def killed_at_random(path: Path, kills: int, seed: int) -> None:
    """Three processes count; one after the other is killed and replaced. The counts must hold."""
    # Never full: each admitted request writes. The many subjects make the table grow and shrink.
    few = rule(SLIDING, Window("day", 9_000, DAY), name="few")
    many = rule(GCRA, Window("second", 1, 1), name="many", room=500)
    board = Board(kills + 3)

    def count(place: int) -> int:
        store = opened(path)
        chance = random.Random(seed * 1000 + place)
        asked = 0
        while not board.is_stopped:
            asked += 1
            if store.acquire((Claim(few, f"s{chance.randrange(5)}"),)).allowed:
                board.add(place)
            store.acquire((Claim(many, f"s{chance.randrange(800)}"),))
            if not asked % 50:
                store.sweep()
        return asked

    chance = random.Random(seed)
    children = {place: Child(partial(count, place)) for place in range(3)}
    for place in range(3, 3 + kills):
        sleep(chance.uniform(0.002, 0.03))
        victim = chance.choice(list(children))
        children.pop(victim).kill()
        children[place] = Child(partial(count, place))
    while not all(board.count(place) for place in children):
        sleep(0.01)
    board.stop()
    for child in children.values():
        assert int(child.answer()) > 0, "whoever is left goes on"
    store = opened(path)
    charged = sum(9_000 - store.standing(Claim(few, f"s{n}")).left[0].remaining for n in range(5))
    # One request of each killed process may have been charged and not been heard of.
    assert board.total() <= charged <= board.total() + kills
    assert charged > 50
    assert spaces_hold_what_they_count(store)
    asyncio.run(store.close())


def test_killed_at_random(path: Path) -> None:
    killed_at_random(path, kills=40, seed=1)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_killed_at_random_often(path: Path, seed: int) -> None:
    killed_at_random(path, kills=100, seed=seed)


def test_a_reader_that_was_killed_does_not_make_the_table_grow(path: Path) -> None:
    asked = rule(SLIDING, Window("day", 1000, DAY))

    go_read, go_write = os.pipe()

    def read() -> None:
        store = opened(path)
        os.read(go_read, 1)
        with store.env.begin():
            os.kill(os.getpid(), signal.SIGKILL)

    reader = Child(read)
    ahead = 0.0
    store = SharedStore(path, lambda: monotonic() + ahead, max_bytes=MAX_BYTES)
    store.acquire((Claim(asked, "a"),))
    os.write(go_write, b"x")
    assert reader.wait() == -signal.SIGKILL
    pages = []
    for _ in range(3):
        for _ in range(300):
            store.acquire((Claim(asked, "a"),))
        pages.append(store.env.info()["last_pgno"])
        ahead += 10
        store.sweep()
    assert pages[0] > 200, "nothing the dead one may read is used again"
    assert pages[2] < pages[0] + 10
    asyncio.run(store.close())
    os.close(go_read)
    os.close(go_write)


def test_a_reader_that_was_killed_does_not_fill_the_table(path: Path) -> None:
    asked = rule(SLIDING, Window("day", 1000, DAY))

    go_read, go_write = os.pipe()

    def read() -> None:
        store = opened(path)
        os.read(go_read, 1)
        with store.env.begin():
            os.kill(os.getpid(), signal.SIGKILL)

    reader = Child(read)
    store = SharedStore(path, monotonic, max_bytes=2 * 1024 * 1024)
    store.acquire((Claim(asked, "a"),))
    os.write(go_write, b"x")
    assert reader.wait() == -signal.SIGKILL
    # Some two pages each: without looking for the dead, the table would be full after a few hundred.
    assert all(store.acquire((Claim(asked, "a"),)).allowed for _ in range(999))
    assert store.errors == 0
    asyncio.run(store.close())
    os.close(go_read)
    os.close(go_write)


def test_the_register_gives_each_space_its_own_number(path: Path) -> None:
    asked = [rule(SLIDING, Window("day", 1, DAY), name=f"rule {n}") for n in range(30)]

    def ask(first: int) -> int:
        store = opened(path)
        return sum(store.acquire((Claim(each, "a"),)).allowed for each in asked[first:] + asked[:first])

    children = [Child(partial(ask, first)) for first in (0, 10, 20)]
    assert sum(int(child.answer()) for child in children) == 30
    store = opened(path)
    with store.env.begin() as txn:
        spaces: list[Space] = table.spaces(txn)
    assert sorted(space.number for space in spaces) == list(range(1, 31))
    assert {space.name for space in spaces} == {each.space for each in asked}
    asyncio.run(store.close())
