"""The header fields of limits, alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.rate import Decision, Remaining, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.stages.limit_fields import LimitFields, add_request_fields, duration
from tests.support.exchange import headers_of
from tests.support.structured_fields import parse_list

SECOND, HOUR = Window("second", 2, 1), Window("hour", 50, 3600)


def decision(*left: Remaining, window: Window | None = None) -> Decision:
    return Decision(window is None, left=left, window=window)


class TestLimitFields:
    def test_every_window_is_named_after_its_rule(self) -> None:
        fields = LimitFields((Rule("limit", (SECOND, HOUR), SLIDING), Rule("limit.per_key", (HOUR,), SLIDING)))
        value = b'"limit.second";q=2;w=1, "limit.hour";q=50;w=3600, "limit.per_key.hour";q=50;w=3600'
        assert fields.policy == (b"ratelimit-policy", b"RateLimit-Policy: %b\r\n" % value, value)

    @pytest.mark.parametrize(
        ("reset_s", "elapsed_s", "told"), [(0.0, 0.0, 0), (0.1, 0.0, 1), (1.0, 0.0, 1), (5.5, 2.0, 4), (5.5, 9.0, 0)]
    )
    def test_resets_are_whole_seconds_rounded_up(self, reset_s: float, elapsed_s: float, told: int) -> None:
        fields = LimitFields((Rule("limit", (HOUR,), SLIDING),))
        value = b'"limit.hour";r=7;t=%d' % told
        line = (b"ratelimit", b"RateLimit: %b\r\n" % value, value)
        assert fields.remaining(decision(Remaining(HOUR, 7, reset_s)), elapsed_s) == line

    @given(
        limits=st.lists(st.integers(1, 10**14), min_size=1, max_size=4),
        left=st.integers(0, 10**14),
        reset_s=st.floats(0, 86400),
    )
    def test_both_are_structured_fields(self, limits: list[int], left: int, reset_s: float) -> None:
        windows = tuple(
            Window(name, n, 60) for name, n in zip(("second", "minute", "hour", "day"), limits, strict=False)
        )
        rules = (Rule("a", windows, SLIDING), Rule("a.address", windows[:1], SLIDING))
        fields = LimitFields(rules)
        labels = [label for rule in rules for label in rule.labels]
        policies = parse_list([fields.policy[2].decode()])
        assert [(name, p["q"]) for name, p in policies] == list(zip(labels, [*limits, limits[0]], strict=True))
        remaining = fields.remaining(decision(*[Remaining(w, left, reset_s) for w in (*windows, windows[0])]), 0.0)
        told = parse_list([remaining[2].decode()])
        assert [name for name, _ in told] == labels
        assert all(p["r"] == left and isinstance(p["t"], int) and p["t"] >= reset_s for _, p in told)


class TestRequestFields:
    def told(self, *decisions: Decision) -> list[str]:
        headers = headers_of()
        for one in decisions:
            add_request_fields(headers, one)
        assert [name for name, _ in headers.pairs()] == [
            "X-RateLimit-Limit-Requests",
            "X-RateLimit-Remaining-Requests",
            "X-RateLimit-Reset-Requests",
        ]
        return [value for _, value in headers.pairs()]

    def test_the_window_with_least_left_is_told(self) -> None:
        assert self.told(decision(Remaining(SECOND, 1, 0.25), Remaining(HOUR, 49, 9.0))) == ["2", "1", "250ms"]
        assert self.told(decision(Remaining(SECOND, 2, 0.0), Remaining(HOUR, 1, 90.5))) == ["50", "1", "1m30.5s"]

    def test_the_one_that_refused_goes_before_another_that_has_nothing_left(self) -> None:
        left = (Remaining(SECOND, 0, 0.25), Remaining(HOUR, 0, 9.0))
        assert self.told(decision(*left, window=HOUR)) == ["50", "0", "9s"]

    def test_of_several_limits_one_is_told(self) -> None:
        much, little = decision(Remaining(HOUR, 9, 1.0)), decision(Remaining(SECOND, 1, 1.0))
        assert self.told(much, little) == self.told(little, much) == ["2", "1", "1s"]
        # The one that refuses comes first, as answers go back through the chain.
        refusing = decision(Remaining(HOUR, 0, 5.0), window=HOUR)
        assert self.told(refusing, decision(Remaining(SECOND, 0, 1.0))) == ["50", "0", "5s"]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (0.9991, "1s"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (59.9995, "1m0s"),
        (90.5, "1m30.5s"),
        (360.0, "6m0s"),
        (3600.0, "1h0m0s"),
        (86_399.0, "23h59m59s"),
        (86_400.0, "24h0m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, written: str) -> None:
    assert duration(seconds) == written


@given(st.floats(0, 90_000))
def test_no_duration_is_too_short_or_a_millisecond_too_long(seconds: float) -> None:
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?|(\d+)ms", duration(seconds))
    assert found is not None
    hours, minutes, rest, milliseconds = (float(part or 0) for part in found.groups())
    read = hours * 3600 + minutes * 60 + rest + milliseconds / 1000
    assert seconds - 1e-6 <= read <= seconds + 0.001 + 1e-6
