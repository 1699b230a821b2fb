"""The generic cell rate algorithm against a leaky bucket in fractions, and its promise over every interval."""

from __future__ import annotations

from array import array
from fractions import Fraction
from math import ulp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.gcra import GCRA
from proxy.core.rate import Rule, Window
from tests.core.models import GcraModel

TICK_S = 1 / 1024
"""Times of the model are multiples of this: floats hold them and their sums exactly."""

Steps = list[tuple[int, int | None]]

# Limits divide their windows into whole ticks, so that waits are exact, too.
RULES = st.tuples(
    st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 6, 24]), st.integers(1, 4)),
        min_size=1,
        max_size=3,
        unique_by=lambda pair: pair[1],
    ),
    st.integers(1, 7),
).map(lambda drawn: rule(*(Window(f"w{n}", limit, 24 * n) for limit, n in drawn[0]), burst=drawn[1]))
# Gaps of nothing, of about a multiple of what requests are apart, one tick beside it, and anything between.
GAPS = st.one_of(
    st.just(0),
    st.integers(0, 7 * 1024),
    st.builds(lambda seconds, ticks: max(seconds * 1024 + ticks, 0), st.integers(0, 30), st.integers(-1, 1)),
)
STEPS = st.lists(st.tuples(GAPS, st.one_of(st.none(), st.none(), st.integers(0, 40))), max_size=30)
"""(ticks since the step before, None for a request or which earlier one is given back)"""


def rule(*windows: Window, burst: int = 1) -> Rule:
    return Rule("limit", windows, GCRA, burst=burst)


def admit(account: array[float], asked: Rule, now: float) -> tuple[float, Window | None]:
    wait, window = GCRA.wait(account, asked, now)
    if window is None:
        GCRA.charge(account, asked, now)
    return wait, window


def burst_at(account: array[float], asked: Rule, now: float, most: int = 10_000) -> int:
    """How many requests are admitted at one moment."""
    for n in range(most):
        if admit(account, asked, now)[1] is not None:
            return n
    return most


class TestAgainstTheModel:
    @given(asked=RULES, steps=STEPS)
    def test_it_admits_whatever_a_leaky_bucket_does(self, asked: Rule, steps: Steps) -> None:
        account: array[float] = array("d")
        model = GcraModel(asked)
        now = 1000.0
        for ticks, given_back in steps:
            now += ticks * TICK_S
            if given_back is None:
                waits = model.waits(now)
                wait, window = admit(account, asked, now)
                assert wait == max(waits.values())
                assert window is None or waits[window] == wait > 0
                if window is None:
                    assert wait == 0
                    model.charge(now)
            elif model.kept:
                at = model.kept[given_back % len(model.kept)]
                assert GCRA.give_back(account, asked, at) is model.give_back(at)
            assert GCRA.remaining(account, asked, now) == model.remaining(now)
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
                left = GCRA.admit(account, asked, now)
                assert (left is None) is (admit(stepwise, asked, now)[1] is not None)
                assert account == stepwise
                if left is None:
                    assert account == before
                else:
                    assert left == GCRA.remaining(stepwise, asked, now)

    @given(asked=RULES, gaps=st.lists(GAPS, min_size=1, max_size=40))
    def test_a_wait_is_exact(self, asked: Rule, gaps: list[int]) -> None:
        account: array[float] = array("d")
        now = 1000.0
        for gap in gaps:
            now += gap * TICK_S
            wait, window = admit(account, asked, now)
            if window is not None:
                assert wait > 0
                assert GCRA.wait(account, asked, now + wait - TICK_S)[0] == TICK_S
                assert GCRA.wait(account, asked, now + wait) == (0, None)

    @given(asked=RULES, gaps=st.lists(GAPS, max_size=30), knocks=st.integers(1, 5))
    def test_refused_calls_consume_nothing(self, asked: Rule, gaps: list[int], knocks: int) -> None:
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


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    asked = rule(Window("minute", 2, 60), burst=2)
    account: array[float] = array("d")
    assert [GCRA.admit(account, asked, now) is not None for now in (1000.0, 990.0, 980.0)] == [True, True, False]


