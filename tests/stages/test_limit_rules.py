"""The settings of limits: what they take, what they say of what they do not take, and the rules they make."""

from __future__ import annotations

import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Window
from proxy.core.sliding import MAX_LIMIT, SLIDING
from proxy.stages.limit import LimitConfig
from proxy.stages.limit_rules import LimitRule, Override
from tests.stages.configs import refusal

TOO_LARGE = (
    "10001 is more than the 10000 requests one window can count exactly; "
    "use a shorter window with a smaller number, or algorithm: gcra"
)
NO_ADDRESS = "is not an IP address or a network like 10.0.0.0/8 or 2001:db8::/32"
KEY = "sha256:" + "0" * 32
BY = "by: Value error, write client_ip, credential or path, or a list of them, each once"
TWO_RATES = "Value error, gcra cannot count one subject by two numbers; add client_ip to by, or use sliding"
TAKEN = "address, second, minute, hour, day mean something else; choose another name, like per_key"

BY_TWO_NUMBERS: list[tuple[dict[str, object], str]] = [
    ({"by": by, "algorithm": "gcra", "overrides": {place: {"hour": 5}}}, f"overrides.{place}: {TWO_RATES}")
    for by in ("credential", "path", ["credential", "path"])
    for place in ("10.0.0.0/8", "10.1.2.3", "::ffff:10.0.0.0/104", "2001:db8::/32", "2001:db8::/64", "unix")
]
# fmt: off
BAD: list[tuple[dict[str, object], str]] = [
    ({"second": -1}, "second: Input should be greater than or equal to 0"),
    ({"minute": -1}, "minute: Input should be greater than or equal to 0"),
    ({"hour": -1, "day": -1},
     "hour: Input should be greater than or equal to 0 | day: Input should be greater than or equal to 0"),
    ({"second": 10_001}, f"second: Value error, {TOO_LARGE}"),
    ({"hour": 10_001, "day": 10_001}, f"hour: Value error, {TOO_LARGE} | day: Value error, {TOO_LARGE}"),
    ({"hour": 1_000_000_001, "algorithm": "gcra"}, "hour: Input should be less than or equal to 1000000000"),
    ({"hour": "50"}, "hour: Input should be a valid integer"),
    ({"hour": 1.0}, "hour: Input should be a valid integer"),
    ({"hour": True}, "hour: Input should be a valid integer"),
    ({"hour": None}, "hour: Input should be a valid integer"),
    ({"by": "key"}, BY),
    ({"by": []}, BY),
    ({"by": ["path", "path"]}, BY),
    ({"by": ["path", "key"]}, BY),
    ({"by": None}, BY),
    ({"by": {"path": 1}}, BY),
    ({"algorithm": "fixed"}, "algorithm: Input should be 'sliding' or 'gcra'"),
    ({"burst": 0, "algorithm": "gcra"}, "burst: Input should be greater than or equal to 1"),
    ({"burst": 2}, "burst: Value error, belongs to algorithm: gcra; sliding admits all of a limit at once"),
    ({"keys_per_ip": 2}, "keys_per_ip: Value error, belongs to limits by credential"),
    ({"by": "credential", "keys_per_ip": 100, "hour": 101},
     f"hour: Value error, {TOO_LARGE.replace('10001', '10100')}"),
    ({"on_store_error": "open"}, "on_store_error: Input should be 'deny', 'allow' or 'local'"),
    ({"ipv6_prefix": 15}, "ipv6_prefix: Input should be greater than or equal to 16"),
    ({"ipv6_prefix": 129}, "ipv6_prefix: Input should be less than or equal to 128"),
    ({"max_subjects": 0}, "max_subjects: Input should be greater than or equal to 1"),
    ({"exempt": ["10.0.0.1/8"]},
     "exempt: Value error, '10.0.0.1/8' has bits set behind the prefix; did you mean 10.0.0.0/8?"),
    ({"exempt": ["any"]}, f"exempt: Value error, 'any' {NO_ADDRESS}"),
    ({"exempt": "10.0.0.1"}, "exempt: Input should be a valid list"),
    ({"exempt": ["/v1/models"]},
     "exempt: Value error, a path cannot be exempt; give it numbers of its own in overrides, 0 = no limit"),
    ({"exempt": ["sha256:00"]},
     "exempt: Value error, a key is written as sha256: and 32 to 64 small hexadecimal digits"),
    ({"exempt": ["sk-abc"]}, "exempt: Value error, write a key as sha256: and its hash "
     "(printf %s KEY | sha256sum), never the key itself"),
    ({"overrides": {"any": {}}}, f"overrides.any: Value error, 'any' {NO_ADDRESS}"),
    ({"overrides": {"10.0.0.0/8": 5}},
     "overrides.10.0.0.0/8: Input should be a valid dictionary or instance of Override"),
    ({"overrides": {"10.0.0.0/8": {"huor": 5}}}, "overrides.10.0.0.0/8.huor: Extra inputs are not permitted"),
    ({"overrides": {"10.0.0.0/8": {"hour": 10_001}}}, f"overrides.10.0.0.0/8.hour: Value error, {TOO_LARGE}"),
    ({"overrides": {"10.0.0.0/8": {}, "::ffff:10.0.0.0/104": {}}},
     "overrides.::ffff:10.0.0.0/104: Value error, is the same as 10.0.0.0/8"),
    ({"by": "path", "overrides": {"/v1/models": {}, "/v1/Models/": {}}},
     "overrides./v1/Models/: Value error, is the same as /v1/models"),
    ({"by": "credential", "overrides": {KEY: {}, KEY + "ff": {}}},
     f"overrides.{KEY}ff: Value error, is the same as {KEY}"),
    ({"overrides": {"2001:db8::/65": {}}}, "overrides.2001:db8::/65: Value error, is narrower than the networks of "
     "64 bits (ipv6_prefix) that IPv6 clients count by"),
    ({"overrides": {"/v1/models": {}}},
     "overrides./v1/models: Value error, is a path, and this limit does not count by path"),
    ({"by": "path", "overrides": {"/api": {}}}, "overrides./api: Value error, no request counts so: paths begin "
     "with /v1/, and the chat route is /v1/chat/completions"),
    ({"overrides": {KEY: {}}}, f"overrides.{KEY}: Value error, a key has numbers of its own only where the limit "
     "counts by credential"),
    *BY_TWO_NUMBERS,
    ({"limits": {"per_key": {"by": "credential", "algorithm": "gcra", "overrides": {"unix": {}}}}},
     f"limits.per_key.overrides.unix: {TWO_RATES}"),
    ({"limits": {"Per": {}}},
     "limits.Per: Value error, name a limit with small letters, digits and _, like per_key"),
    ({"limits": {"address": {}, "hour": {}}},
     f"limits.address: Value error, {TAKEN} | limits.hour: Value error, {TAKEN}"),
    ({"limits": {"per_key": {"mode": "off"}}}, "limits.per_key.mode: Extra inputs are not permitted"),
    ({"limits": {"per_key": {"hour": 10_001}}}, f"limits.per_key.hour: Value error, {TOO_LARGE}"),
    ({"week": 1}, "week: Extra inputs are not permitted"),
]
# fmt: on


