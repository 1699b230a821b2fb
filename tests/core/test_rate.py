"""The words of limits: what a rule is called where it is counted, and what each of several hosts makes of it."""

from __future__ import annotations

import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, Claim, Decision, Rule, Window
from proxy.core.sliding import SLIDING

SECOND, MINUTE, HOUR = Window("second", 1, 1), Window("minute", 30, 60), Window("hour", 50, 3600)


class TestRule:
    def test_what_its_windows_come_to(self) -> None:
        rule = Rule("limit", (SECOND, HOUR, MINUTE), SLIDING)
        assert (rule.capacity, rule.longest_s) == (50, 3600)
        assert rule.labels == ("limit.second", "limit.hour", "limit.minute")
        assert (rule.burst, rule.max_subjects, rule.on_store_error) == (1, 200_000, "deny")

    def test_a_rule_without_windows_limits_nothing(self) -> None:
        rule = Rule("limit", (), SLIDING)
        assert (rule.capacity, rule.longest_s, rule.labels) == (0, 0, ())

    def test_it_shows_what_it_says(self) -> None:
        assert (
            repr(Rule("limit.per_key", (SECOND, HOUR), GCRA))
            == "<Rule limit.per_key: 1 per second, 50 per hour (gcra)>"
        )


class TestSpace:
    @pytest.mark.parametrize("algorithm", [SLIDING, GCRA])
    def test_other_limits_of_the_same_windows_have_the_same_accounts(self, algorithm: Algorithm) -> None:
        rule = Rule("limit", (SECOND, MINUTE), algorithm)
        larger = Rule("limit", (Window("second", 9, 1), Window("minute", 99, 60)), algorithm, burst=5, max_subjects=7)
        assert rule.space == larger.space

    def test_times_serve_any_windows(self) -> None:
        assert Rule("limit", (SECOND,), SLIDING).space == Rule("limit", (HOUR, MINUTE), SLIDING).space

    def test_the_numbers_of_gcra_belong_to_their_windows(self) -> None:
        spaces = {Rule("limit", windows, GCRA).space for windows in ((SECOND,), (MINUTE,), (SECOND, MINUTE))}
        assert len({*spaces, Rule("limit", (MINUTE, SECOND), GCRA).space}) == 4

    def test_names_and_algorithms_are_apart(self) -> None:
        rules = [
            Rule(name, (MINUTE,), algorithm) for name in ("limit", "limit.per_key") for algorithm in (SLIDING, GCRA)
        ]
        assert len({rule.space for rule in rules}) == 4


class TestShare:
    @pytest.mark.parametrize(
        ("hosts", "limit", "burst"), [(1, 50, 10), (2, 25, 5), (3, 17, 4), (50, 1, 1), (51, 1, 1)]
    )
    def test_each_host_has_its_part_rounded_up(self, hosts: int, limit: int, burst: int) -> None:
        rule = Rule("limit", (HOUR, SECOND), GCRA, burst=10, max_subjects=99, on_store_error="local")
        share = rule.share(hosts)
        assert share.windows == (Window("hour", limit, 3600), SECOND)
        assert share.burst == burst
        assert (share.name, share.algorithm, share.max_subjects) == ("limit", GCRA, 99)
        assert (share.on_store_error, share.space, share.labels) == ("local", rule.space, rule.labels)
        assert rule.windows == (HOUR, SECOND), "the rule itself is left as it was"

    def test_what_it_has_in_common_with_other_rules_stays(self) -> None:
        rule = Rule("limit", (SECOND,), SLIDING)
        rule.capacity, rule.longest_s, rule.crowd = 101, 3600, ""
        share = rule.share(2)
        assert (share.capacity, share.longest_s, share.crowd) == (51, 3600, "")
        assert share.windows == (SECOND,)

    def test_the_shares_are_no_less_than_the_limit_and_hardly_more(self) -> None:
        for limit in range(1, 200):
            for hosts in range(1, 40):
                (window,) = Rule("limit", (Window("hour", limit, 3600),), SLIDING).share(hosts).windows
                assert limit <= window.limit * hosts < limit + hosts


class TestDecision:
    def test_what_it_says_if_nothing_is_known(self) -> None:
        assert Decision(True) == (True, 0.0, None, None, (), 0.0, False, False, False)

    def test_the_claims_of_one_rule_are_told_apart_by_subject(self) -> None:
        rule = Rule("limit", (HOUR,), SLIDING)
        assert Claim(rule, "a") == Claim(rule, "a")
        assert Claim(rule, "a") != Claim(rule, "b")
        assert Claim(rule, "a") != Claim(Rule("limit", (HOUR,), SLIDING), "a"), "each rule is one of its own"
