"""The contract suite of limit stores: what each of them promises, whatever it is made of.

A store's own test file subclasses `LimitStoreContract` and says how to open one. A store that answers later is
tested by the same suite: its awaitables are run to their end by `acquire`.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.rate import Decision, Window
from proxy.limits.store import LimitStore
from tests.support.clock import FakeClock

TICK_S = 1 / 1024
"""Times are multiples of this, so that floats hold them and their sums exactly."""

SECOND, MINUTE, HOUR = Window("second", 1, 1), Window("minute", 3, 60), Window("hour", 50, 3600)
ALL = (SECOND, MINUTE, HOUR)

WINDOW_LISTS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=3, unique_by=lambda pair: pair[1]
).map(lambda pairs: tuple(Window(f"w{seconds}", limit, seconds) for limit, seconds in pairs))
CALLS = st.lists(st.tuples(st.integers(0, 3 * 1024), st.sampled_from("abc")), max_size=30)
"""(ticks since the call before, subject)"""


async def decided(decision: Awaitable[Decision]) -> Decision:
    return await decision


def acquire(store: LimitStore, subject: str, windows: tuple[Window, ...]) -> Decision:
    """Ask a store of either kind."""
    decision = store.acquire(subject, windows)
    return decision if isinstance(decision, Decision) else asyncio.run(decided(decision))


class LimitStoreContract(ABC):
    """Subclass it, say how to open a store, and pytest collects what every store must do."""

    @abstractmethod
    def open(self, clock: FakeClock) -> LimitStore:
        """An empty store with room for at least a thousand subjects."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    @pytest.fixture
    def store(self, clock: FakeClock) -> LimitStore:
        return self.open(clock)

    def test_it_admits_up_to_the_limit(self, store: LimitStore) -> None:
        decisions = [acquire(store, "a", (MINUTE,)) for _ in range(5)]
        assert [decision.allowed for decision in decisions] == [True, True, True, False, False]
        assert decisions[0] == Decision(True)
        assert decisions[3] == Decision(False, 60, MINUTE)

    def test_subjects_do_not_pay_for_each_other(self, store: LimitStore) -> None:
        assert acquire(store, "a", (SECOND,)).allowed
        assert acquire(store, "b", (SECOND,)).allowed
        assert not acquire(store, "a", (SECOND,)).allowed

    @pytest.mark.parametrize("other", ["A", "a ", "a\n", "", "a{x}", "a:1", "ä", "a" * 10_000, "a\x00"])
    def test_a_subject_is_just_its_text(self, store: LimitStore, other: str) -> None:
        assert acquire(store, "a", (SECOND,)).allowed
        assert acquire(store, other, (SECOND,)).allowed
        assert not acquire(store, other, (SECOND,)).allowed

    def test_all_windows_are_charged_or_none(self, store: LimitStore, clock: FakeClock) -> None:
        for expected in (Decision(False, 1, SECOND), Decision(False, 1, SECOND), Decision(False, 58, MINUTE)):
            assert acquire(store, "a", ALL).allowed
            assert acquire(store, "a", ALL) == expected
            clock.advance(1)
        assert acquire(store, "a", ALL) == Decision(False, 57, MINUTE)
        left = store.remaining("a", ALL)
        if left:
            assert left == ((SECOND, 1, 0.0), (MINUTE, 0, 57.0), (HOUR, 47, 3597.0))

    def test_the_longest_wait_is_told(self, store: LimitStore, clock: FakeClock) -> None:
        for _ in range(3):
            assert acquire(store, "a", (Window("second", 2, 1), MINUTE)).allowed
            clock.advance(0.5)
        decision = acquire(store, "a", (Window("second", 1, 1), MINUTE))
        assert decision == Decision(False, 58.5, MINUTE)
        clock.advance(58.5 - TICK_S)
        assert not acquire(store, "a", (MINUTE,)).allowed
        clock.advance(TICK_S)
        assert acquire(store, "a", (MINUTE,)).allowed

    def test_remaining_charges_nothing(self, store: LimitStore) -> None:
        for _ in range(5):
            store.remaining("a", ALL)
        assert acquire(store, "a", ALL).allowed

    def test_remaining_of_an_unknown_subject_is_everything_or_unknown(self, store: LimitStore) -> None:
        assert store.remaining("a", (SECOND, HOUR)) in ((), ((SECOND, 1, 0.0), (HOUR, 50, 0.0)))

    @given(windows=WINDOW_LISTS, calls=CALLS)
    def test_it_decides_as_a_list_of_all_admitted_requests_would(
        self, windows: tuple[Window, ...], calls: list[tuple[int, str]]
    ) -> None:
        clock = FakeClock()
        store = self.open(clock)
        admitted: dict[str, list[float]] = {"a": [], "b": [], "c": []}
        for ticks, subject in calls:
            clock.advance(ticks * TICK_S)
            waits = [_wait(admitted[subject], window, clock.now_s) for window in windows]
            decision = acquire(store, subject, windows)
            assert decision.allowed is (max(waits) <= 0)
            assert decision.retry_after_s == max(*waits, 0)
            if decision.allowed:
                admitted[subject].append(clock.now_s)
            else:
                assert decision.window in windows
            for window, remaining, _ in store.remaining(subject, windows):
                used = sum(time > clock.now_s - window.seconds for time in admitted[subject])
                assert remaining == window.limit - used
        for window in windows:
            for times in admitted.values():
                assert all(sum(t <= u < t + window.seconds for u in times) <= window.limit for t in times)


def _wait(admitted: list[float], window: Window, now: float) -> float:
    """How long until the window has room; not above zero if it has some now."""
    if len(admitted) < window.limit:
        return 0.0
    return admitted[-window.limit] + window.seconds - now
