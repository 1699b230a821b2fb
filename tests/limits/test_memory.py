"""The store in memory: the contract of all stores, and what happens when it is full."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.rate import Decision, Remaining, Window
from proxy.limits.memory import MemoryStore
from proxy.limits.store import LimitStore
from tests.limits.contract import ALL, MINUTE, TICK_S, LimitStoreContract
from tests.support.clock import FakeClock

TWO_A_MINUTE = (Window("minute", 2, 60),)


class TestMemoryStore(LimitStoreContract):
    def open(self, clock: FakeClock) -> LimitStore:
        return MemoryStore(clock, max_subjects=1000)


def full_store(clock: FakeClock, size: int = 3, apart_s: float = 1) -> MemoryStore:
    """A full store: subjects s0, s1 ..., each seen once, so many seconds apart."""
    store = MemoryStore(clock, size)
    for n in range(size):
        assert store.acquire(f"s{n}", TWO_A_MINUTE) == Decision(True)
        clock.advance(apart_s)
    return store


class TestFull:
    def test_it_never_holds_more_than_its_subjects(self) -> None:
        store = MemoryStore(FakeClock(), max_subjects=10)
        for n in range(1000):
            store.acquire(f"s{n}", TWO_A_MINUTE)
        assert len(store) == 10
        assert repr(store) == "<MemoryStore [10 of 10 subjects]>"

    def test_new_subjects_share_one_bucket_and_are_told_so(self) -> None:
        clock = FakeClock()
        store = full_store(clock)
        assert store.acquire("new", TWO_A_MINUTE) == Decision(True, overflow=True)
        assert store.acquire("newer", TWO_A_MINUTE) == Decision(True, overflow=True)
        assert store.acquire("newest", TWO_A_MINUTE) == Decision(False, 60, TWO_A_MINUTE[0], overflow=True)
        assert store.remaining("another", TWO_A_MINUTE) == (Remaining(TWO_A_MINUTE[0], 0, 60.0),)
        assert len(store) == 3

    def test_the_shared_bucket_drains_like_any_other(self) -> None:
        clock = FakeClock()
        store = MemoryStore(clock, 1)
        store.acquire("old", TWO_A_MINUTE)
        for _ in range(2):
            assert store.acquire("new", TWO_A_MINUTE).allowed
        clock.advance(30)
        assert store.acquire("old", TWO_A_MINUTE).allowed
        clock.advance(30 - TICK_S)
        assert not store.acquire("new", TWO_A_MINUTE).allowed
        clock.advance(TICK_S)
        assert store.acquire("new", TWO_A_MINUTE) == Decision(True, overflow=True)

    def test_an_active_subject_is_never_evicted(self) -> None:
        # Its limit would begin anew: whoever can make up subjects could reset his own.
        clock = FakeClock()
        store = full_store(clock, 3)
        for n in range(3):
            assert store.acquire(f"s{n}", TWO_A_MINUTE).allowed
        for n in range(100):
            store.acquire(f"made up {n}", TWO_A_MINUTE)
        for n in range(3):
            decision = store.acquire(f"s{n}", TWO_A_MINUTE)
            assert not decision.allowed
            assert not decision.overflow

    def test_only_expired_subjects_make_room(self) -> None:
        clock = FakeClock()
        store = full_store(clock, 3)
        clock.advance(57 - TICK_S)
        assert store.acquire("new", TWO_A_MINUTE).overflow
        assert len(store) == 3
        clock.advance(TICK_S)
        assert store.acquire("newer", TWO_A_MINUTE) == Decision(True)
        assert len(store) == 3
        assert store.remaining("s1", TWO_A_MINUTE)[0].remaining == 1, "s1 is one second younger than s0"

    def test_an_admitted_request_moves_its_subject_to_the_back(self) -> None:
        clock = FakeClock()
        store = full_store(clock, 3)
        assert store.acquire("s0", TWO_A_MINUTE).allowed
        clock.advance(58)
        assert store.acquire("new", TWO_A_MINUTE) == Decision(True)
        assert store.remaining("s0", TWO_A_MINUTE)[0].remaining == 1
        assert store.remaining("s1", TWO_A_MINUTE)[0].remaining == 2

    def test_a_refused_request_does_not(self) -> None:
        clock = FakeClock()
        one_a_minute = (Window("minute", 1, 60),)
        store = MemoryStore(clock, 1)
        assert store.acquire("s0", one_a_minute).allowed
        clock.advance(59)
        assert not store.acquire("s0", one_a_minute).allowed
        clock.advance(1)
        assert store.acquire("new", one_a_minute) == Decision(True)

    def test_the_longest_window_decides_on_expiry(self) -> None:
        clock = FakeClock()
        store = MemoryStore(clock, 1)
        store.acquire("old", ALL)
        clock.advance(3600 - TICK_S)
        assert store.acquire("new", ALL).overflow
        clock.advance(TICK_S)
        assert not store.acquire("newer", ALL).overflow

    def test_nobody_waits_for_a_sweep(self) -> None:
        clock = FakeClock()
        store = full_store(clock, 100, apart_s=0)
        clock.advance(1000)
        sizes = []
        for n in range(5):
            store.acquire(f"new {n}", TWO_A_MINUTE)
            sizes.append(len(store))
        assert sizes == [99, 98, 97, 96, 95], "each new subject drops two expired ones"

    @settings(max_examples=500)
    @given(calls=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12), room=st.integers(1, 2))
    def test_never_more_than_the_limit_in_any_window_however_full(
        self, calls: list[tuple[int, int]], room: int
    ) -> None:
        clock = FakeClock()
        store = MemoryStore(clock, room)
        window = Window("w", 2, 4)
        admitted: dict[int, list[float]] = {}
        for gap, subject in calls:
            clock.advance(gap)
            if store.acquire(str(subject), (window,)).allowed:
                admitted.setdefault(subject, []).append(clock.now_s)
        for times in admitted.values():
            for start in times:
                assert sum(start <= time < start + window.seconds for time in times) <= window.limit

    def test_leaving_the_shared_bucket_is_no_fresh_start(self) -> None:
        clock = FakeClock()
        store = MemoryStore(clock, 1)
        store.acquire("old", (MINUTE,))
        clock.advance(59)
        assert [store.acquire("new", (MINUTE,)).allowed for _ in range(3)] == [True] * 3
        clock.advance(1)
        assert not store.acquire("new", (MINUTE,)).allowed, "four requests in one second, where three a minute may be"
