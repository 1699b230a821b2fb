"""The sliding log against the plainest model there is: a list of every request ever admitted."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.rate import Rule, Window
from proxy.core.sliding import MAX_LIMIT, SLIDING
from tests.core.models import SlidingModel

TICK_S = 1 / 1024
"""Times of the model are multiples of this: floats hold them and their sums exactly."""

Gaps = list[int]
Steps = list[tuple[int, int | None]]
Wait = tuple[float, Window | None]

RULES = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=4, unique_by=lambda pair: pair[1]
).map(lambda pairs: rule(*(Window(f"w{seconds}", limit, seconds) for limit, seconds in pairs)))
# Gaps of nothing, of about a window, one tick beside it, and anything between.
GAPS = st.one_of(
    st.just(0),
    st.integers(0, 7 * 1024),
    st.builds(lambda seconds, ticks: max(seconds * 1024 + ticks, 0), st.integers(0, 6), st.integers(-1, 1)),
)
STEPS = st.lists(st.tuples(GAPS, st.one_of(st.none(), st.none(), st.integers(0, 40))), max_size=40)
"""(ticks since the step before, None for a request or which earlier one is given back)"""


def rule(*windows: Window) -> Rule:
    return Rule("limit", windows, SLIDING)


def admit(ring: array[float], asked: Rule, now: float) -> Wait:
    wait, window = SLIDING.wait(ring, asked, now)
    if window is None:
        SLIDING.charge(ring, asked, now)
    return wait, window


class TestAgainstTheModel:
    @given(asked=RULES, steps=STEPS)
    def test_it_admits_whatever_fits_and_nothing_else(self, asked: Rule, steps: Steps) -> None:
        ring: array[float] = array("d")
        model = SlidingModel(asked)
        now = 1000.0
        for ticks, given_back in steps:
            now += ticks * TICK_S
            if given_back is None:
                waits = model.waits(now)
                wait, window = admit(ring, asked, now)
                assert wait == max(waits.values())
                assert window is None or waits[window] == wait > 0
                if window is None:
                    assert wait == 0
                    model.charge(now)
            elif model.kept:
                at = model.kept[given_back % len(model.kept)]
                # What no window holds any more may have been forgotten.
                assert SLIDING.give_back(ring, asked, at) or at <= now - asked.longest_s
                model.give_back(at)
            assert SLIDING.remaining(ring, asked, now) == model.remaining(now)
            assert len(ring) <= asked.capacity
            assert list(ring) == sorted(ring)
        model.assert_bound()

    @given(asked=RULES, gaps=st.lists(GAPS, min_size=1, max_size=40))
    def test_admitting_at_once_is_the_same_step_by_step(self, asked: Rule, gaps: list[int]) -> None:
        account: array[float] = array("d")
        stepwise: array[float] = array("d")
        # Times that floats do not hold exactly, too: both round alike.
        for unit in (TICK_S, 0.1 / 1024):
            now = 1000.0 if unit == TICK_S else 1e6
            for gap in gaps:
                now += gap * unit
                before = account[:]
                left = SLIDING.admit(account, asked, now)
                assert (left is None) is (admit(stepwise, asked, now)[1] is not None)
                assert account == stepwise
                if left is None:
                    assert account == before
                else:
                    assert left == SLIDING.remaining(stepwise, asked, now)

    @given(asked=RULES, gaps=st.lists(GAPS, min_size=1, max_size=40))
    def test_a_wait_is_exact(self, asked: Rule, gaps: Gaps) -> None:
        ring: array[float] = array("d")
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            wait, window = admit(ring, asked, now)
            if window is not None:
                assert wait > 0
                assert SLIDING.wait(ring, asked, now + wait - TICK_S) == (TICK_S, window)
                assert SLIDING.wait(ring, asked, now + wait) == (0, None)
                assert SLIDING.wait(ring, rule(window), now) == (wait, window)

    @given(asked=RULES, gaps=st.lists(GAPS, min_size=1, max_size=40))
    def test_a_reset_is_when_the_next_unit_comes_back(self, asked: Rule, gaps: Gaps) -> None:
        ring: array[float] = array("d")
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            admit(ring, asked, now)
            for index, (window, remaining, reset_s) in enumerate(SLIDING.remaining(ring, asked, now)):
                assert window is asked.windows[index]
                if remaining == window.limit:
                    assert reset_s == 0
                else:
                    assert SLIDING.remaining(ring, asked, now + reset_s - TICK_S)[index].remaining == remaining
                    assert SLIDING.remaining(ring, asked, now + reset_s)[index].remaining > remaining

    @given(both=st.tuples(RULES, RULES), steps=st.lists(st.tuples(GAPS, st.integers(0, 1)), min_size=1, max_size=40))
    def test_rules_that_share_an_account_say_when_the_next_unit_comes_back(
        self, both: tuple[Rule, Rule], steps: list[tuple[int, int]]
    ) -> None:
        # The one may have admitted more than the other does.
        for asked in both:
            asked.capacity, asked.longest_s = (
                max(rule.capacity for rule in both),
                max(rule.longest_s for rule in both),
            )
        ring: array[float] = array("d")
        now = 1000.0
        for gap, which in steps:
            now += gap * TICK_S
            admit(ring, both[which], now)
            for asked in both:
                for window, remaining, reset_s in SLIDING.remaining(ring, asked, now):
                    alone = rule(window)
                    assert (remaining == 0) is (SLIDING.wait(ring, alone, now)[1] is not None)
                    if remaining == 0:
                        assert reset_s == SLIDING.wait(ring, alone, now)[0]
                    if remaining < window.limit:
                        (before,) = SLIDING.remaining(ring, alone, now + reset_s - TICK_S)
                        (after,) = SLIDING.remaining(ring, alone, now + reset_s)
                        assert before.remaining == remaining < after.remaining

    @given(asked=RULES, gaps=st.lists(GAPS, max_size=30), knocks=st.integers(1, 5))
    def test_refused_calls_consume_nothing(self, asked: Rule, gaps: Gaps, knocks: int) -> None:
        patient: array[float] = array("d")
        impatient: array[float] = array("d")
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            expected = admit(patient, asked, now)
            assert admit(impatient, asked, now) == expected
            if expected[1] is not None:
                for _ in range(knocks):
                    assert admit(impatient, asked, now) == expected
        assert impatient == patient


SECOND, MINUTE, HOUR = Window("second", 1, 1), Window("minute", 3, 60), Window("hour", 50, 3600)


class TestTheEdge:
    """R05: fixed windows and token buckets admit up to twice the limit around the edge of a window."""

    @pytest.mark.parametrize("limit", [1, 7, 1000, MAX_LIMIT])
    def test_a_window_holds_the_limit_and_no_more(self, limit: int) -> None:
        asked = rule(Window("minute", limit, 60))
        ring: array[float] = array("d")
        # The last tick before a whole minute, the minute itself, the ticks around the end of the window.
        moments = (120 - TICK_S, 120.0, 180 - 2 * TICK_S, 180 - TICK_S, 180.0)
        admitted = [sum(admit(ring, asked, now)[1] is None for _ in range(limit + 2)) for now in moments]
        assert admitted == [limit, 0, 0, limit, 0]

    @pytest.mark.parametrize(("now", "fits"), [(60 - TICK_S, False), (60.0, True), (60 + TICK_S, True)])
    def test_a_request_is_in_its_window_until_just_before_the_end(self, now: float, fits: bool) -> None:
        ring: array[float] = array("d")
        assert [admit(ring, rule(MINUTE), time)[1] for time in (0.0, 59.0, 59.5)] == [None] * 3
        assert (admit(ring, rule(MINUTE), now)[1] is None) is fits
        assert admit(ring, rule(MINUTE), max(now, 60.0) + TICK_S)[1] is (MINUTE if fits else None)


class TestGivingBack:
    def test_the_other_times_stay(self) -> None:
        ring = array("d", [1.0, 2.0, 3.0])
        assert SLIDING.give_back(ring, rule(MINUTE), 2.0)
        assert ring == array("d", [1.0, 3.0])
        assert not SLIDING.give_back(ring, rule(MINUTE), 2.0)

    @pytest.mark.parametrize("at", [0.0, 2.5, 4.0])
    def test_what_is_not_there_changes_nothing(self, at: float) -> None:
        ring = array("d", [1.0, 2.0, 3.0])
        assert not SLIDING.give_back(ring, rule(MINUTE), at)
        assert ring == array("d", [1.0, 2.0, 3.0])
        assert not SLIDING.give_back(array("d"), rule(MINUTE), at)

    def test_one_of_several_at_the_same_time(self) -> None:
        ring = array("d", [1.0, 1.0, 1.0])
        assert SLIDING.give_back(ring, rule(MINUTE), 1.0)
        assert ring == array("d", [1.0, 1.0])

    def test_a_full_ring_has_dropped_nothing_that_still_counts(self) -> None:
        ring: array[float] = array("d")
        for now in (0.0, 1.0, 2.0, 60.0):
            assert admit(ring, rule(MINUTE), now) == (0, None)
        assert SLIDING.give_back(ring, rule(MINUTE), 60.0)
        assert admit(ring, rule(MINUTE), 60.0) == (0, None)
        assert admit(ring, rule(MINUTE), 60.0) == (1.0, MINUTE)


class TestExamples:
    def test_an_empty_account_admits(self) -> None:
        assert SLIDING.wait(array("d"), rule(SECOND, MINUTE, HOUR), 0.0) == (0, None)

    def test_the_window_that_refuses_longest_is_named(self) -> None:
        ring = array("d", [0.0, 1.0, 2.0])
        assert SLIDING.wait(ring, rule(SECOND, MINUTE, HOUR), 2.5) == (57.5, MINUTE)
        assert SLIDING.wait(ring, rule(HOUR, MINUTE, SECOND), 2.5) == (57.5, MINUTE)
        assert SLIDING.wait(ring, rule(SECOND), 2.5) == (0.5, SECOND)

    def test_remaining_of_several_windows(self) -> None:
        ring, asked = array("d", [0.0, 30.0, 59.5]), rule(SECOND, MINUTE, HOUR)
        assert SLIDING.remaining(ring, asked, 60.0) == ((SECOND, 0, 0.5), (MINUTE, 1, 30.0), (HOUR, 47, 3540.0))
        assert SLIDING.remaining(ring, rule(MINUTE), 200.0) == ((MINUTE, 3, 0.0),)

    def test_the_next_unit_of_a_ring_charged_under_a_larger_limit(self) -> None:
        ring = array("d", [0.0, 10.0, 20.0, 30.0, 40.0])
        assert SLIDING.wait(ring, rule(MINUTE), 50.0) == (30.0, MINUTE)
        assert SLIDING.remaining(ring, rule(MINUTE), 50.0) == ((MINUTE, 0, 30.0),)
        assert SLIDING.remaining(ring, rule(MINUTE), 80.0) == ((MINUTE, 1, 10.0),)

    def test_a_ring_charged_under_a_larger_limit_shows_no_negative_rest(self) -> None:
        assert SLIDING.remaining(array("d", [0.0, 0.1, 0.2]), rule(SECOND), 0.5)[0].remaining == 0

    def test_the_last_charge(self) -> None:
        assert SLIDING.last(array("d", [1.0, 2.0])) == 2.0
