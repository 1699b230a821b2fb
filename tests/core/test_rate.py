"""Window arithmetic against the plainest model there is: a list of every request ever admitted."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.rate import ALLOWED, Decision, Window, charge, decide, remaining

TICK_S = 1 / 1024
"""Times of the model are multiples of this: floats hold them and their sums exactly."""

WINDOW_LISTS = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=4, unique_by=lambda pair: pair[1]
).map(lambda pairs: tuple(Window(f"w{seconds}", limit, seconds) for limit, seconds in pairs))
# Gaps of nothing, of about a window, one tick beside it, and anything between.
GAPS = st.one_of(
    st.just(0),
    st.integers(0, 7 * 1024),
    st.builds(lambda seconds, ticks: max(seconds * 1024 + ticks, 0), st.integers(0, 6), st.integers(-1, 1)),
)


def admit(ring: array[float], windows: tuple[Window, ...], now: float) -> Decision:
    decision = decide(ring, windows, now)
    if decision.allowed:
        charge(ring, max(window.limit for window in windows), now)
    return decision


def count_in(admitted: list[float], window: Window, now: float) -> int:
    """How many of the requests lie in the window that ends with ``now``, which itself belongs to it."""
    return sum(now - window.seconds < time <= now for time in admitted)


def fits(admitted: list[float], windows: tuple[Window, ...], now: float) -> bool:
    return all(count_in(admitted, window, now) < window.limit for window in windows)


class TestAgainstTheModel:
    @given(windows=WINDOW_LISTS, gaps=st.lists(GAPS, max_size=40))
    def test_never_more_than_the_limit_in_any_window(self, windows: tuple[Window, ...], gaps: list[int]) -> None:
        ring: array[float] = array("d")
        admitted: list[float] = []
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            if admit(ring, windows, now).allowed:
                admitted.append(now)
        for window in windows:
            # A fullest window can always be moved until it begins with a request.
            for start in admitted:
                within = [time for time in admitted if start <= time < start + window.seconds]
                assert len(within) <= window.limit

    @given(windows=WINDOW_LISTS, gaps=st.lists(GAPS, max_size=40))
    def test_it_admits_whatever_fits_and_nothing_else(self, windows: tuple[Window, ...], gaps: list[int]) -> None:
        ring: array[float] = array("d")
        admitted: list[float] = []
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            fitting = fits(admitted, windows, now)
            assert admit(ring, windows, now).allowed is fitting
            if fitting:
                admitted.append(now)
            for window in windows:
                self._check_remaining(ring, admitted, window, now)

    def _check_remaining(self, ring: array[float], admitted: list[float], window: Window, now: float) -> None:
        left = remaining(ring, window, now)
        used = count_in(admitted, window, now)
        assert left.window is window
        assert left.remaining == window.limit - used
        if used:
            assert count_in(admitted, window, now + left.reset_s - TICK_S) == used
            assert count_in(admitted, window, now + left.reset_s) < used
        else:
            assert left.reset_s == 0

    @given(windows=WINDOW_LISTS, gaps=st.lists(GAPS, min_size=1, max_size=40))
    def test_retry_after_is_exact(self, windows: tuple[Window, ...], gaps: list[int]) -> None:
        ring: array[float] = array("d")
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            decision = admit(ring, windows, now)
            if not decision.allowed:
                assert decision.retry_after_s > 0
                assert decision.window in windows
                assert not decide(ring, windows, now + decision.retry_after_s - TICK_S).allowed
                assert decide(ring, windows, now + decision.retry_after_s).allowed
                assert decide(ring, (decision.window,), now).retry_after_s == decision.retry_after_s

    @given(windows=WINDOW_LISTS, gaps=st.lists(GAPS, max_size=30), knocks=st.integers(1, 5))
    def test_refused_calls_consume_nothing(self, windows: tuple[Window, ...], gaps: list[int], knocks: int) -> None:
        patient: array[float] = array("d")
        impatient: array[float] = array("d")
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            expected = admit(patient, windows, now)
            assert admit(impatient, windows, now) == expected
            if not expected.allowed:
                for _ in range(knocks):
                    assert admit(impatient, windows, now) == expected
        assert impatient == patient

    @given(windows=WINDOW_LISTS, gaps=st.lists(GAPS, max_size=60))
    def test_a_ring_never_outgrows_the_largest_limit(self, windows: tuple[Window, ...], gaps: list[int]) -> None:
        ring: array[float] = array("d")
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            admit(ring, windows, now)
            assert len(ring) <= max(window.limit for window in windows)
            assert list(ring) == sorted(ring)


SECOND, MINUTE, HOUR = Window("second", 1, 1), Window("minute", 3, 60), Window("hour", 50, 3600)


class TestExamples:
    def test_an_empty_ring_admits(self) -> None:
        assert decide(array("d"), (SECOND, MINUTE, HOUR), 0.0) is ALLOWED

    def test_the_window_that_refuses_longest_is_named(self) -> None:
        ring = array("d", [0.0, 1.0, 2.0])
        assert decide(ring, (SECOND, MINUTE, HOUR), 2.5) == Decision(False, 57.5, MINUTE)
        assert decide(ring, (SECOND,), 2.5) == Decision(False, 0.5, SECOND)

    def test_the_order_of_the_windows_does_not_matter(self) -> None:
        ring = array("d", [0.0, 1.0, 2.0])
        assert decide(ring, (HOUR, MINUTE, SECOND), 2.5) == decide(ring, (SECOND, MINUTE, HOUR), 2.5)

    @pytest.mark.parametrize(("now", "allowed"), [(59.999, False), (60.0, True), (60.001, True)])
    def test_the_edge_of_a_window_lets_no_second_batch_in(self, now: float, allowed: bool) -> None:
        # Fixed windows and token buckets admit up to twice the limit around such an edge.
        ring: array[float] = array("d")
        assert [admit(ring, (MINUTE,), time).allowed for time in (0.0, 59.0, 59.5)] == [True] * 3
        assert admit(ring, (MINUTE,), now).allowed is allowed

    def test_remaining_of_several_windows(self) -> None:
        ring = array("d", [0.0, 30.0, 59.5])
        assert remaining(ring, SECOND, 60.0) == (SECOND, 0, 0.5)
        assert remaining(ring, MINUTE, 60.0) == (MINUTE, 1, 30.0)
        assert remaining(ring, HOUR, 60.0) == (HOUR, 47, 3540.0)
        assert remaining(ring, MINUTE, 200.0) == (MINUTE, 3, 0.0)

    def test_a_ring_charged_under_a_larger_limit_shows_no_negative_rest(self) -> None:
        assert remaining(array("d", [0.0, 0.1, 0.2]), SECOND, 0.5).remaining == 0
