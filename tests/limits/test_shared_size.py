"""How much room the accounts of many one-shot subjects take, and that the room is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Claim, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.instance import open_instance
from proxy.limits.memory import MemoryStore
from proxy.limits.shared import SharedStore
from proxy.limits.store import LimitStore
from proxy.limits.table_file import FIRST_BYTES
from tests.limits.forked import run_apart

MIB = 1024 * 1024
WINDOWS = (Window("second", 1, 1), Window("minute", 10, 60), Window("hour", 50, 3600))


@pytest.fixture
def path() -> Iterator[Path]:
    instance = open_instance()
    yield instance.path
    instance.close()


def private_bytes() -> int:
    """The memory of this process that is no file's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon")


def seen_once(store: LimitStore, asked: Rule, subjects: int) -> int:
    """How many of so many addresses share an account."""
    overflow = 0
    for n in range(subjects):
        decision = store.acquire((Claim(asked, f"2001:db8:{n >> 16:x}:{n & 0xFFFF:x}::/64"),))
        overflow += decision.overflow  # type: ignore[union-attr]
    return overflow


def shared_bytes(path: Path, subjects: int) -> int:
    """What so many subjects with `gcra` take: pages of the file in use, and what the process grew by."""
    before = private_bytes()
    store = SharedStore(path, monotonic, max_bytes=256 * MIB)
    asked = Rule("limit", WINDOWS, GCRA, burst=10, max_subjects=2_000_000)
    assert seen_once(store, asked, subjects) == 0
    assert len(store) == subjects
    assert (path / "data.mdb").stat().st_size <= 2 * used_bytes(store) + FIRST_BYTES
    return used_bytes(store) + private_bytes() - before


def used_bytes(store: SharedStore) -> int:
    """The pages of the file that were ever written to."""
    return int((store.env.info()["last_pgno"] + 1) * store.env.stat()["psize"])


def memory_bytes(subjects: int) -> int:
    """What so many subjects with `sliding` take in the memory of the process."""
    before = private_bytes()
    store = MemoryStore(monotonic)
    asked = Rule("limit", WINDOWS, SLIDING, max_subjects=2_000_000)
    assert seen_once(store, asked, subjects) == 0
    return private_bytes() - before


@pytest.mark.parametrize(
    "subjects", [20_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(120)])]
)
def test_a_million_take_160_mib(path: Path, subjects: int) -> None:
    taken = int(run_apart(lambda: shared_bytes(path, subjects)))
    assert taken / subjects * 1_000_000 < 160 * MIB


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_million_in_memory_take_300_mib() -> None:
    assert int(run_apart(lambda: memory_bytes(1_000_000))) < 300 * MIB


@pytest.mark.parametrize(
    "subjects", [5000, pytest.param(2_000_000, marks=[pytest.mark.long, pytest.mark.timeout(300)])]
)
def test_no_number_of_subjects_takes_more_than_its_room(path: Path, subjects: int) -> None:
    room = subjects // 5
    store = SharedStore(path, monotonic, max_bytes=64 * MIB)
    asked = Rule("limit", (Window("hour", 1_000_000, 3600),), GCRA, max_subjects=room)
    first = Claim(asked, "the first")
    assert store.acquire((first,)).allowed
    seen_once(store, asked, subjects)
    assert len(store) == room
    assert store.standing(first).is_known, "whoever is active stays"
    size = used_bytes(store)
    seen_once(store, asked, 1000)
    assert used_bytes(store) <= size + 64 * 1024
    asyncio.run(store.close())
