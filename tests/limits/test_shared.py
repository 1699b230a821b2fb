"""The shared store in one process: the contract of all stores, full tables, full disks, and forks."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import lmdb
import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Claim, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.instance import Instance, open_instance
from proxy.limits.shared import SharedStore
from proxy.limits.store import LimitStore, StoreError
from proxy.limits.table import Space
from proxy.limits.table_file import AGAIN_S
from proxy.limits.verdict import weigh
from tests.limits.contract import CappedStoreContract, LimitStoreContract, rule
from tests.limits.forked import Child, run_apart
from tests.support.clock import FakeClock

MAX_BYTES = 8 * 1024 * 1024
MINUTE = Window("minute", 3, 60)


class TestSharedStore(LimitStoreContract, CappedStoreContract):
    @pytest.fixture(autouse=True)
    def _directories(self) -> Iterator[None]:
        self.instances: list[Instance] = []
        yield
        for instance in self.instances:
            instance.close()

    def open(self, clock: FakeClock) -> LimitStore:
        instance = open_instance()
        self.instances.append(instance)
        return SharedStore(instance.path, clock, max_bytes=MAX_BYTES)


@pytest.fixture
def path() -> Iterator[Path]:
    instance = open_instance()
    yield instance.path
    instance.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(path: Path, clock: FakeClock) -> Iterator[SharedStore]:
    store = SharedStore(path, clock, max_bytes=MAX_BYTES)
    yield store
    asyncio.run(store.close())


def admit(store: SharedStore, asked: Rule, subject: str = "a") -> bool:
    return store.acquire((Claim(asked, subject),)).allowed


class TestOpening:
    def test_its_files_are_private(self, store: SharedStore, path: Path) -> None:
        assert {file.name: file.stat().st_mode & 0o077 for file in path.iterdir()} == {
            "data.mdb": 0, "lock.mdb": 0, "owner": 0,
        }  # fmt: skip

    def test_the_lock_file_has_its_memory_before_it_is_mapped(self, store: SharedStore, path: Path) -> None:
        status = (path / "lock.mdb").stat()
        assert status.st_blocks * 512 >= status.st_size > 0
        assert store.env.info()["max_readers"] > 400

    def test_its_file_has_its_memory_before_it_is_written_through_a_map(self, store: SharedStore, path: Path) -> None:
        assert store.env.flags()["writemap"]
        status = (path / "data.mdb").stat()
        assert status.st_blocks * 512 >= status.st_size == store.env.info()["map_size"]

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="cannot be opened"):
            SharedStore(tmp_path / "nowhere", FakeClock(), max_bytes=MAX_BYTES)

    def test_what_is_no_table_is_no_store(self, path: Path) -> None:
        (path / "data.mdb").write_bytes(os.urandom(64 * 1024))
        with pytest.raises(StoreError, match="cannot be opened"):
            SharedStore(path, FakeClock(), max_bytes=MAX_BYTES)

    def test_a_closed_store_says_so(self, path: Path) -> None:
        store = SharedStore(path, FakeClock(), max_bytes=MAX_BYTES)
        asyncio.run(store.close())
        with pytest.raises(StoreError, match="closed"):
            admit(store, rule(SLIDING, MINUTE))

    def test_the_next_to_open_it_goes_on_counting(self, path: Path, clock: FakeClock) -> None:
        asked = rule(SLIDING, MINUTE)
        for expected in (True, True, True, False):
            store = SharedStore(path, clock, max_bytes=MAX_BYTES)
            assert admit(store, asked) is expected
            asyncio.run(store.close())

    def test_a_fork_does_not_use_the_table_of_its_parent(self, store: SharedStore) -> None:
        asked = rule(SLIDING, MINUTE)
        assert admit(store, asked)

        def child() -> list[str]:
            said = []
            for ask in (
                lambda: admit(store, asked),
                store.sweep,
                store.figures,
                lambda: admit(store, rule(GCRA, MINUTE)),
            ):
                try:
                    ask()
                except RuntimeError as error:
                    said.append(str(error))
            gc.collect()
            return said

        assert run_apart(child).count("opened before the fork") == 4
        assert [admit(store, asked) for _ in range(3)] == [True, True, False]

    def test_a_fork_is_told_to_open_its_own_before(self, store: SharedStore, path: Path, clock: FakeClock) -> None:
        def child() -> str:
            try:
                SharedStore(path, clock, max_bytes=MAX_BYTES)
            except StoreError as error:
                return str(error)
            return "opened"

        assert "already open in this process" in run_apart(child)
        assert admit(store, rule(SLIDING, MINUTE))


class TestDeciding:
    def test_the_clock_is_read_inside_the_transaction(self, path: Path) -> None:
        # Else one process could record a time that lies before what another recorded in between.
        asked = rule(SLIDING, MINUTE)
        read, write = os.pipe()
        ready_read, ready_write = os.pipe()

        def wait_for_the_lock() -> bool:
            store = SharedStore(path, monotonic, max_bytes=MAX_BYTES)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.write(ready_write, b"x")
            os.read(read, 1)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            return store.reset(Claim(asked, "nobody"))

        other = Child(wait_for_the_lock)
        ends: list[int] = []

        def clock() -> float:
            if is_watching:
                os.write(write, b"x")
                ends.append(other.wait())
            return monotonic()

        is_watching = False
        store = SharedStore(path, clock, max_bytes=MAX_BYTES)
        assert admit(store, asked)
        os.read(ready_read, 1)
        is_watching = True
        assert admit(store, asked)
        assert ends == [-signal.SIGALRM]
        asyncio.run(store.close())
        for end in (read, write, ready_read, ready_write):
            os.close(end)

    def test_refusing_takes_no_lock(self, store: SharedStore, clock: FakeClock) -> None:
        asked = rule(SLIDING, Window("minute", 1, 60))
        assert [admit(store, asked) for _ in range(2)] == [True, False]
        before = store.env.info()["last_txnid"]
        with store.env.begin(write=True):
            assert not store.acquire((Claim(asked, "a"),)).allowed, "while another transaction writes"
        assert store.env.info()["last_txnid"] == before
        clock.advance(60)
        assert [admit(store, asked) for _ in range(2)] == [True, False]

    def test_one_request_with_several_new_subjects_keeps_to_the_room(self, store: SharedStore) -> None:
        asked = rule(SLIDING, MINUTE, room=1)
        decision = store.acquire((Claim(asked, "a"), Claim(asked, "b")))
        assert decision.allowed
        assert decision.overflow
        assert len(store) == 1

    def test_making_room_spares_the_subjects_of_the_request(self, store: SharedStore, clock: FakeClock) -> None:
        asked = rule(SLIDING, MINUTE, room=1)
        both = (Claim(asked, "a"), Claim(asked, "b"))
        assert admit(store, asked, "a")
        clock.advance(60)
        assert store.acquire(both).overflow
        assert len(store) == 1
        assert store.standing(both[0]).left[0].remaining == 2

    def test_weighing_without_leave_to_write_drops_nothing(self, store: SharedStore, clock: FakeClock) -> None:
        asked = rule(SLIDING, MINUTE, room=1)
        assert admit(store, asked, "a")
        clock.advance(60)
        space = store._space(asked)
        claims = (Claim(asked, "b"),)
        with store.env.begin(write=True) as txn:
            assert weigh(txn, claims, [space], clock(), MAX_BYTES, may_write=False).overflow
            assert space.count(txn) == 1
            assert not weigh(txn, claims, [space], clock(), MAX_BYTES, may_write=True).overflow
            assert space.count(txn) == 0

    def test_a_claim_made_twice_is_paid_once(self, store: SharedStore) -> None:
        asked = rule(SLIDING, MINUTE)
        assert store.acquire((Claim(asked, "a"), Claim(asked, "a"))).allowed
        assert store.standing(Claim(asked, "a")).left[0].remaining == 2
        assert len(store) == 1

    def test_a_failure_between_two_charges_leaves_none(
        self, store: SharedStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = rule(SLIDING, MINUTE)
        claims = (Claim(asked, "a"), Claim(asked, "b"))
        monkeypatch.setattr(Space, "add", lambda self, txn, subjects: 1 / (subjects - 1))
        with pytest.raises(ZeroDivisionError):
            store.acquire(claims)
        monkeypatch.undo()
        assert [store.standing(claim).is_known for claim in claims] == [False, False]
        assert store.acquire(claims).allowed

    @pytest.mark.parametrize("limit", [1000, 10_000])
    def test_large_rings(self, store: SharedStore, clock: FakeClock, limit: int) -> None:
        asked = rule(SLIDING, Window("hour", limit, 3600))
        assert all(admit(store, asked) for _ in range(limit))
        assert not admit(store, asked)
        clock.advance(3600)
        assert admit(store, asked)


class TestFullTable:
    SMALL = 1024 * 1024

    @pytest.fixture
    def small(self, path: Path, clock: FakeClock) -> Iterator[SharedStore]:
        store = SharedStore(path, clock, max_bytes=self.SMALL)
        yield store
        asyncio.run(store.close())

    def test_new_subjects_share_an_account_before_it_is_full(self, small: SharedStore) -> None:
        asked = rule(GCRA, Window("minute", 2, 60), room=1_000_000)
        decisions = [small.acquire((Claim(asked, f"subject {n}"),)) for n in range(16_000)]
        first = next(n for n, decision in enumerate(decisions) if decision.overflow)
        assert all(decision.allowed and not decision.overflow for decision in decisions[:first])
        assert [decision.allowed for decision in decisions[first : first + 4]] == [True, True, False, False]
        assert len(small) == first > 5_000
        for n in range(first):
            claim = Claim(asked, f"subject {n}")
            assert [small.acquire((claim,)).allowed for _ in range(2)] == [True, False], "own accounts still count"

    def test_a_full_table_is_a_store_error_until_it_is_swept(self, small: SharedStore, clock: FakeClock) -> None:
        # Few subjects whose accounts grow.
        asked = rule(SLIDING, Window("hour", 1000, 3600))
        errors: list[str] = []
        for n in range(150_000):
            try:
                assert admit(small, asked, f"s{n % 150}")
            except StoreError as error:
                errors.append(str(error))
                if len(errors) == 100:
                    break
        assert all("MDB_MAP_FULL" in error for error in errors)
        assert small.errors == len(errors) == 100
        clock.advance(3600)
        for _ in range(100):
            small.sweep()
        assert len(small) == 0
        assert all(admit(small, asked, f"s{n}") for n in range(150))

    def test_what_was_refused_for_want_of_room_was_not_charged(self, small: SharedStore) -> None:
        asked = rule(SLIDING, Window("hour", 1000, 3600))
        admitted = dict.fromkeys(range(150), 0)
        for n in range(150_000):
            try:
                admitted[n % 150] += admit(small, asked, f"s{n % 150}")
            except StoreError:
                break
        for n, count in admitted.items():
            assert small.standing(Claim(asked, f"s{n}")).left[0].remaining == 1000 - count

    def test_a_full_disk_is_a_store_error_until_there_is_room(self, path: Path) -> None:
        # A limit on the size of files is what every user can set; a write beyond it fails as one to a full disk.
        def child() -> tuple[int, int, bool, bool]:
            store = SharedStore(path, monotonic, max_bytes=MAX_BYTES)
            asked = rule(GCRA, Window("day", 5, 86_400), burst=5, room=1_000_000)
            assert admit(store, asked)
            size = (path / "data.mdb").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 256 * 1024, resource.RLIM_INFINITY))
            admitted = 0
            errors = 0
            for n in range(20_000):
                try:
                    admitted += admit(store, asked, f"subject {n}")
                except StoreError:
                    errors += 1
            assert len(store) == 1 + admitted
            known = store.standing(Claim(asked, "a")).is_known
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            sleep(AGAIN_S)
            return admitted, errors, known, admit(store, asked, "when there is room")

        admitted, errors, known, again = eval(run_apart(child))
        assert admitted > 1000
        assert errors == 20_000 - admitted > 1000
        assert known
        assert again

    def test_a_table_in_panic_is_opened_anew(self, store: SharedStore, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = rule(SLIDING, MINUTE)
        assert admit(store, asked)

        def panic(*_: object) -> None:
            raise lmdb.PanicError("MDB_PANIC")

        monkeypatch.setattr(store, "_begin", panic)
        with pytest.raises(StoreError):
            admit(store, asked)
        assert [admit(store, asked) for _ in range(3)] == [True, True, False]


def test_its_figures(store: SharedStore, clock: FakeClock) -> None:
    for n in range(5):
        admit(store, rule(SLIDING, MINUTE, name="one"), f"s{n}")
        admit(store, rule(GCRA, MINUTE, name="two"))
        admit(store, rule(GCRA, Window("hour", 50, 3600), name="two"))
    figures = {(name, *labels.values()): value for name, _, _, labels, value in store.figures()}
    assert figures["sluice_limit_subjects", "one"] == 5
    assert figures["sluice_limit_subjects", "two"] == 2
    assert 0 < figures["sluice_limit_store_used_bytes",] < figures["sluice_limit_store_max_bytes",] == MAX_BYTES
    assert figures["sluice_limit_swept_total",] == figures["sluice_limit_store_errors_total",] == 0
    clock.advance(60)
    store.sweep()
    figures = {(name, *labels.values()): value for name, _, _, labels, value in store.figures()}
    assert figures["sluice_limit_swept_total",] == 6
    assert figures["sluice_limit_subjects", "one"] == 0
    assert repr(store).startswith("<SharedStore /")
