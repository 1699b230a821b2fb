"""The store in memory: the contracts of all stores, and how little it keeps."""

from __future__ import annotations

import random
import time
import tracemalloc

import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, Claim, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.memory import MemoryStore
from proxy.limits.store import LimitStore
from tests.limits.contract import BOTH, MINUTE, TICK_S, CappedStoreContract, LimitStoreContract, rule
from tests.support.clock import FakeClock

TWO_A_MINUTE = Window("minute", 2, 60)


class TestMemoryStore(LimitStoreContract, CappedStoreContract):
    def open(self, clock: FakeClock) -> LimitStore:
        return MemoryStore(clock)


def full_store(clock: FakeClock, asked: Rule, apart_s: float = 1) -> MemoryStore:
    """A full store: subjects s0, s1 ..., each seen once, so many seconds apart."""
    store = MemoryStore(clock)
    for n in range(asked.max_subjects):
        assert store.acquire((Claim(asked, f"s{n}"),)).allowed
        clock.advance(apart_s)
    return store


@BOTH
class TestRoom:
    def test_it_never_holds_more_than_its_subjects(self, algorithm: Algorithm) -> None:
        store = MemoryStore(FakeClock())
        one, two = rule(algorithm, TWO_A_MINUTE, name="one", room=10), rule(algorithm, MINUTE, name="two", room=5)
        for n in range(500):
            store.acquire((Claim(one, f"s{n}"), Claim(two, f"s{n}"), Claim(one, f"t{n}")))
        assert len(store) == 15
        assert repr(store) == "<MemoryStore [15 subjects]>"

    def test_only_expired_subjects_make_room(self, algorithm: Algorithm) -> None:
        clock = FakeClock()
        asked = rule(algorithm, TWO_A_MINUTE, room=3)
        store = full_store(clock, asked)
        clock.advance(57 - TICK_S)
        assert store.acquire((Claim(asked, "new"),)).overflow
        assert len(store) == 3
        clock.advance(TICK_S)
        assert not store.acquire((Claim(asked, "newer"),)).overflow
        assert len(store) == 3
        assert not store.standing(Claim(asked, "s0")).is_known
        assert store.standing(Claim(asked, "s1")).is_known, "it is one second younger"

    def test_an_admitted_request_moves_its_subject_to_the_back(self, algorithm: Algorithm) -> None:
        clock = FakeClock()
        asked = rule(algorithm, TWO_A_MINUTE, room=3)
        store = full_store(clock, asked)
        assert store.acquire((Claim(asked, "s0"),)).allowed
        clock.advance(58)
        assert not store.acquire((Claim(asked, "new"),)).overflow
        assert [store.standing(Claim(asked, f"s{n}")).is_known for n in range(3)] == [True, False, True]

    def test_a_refused_request_does_not(self, algorithm: Algorithm) -> None:
        clock = FakeClock()
        asked = rule(algorithm, Window("minute", 1, 60), room=1)
        store = full_store(clock, asked, apart_s=0)
        clock.advance(59)
        assert not store.acquire((Claim(asked, "s0"),)).allowed
        clock.advance(1)
        assert not store.acquire((Claim(asked, "new"),)).overflow

    def test_nobody_waits_for_a_sweep(self, algorithm: Algorithm) -> None:
        clock = FakeClock()
        asked = rule(algorithm, TWO_A_MINUTE, room=100)
        store = full_store(clock, asked, apart_s=0)
        clock.advance(1000)
        sizes = []
        for n in range(5):
            store.acquire((Claim(asked, f"new {n}"),))
            sizes.append(len(store))
        assert sizes == [99, 98, 97, 96, 95], "each new subject drops two expired ones"

    def test_strangers_come_and_go_without_a_trace(self, algorithm: Algorithm) -> None:
        clock = FakeClock()
        asked = rule(algorithm, TWO_A_MINUTE)
        store = MemoryStore(clock)
        for n in range(3000):
            claims = (Claim(asked, f"s{n}"),)
            decision = store.acquire(claims)
            if n % 3 == 0:
                store.give_back(claims, decision)
            store.standing(Claim(asked, f"looked at {n}"))
            store.reset(Claim(asked, f"never seen {n}"))
            clock.advance(1)
        assert len(store) <= 61