class TestTheBound:
    """R05: what a window may hold at most is reached, and not passed."""

    @pytest.mark.parametrize(("limit", "burst"), [(1, 1), (6, 1), (6, 2), (6, 6), (64, 10)])
    def test_a_window_holds_limit_and_burst_less_one(self, limit: int, burst: int) -> None:
        window = Window("w", limit, 192)
        asked = rule(window, burst=burst)
        account: array[float] = array("d")
        apart = window.seconds / limit
        # The whole burst, then each unit as it comes back, until the window that the burst began is over.
        admitted = [1000.0] * burst_at(account, asked, 1000.0)
        assert len(admitted) == burst
        for n in range(1, limit + 1):
            now = 1000 + n * apart
            assert admit(account, asked, now - TICK_S)[1] is window
            assert burst_at(account, asked, now) == 1
            admitted.append(now)
        assert sum(1000 <= time < 1000 + window.seconds for time in admitted) == limit + burst - 1

    def test_a_pause_saves_no_more_than_the_burst(self) -> None:
        asked = rule(Window("minute", 60, 60), burst=5)
        account: array[float] = array("d")
        for now in (1000.0, 1004.0, 1009.0, 100_000.0):
            burst_at(account, asked, now)
        assert burst_at(account, asked, 200_000.0) == 5

    @pytest.mark.parametrize("seconds", [1, 86_400])
    @pytest.mark.parametrize("limit", [1, 7, 10, 1_000_000])
    @pytest.mark.parametrize("begin", [0.0, 1000.1, 3_000_000.3])
    def test_any_limit(self, limit: int, seconds: int, begin: float) -> None:
        for burst in {1, min(limit, 7), min(limit, 500)}:
            asked = rule(Window("w", limit, seconds), burst=burst)
            account: array[float] = array("d")
            assert burst_at(account, asked, begin) == burst
            wait, _ = GCRA.wait(account, asked, begin)
            assert wait == pytest.approx(seconds / limit)
            assert admit(account, asked, begin + wait * 0.99)[1] is not None
            assert burst_at(account, asked, begin + wait * 1.01) == 1
            assert burst_at(account, asked, begin + 4 * seconds) == burst


class TestRounding:
    """Where W / L or the times are no floats, nothing adds up: neither for the caller nor against him."""

    @pytest.mark.parametrize(
        ("limit", "seconds", "burst", "begin", "times"),
        [
            (7, 1, 1, 1000.1, 100_000),
            (7, 1, 7, 3_000_000.3, 20_000),
            (49, 3600, 10, 123_456.789, 20_000),
            (1_000_000, 1, 3, 3_000_000.3, 20_000),
        ],
    )
    def test_never_more_than_promised_however_long(
        self, limit: int, seconds: int, burst: int, begin: float, times: int
    ) -> None:
        asked = rule(Window("w", limit, seconds), burst=burst)
        account: array[float] = array("d")
        rate = Fraction(limit, seconds)
        now, surplus = begin, Fraction(0)
        count = burst_at(account, asked, begin)
        assert count == burst
        for _ in range(times):
            # As soon as it is allowed, to the last bit of the clock.
            now += GCRA.wait(account, asked, now)[0]
            if admit(account, asked, now)[1] is None:
                count += 1
                surplus = max(surplus, count - burst - rate * (Fraction(now) - Fraction(begin)))
        # What the clock cannot tell apart passes, and the last bits of what the bucket holds: neither adds up.
        assert surplus <= rate * Fraction(ulp(now)) + Fraction(burst, 10**9)
        assert count > 0.99 * times, "the time that was told is hardly ever too early by a bit"
        assert rate * (Fraction(now) - Fraction(begin)) - (count - burst) < 1, "nor does anything get lost"

    @pytest.mark.parametrize(
        ("limit", "seconds", "burst", "begin"),
        [(7, 1, 2, 1000.1), (7, 1, 7, 3_000_000.3), (49, 3600, 2, 123_456.789), (1_000_000, 1, 2, 3_000_000.3)],
    )
    def test_an_even_stream_passes(self, limit: int, seconds: int, burst: int, begin: float) -> None:
        asked = rule(Window("w", limit, seconds), burst=burst)
        account: array[float] = array("d")
        for n in range(20_000):
            assert admit(account, asked, begin + n * seconds / limit) == (0, None)

    def test_what_is_left_is_whole_where_it_fits(self) -> None:
        asked = rule(Window("second", 10, 1), burst=10)
        account: array[float] = array("d")
        now = 1000.0
        for _ in range(10):
            assert admit(account, asked, now) == (0, None)
        for n in range(1, 10):
            now += GCRA.remaining(account, asked, now)[0].reset_s
            assert GCRA.remaining(account, asked, now)[0].remaining == n
            assert GCRA.wait(account, asked, now) == (0, None)