@pytest.mark.parametrize(("fields", "message"), BAD)
def test_bad_values(fields: dict[str, object], message: str) -> None:
    assert refusal(LimitConfig, **fields) == message


@pytest.mark.parametrize(
    "fields",
    [
        {"hour": MAX_LIMIT},
        {"hour": 1_000_000_000, "algorithm": "gcra", "burst": 50},
        {"by": ["path", "client_ip"], "overrides": {"/v1/models": {"hour": 0}, "unix": {}}},
        {"by": "credential", "keys_per_ip": 100, "hour": 100, "overrides": {KEY: {"hour": 10_000}}},
        {"overrides": {"2001:db8::/64": {}, "10.0.0.0/8": {}, "10.1.0.0/16": {}, "10.1.2.3": {}}},
        {"by": "client_ip", "algorithm": "gcra", "overrides": {"10.0.0.0/8": {}, "unix": {}}},
        {"by": ["client_ip", "path"], "algorithm": "gcra", "overrides": {"10.0.0.0/8": {}, "/v1/models": {}}},
        {"by": ["credential", "path"], "algorithm": "gcra", "overrides": {KEY: {}, "/v1/models": {}}},
        {"by": "credential", "overrides": {"10.0.0.0/8": {}, "unix": {}}},
        {"by": "credential", "algorithm": "gcra", "exempt": ["unix", "10.0.0.0/8"]},
        {"exempt": ["unix", "10.0.0.0/8", KEY]},
        {"limits": {"per_key": {"by": "credential"}, "second_one": {}}},
    ],
)
def test_good_values(fields: dict[str, object]) -> None:
    assert LimitConfig.model_validate(fields)


def test_windows_are_those_that_are_set_shortest_first() -> None:
    assert LimitRule().rule("limit").windows == ()
    assert LimitRule(day=4, hour=3, minute=2, second=1).rule("limit").windows == (
        Window("second", 1, 1),
        Window("minute", 2, 60),
        Window("hour", 3, 3600),
        Window("day", 4, 86400),
    )


def test_a_rule_is_what_its_settings_say() -> None:
    made = LimitRule(hour=5, algorithm="gcra", burst=3, max_subjects=7, on_store_error="local").rule("limit")
    assert (made.algorithm, made.burst, made.max_subjects, made.on_store_error) == (GCRA, 3, 7, "local")
    assert LimitRule().rule("limit").algorithm is SLIDING


def test_an_override_changes_what_it_names() -> None:
    rule = LimitRule(second=1, hour=50)
    assert rule.rule("limit", Override(hour=100)).windows == (Window("second", 1, 1), Window("hour", 100, 3600))
    assert rule.rule("limit", Override(second=0, day=5)).labels == ("limit.hour", "limit.day")


def test_an_address_may_have_several_times_as_much() -> None:
    made = LimitRule(by="credential", hour=50, algorithm="gcra", burst=2, keys_per_ip=3).rule("limit", times=3)
    assert (made.windows, made.burst) == ((Window("hour", 150, 3600),), 6)


@pytest.mark.parametrize(
    ("fields", "has_numbers"),
    [
        ({}, False),
        ({"day": 1}, True),
        ({"overrides": {"10.0.0.0/8": {"hour": 0}}}, False),
        ({"overrides": {"10.0.0.0/8": {"hour": 1}}}, True),
    ],
)
def test_whether_anybody_is_limited(fields: dict[str, object], has_numbers: bool) -> None:
    assert LimitRule.model_validate(fields).has_numbers is has_numbers


def test_ipv6_counts_by_64_bits_unless_told_otherwise() -> None:
    assert LimitRule().ipv6_prefix == 64