class TestOverrides:
    @pytest.mark.parametrize("order", ["ab", "ba"])
    def test_the_longest_window_of_all_decides_on_expiry(self, order: str) -> None:
        clock = FakeClock()
        asked = rule(SLIDING, MINUTE, room=2)
        override = rule(SLIDING, MINUTE, Window("hour", 9, 3600), room=2)
        store = MemoryStore(clock)
        for subject in order:
            assert not store.acquire((Claim(override if subject == "a" else asked, subject),)).overflow
        clock.advance(3600 - TICK_S)
        assert store.acquire((Claim(asked, "new"),)).overflow
        clock.advance(TICK_S)
        assert not store.acquire((Claim(asked, "newer"),)).overflow

    def test_they_are_found_by_the_rule(self) -> None:
        store = MemoryStore(FakeClock())
        asked, override = rule(SLIDING, MINUTE), rule(SLIDING, Window("hour", 5, 3600))
        assert [store.acquire((Claim(override, "a"),)).allowed for _ in range(6)] == [True] * 5 + [False]
        assert store.standing(Claim(asked, "a")).left == ((MINUTE, 0, 60.0),)
        assert store.reset(Claim(asked, "a"))


class TestOneShotSubjects:
    """The account of a subject that was charged once by `sliding` is one float, whatever happens to it then."""

    def test_charged_again_and_given_back_to_one_and_to_none(self) -> None:
        clock = FakeClock()
        asked = rule(SLIDING, MINUTE)
        store = MemoryStore(clock)
        claims = (Claim(asked, "a"),)

        def left() -> tuple[int, float]:
            (remaining,), is_known = store.standing(claims[0])
            assert is_known is (remaining.remaining < 3)
            return remaining.remaining, remaining.reset_s

        first = store.acquire(claims)
        assert left() == (2, 60)
        clock.advance(1)
        second = store.acquire(claims)
        assert left() == (1, 59)
        store.give_back(claims, second)
        assert left() == (2, 59)
        store.give_back(claims, second)
        assert left() == (2, 59), "it is not there any more"
        second = store.acquire(claims)
        store.give_back(claims, first)
        assert left() == (2, 60)
        store.give_back(claims, second)
        assert left() == (3, 0)
        assert len(store) == 0
        assert [store.acquire(claims).allowed for _ in range(4)] == [True, True, True, False]

    def test_what_is_left_of_the_shared_account_is_not_taken_along_for_ever(self) -> None:
        clock = FakeClock()
        asked = rule(SLIDING, MINUTE, room=1)
        store = full_store(clock, asked, apart_s=0)
        assert store.acquire((Claim(asked, "new"),)).overflow
        clock.advance(60)
        claims = (Claim(asked, "newer"),)
        store.give_back(claims, store.acquire(claims))
        assert not store.standing(claims[0]).is_known, "the one charge it had is given back"

    def test_a_time_of_nought_is_a_time(self) -> None:
        clock = FakeClock(0.0)
        claims = (Claim(rule(SLIDING, Window("minute", 1, 60)), "a"),)
        store = MemoryStore(clock)
        assert [store.acquire(claims).allowed for _ in range(2)] == [True, False]

    @pytest.mark.parametrize(("algorithm", "most_bytes"), [(SLIDING, 190), (GCRA, 300)])
    def test_it_costs_no_more_than_it_must(self, algorithm: Algorithm, most_bytes: int) -> None:
        asked = rule(algorithm, Window("minute", 30, 60), room=100_000)
        store = MemoryStore(FakeClock())
        size = 5_000
        tracemalloc.start()
        try:
            for n in range(size):
                store.acquire((Claim(asked, f"192.0.2.{n}"),))
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(store) == size
        assert taken / size < most_bytes, "a name, its place in the table and what is kept of it"


class TestItsClock:
    @BOTH
    def test_no_other_clock_is_looked_at(self, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch) -> None:
        # R17: somebody sets the time of the machine, an hour back, an hour on.
        times = random.Random(17)

        def set_by_somebody() -> float:
            return 1.7e9 + times.choice([-3600, 3600])

        for name in ("time", "monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, set_by_somebody)
            monkeypatch.setattr(time, f"{name}_ns", lambda: int(set_by_somebody() * 1e9))
        clock = FakeClock()
        store = MemoryStore(clock)
        claims = (Claim(rule(algorithm, Window("minute", 1, 60)), "a"),)
        admitted = []
        for _ in range(240):
            if store.acquire(claims).allowed:
                admitted.append(clock.now_s)
            clock.advance(1)
        assert admitted == [1000, 1060, 1120, 1180]

    def test_it_is_read_once_a_decision(self) -> None:
        reads: list[int] = []

        def clock() -> float:
            reads.append(len(reads))
            return 1000.0 + len(reads)

        store = MemoryStore(clock)
        asked = [rule(algorithm, MINUTE, name=name) for algorithm in (SLIDING, GCRA) for name in ("one", "two")]
        decision = store.acquire(tuple(Claim(each, "a") for each in asked))
        assert len(reads) == 1, "all claims of a request are charged at the same time"
        assert decision.at == 1001.0