class TestGivingBack:
    ASKED = rule(Window("minute", 60, 60), Window("hour", 60, 3600), burst=2)

    def test_the_last_charge(self) -> None:
        account: array[float] = array("d")
        admit(account, self.ASKED, 1000.0)
        before = GCRA.remaining(account, self.ASKED, 1001.0)
        admit(account, self.ASKED, 1001.0)
        assert GCRA.remaining(account, self.ASKED, 1001.0) != before
        assert GCRA.give_back(account, self.ASKED, 1001.0)
        assert GCRA.remaining(account, self.ASKED, 1001.0) == before

    def test_an_earlier_charge_stays(self) -> None:
        account: array[float] = array("d")
        admit(account, self.ASKED, 1000.0)
        admit(account, self.ASKED, 1001.0)
        before = account[:]
        assert not GCRA.give_back(account, self.ASKED, 1000.0)
        assert account == before

    def test_an_empty_account_has_nothing_to_give_back(self) -> None:
        account: array[float] = array("d")
        assert not GCRA.give_back(account, self.ASKED, 1000.0)
        assert not account


class TestExamples:
    MINUTE, HOUR = Window("minute", 30, 60), Window("hour", 60, 3600)

    def test_an_empty_account_admits(self) -> None:
        asked = rule(self.MINUTE, self.HOUR, burst=5)
        assert GCRA.wait(array("d"), asked, 0.0) == (0, None)
        assert GCRA.remaining(array("d"), asked, 0.0) == ((self.MINUTE, 5, 0.0), (self.HOUR, 5, 0.0))

    def test_the_window_that_refuses_longest_is_named(self) -> None:
        account: array[float] = array("d")
        for windows in ((self.MINUTE, self.HOUR), (self.HOUR, self.MINUTE)):
            account = array("d")
            assert admit(account, rule(*windows), 1000.0) == (0, None)
            assert GCRA.wait(account, rule(*windows), 1001.0) == (59.0, self.HOUR)

    def test_a_burst_is_never_more_than_the_limit(self) -> None:
        asked = rule(Window("second", 1, 1), self.MINUTE, burst=10)
        assert [left.remaining for left in GCRA.remaining(array("d"), asked, 0.0)] == [1, 10]
        assert burst_at(array("d"), asked, 1000.0) == 1

    def test_under_a_smaller_limit_there_is_no_negative_rest(self) -> None:
        account: array[float] = array("d")
        assert burst_at(account, rule(self.MINUTE, burst=5), 1000.0) == 5
        smaller = rule(Window("minute", 6, 60), burst=2)
        assert GCRA.remaining(account, smaller, 1000.0) == ((smaller.windows[0], 0, 40.0),)
        assert GCRA.wait(account, smaller, 1000.0) == (40.0, smaller.windows[0])

    def test_a_clock_that_goes_back_gives_nothing_away(self) -> None:
        account: array[float] = array("d")
        asked = rule(self.MINUTE)
        assert admit(account, asked, 1000.0) == (0, None)
        assert admit(account, asked, 900.0)[1] is self.MINUTE

    def test_the_account_is_a_number_for_each_window_and_the_time(self) -> None:
        account: array[float] = array("d")
        burst_at(account, rule(self.MINUTE, Window("day", 1_000_000, 86_400), burst=30), 1000.0)
        assert len(account) == 3
        assert GCRA.last(account) == 1000.0
