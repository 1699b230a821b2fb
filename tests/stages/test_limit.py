"""limit: how often. The arithmetic is tested in tests/core/test_rate.py, the stores in tests/limits."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import messages
from proxy.core.exchange import Exchange
from proxy.core.messages import Sentence
from proxy.core.rate import MAX_LIMIT, Decision, Remaining, Window
from proxy.core.reply import Reply
from proxy.limits.store import LimitStore
from proxy.stages.limit import Limit, LimitConfig
from tests.stages.configs import refusal
from tests.support.clock import FakeClock
from tests.support.exchange import Later, drive, headers_of, make_exchange, make_services

TOO_LARGE = (
    "10001 is more than the 10000 requests one window can count exactly; use a shorter window with a smaller number"
)


def make(clock: FakeClock | None = None, store: LimitStore | None = None, /, **fields: object) -> Limit:
    services = make_services(clock, None if store is None else lambda name, max_subjects: store)
    return Limit("limit", LimitConfig.model_validate(fields), services)


def ask(stage: Limit, client_ip: str = "192.0.2.1") -> Reply | None:
    outcome = stage.on_request_headers(make_exchange(client_ip=client_ip))
    assert not isinstance(outcome, Awaitable)
    return outcome


def answered(stage: Limit, client_ip: str = "192.0.2.1") -> list[tuple[str, str]]:
    """The header lines the stage adds to an answer."""
    exchange = make_exchange(client_ip=client_ip)
    exchange.response_headers = headers_of(("X-RateLimit-Limit-Requests", "500"))
    stage.on_response_headers(exchange)
    lines = list(exchange.response_headers.pairs())
    assert lines[0] == ("X-RateLimit-Limit-Requests", "500")
    return lines[1:]


def retry_of(reply: Reply | None) -> tuple[int, int]:
    """(Retry-After, Retry-After-Ms)"""
    assert reply is not None
    values = {name: int(value) for name, _, value in reply.headers}
    assert set(values) == {b"retry-after", b"retry-after-ms"}
    return values[b"retry-after"], values[b"retry-after-ms"]


class StubStore:
    """Answers what it is told, and notes what it was asked."""

    def __init__(self, decision: Decision | Awaitable[Decision], left: tuple[Remaining, ...] = ()) -> None:
        self.asked: list[tuple[str, tuple[Window, ...]]] = []
        self._decision = decision
        self._left = left

    def acquire(self, subject: str, windows: tuple[Window, ...]) -> Decision | Awaitable[Decision]:
        self.asked.append((subject, windows))
        return self._decision

    def remaining(self, subject: str, windows: tuple[Window, ...]) -> tuple[Remaining, ...]:
        return self._left


# fmt: off
BAD: list[tuple[dict[str, object], str]] = [
    ({"second": -1}, "second: Input should be greater than or equal to 0"),
    ({"minute": -1}, "minute: Input should be greater than or equal to 0"),
    ({"hour": -1, "day": -1},
     "hour: Input should be greater than or equal to 0 | day: Input should be greater than or equal to 0"),
    ({"second": 10_001}, f"second: Value error, {TOO_LARGE}"),
    ({"minute": 10_001}, f"minute: Value error, {TOO_LARGE}"),
    ({"hour": 10_001, "day": 10_001}, f"hour: Value error, {TOO_LARGE} | day: Value error, {TOO_LARGE}"),
    ({"hour": "50"}, "hour: Input should be a valid integer"),
    ({"hour": 1.0}, "hour: Input should be a valid integer"),
    ({"hour": True}, "hour: Input should be a valid integer"),
    ({"hour": None}, "hour: Input should be a valid integer"),
    ({"by": "credential"}, "by: Input should be 'client_ip'"),
    ({"ipv6_prefix": 15}, "ipv6_prefix: Input should be greater than or equal to 16"),
    ({"ipv6_prefix": 129}, "ipv6_prefix: Input should be less than or equal to 128"),
    ({"max_subjects": 0}, "max_subjects: Input should be greater than or equal to 1"),
    ({"exempt": ["10.0.0.1/8"]},
     "exempt: Value error, '10.0.0.1/8' has bits set behind the prefix; did you mean 10.0.0.0/8?"),
    ({"exempt": ["any"]},
     "exempt: Value error, 'any' is not an IP address or a network like 10.0.0.0/8 or 2001:db8::/32"),
    ({"exempt": "10.0.0.1"}, "exempt: Input should be a valid list"),
    ({"week": 1}, "week: Extra inputs are not permitted"),
]
# fmt: on


class TestConfig:
    @pytest.mark.parametrize(("fields", "message"), BAD)
    def test_bad_values(self, fields: dict[str, object], message: str) -> None:
        assert refusal(LimitConfig, **fields) == message

    def test_windows_are_those_that_are_set_shortest_first(self) -> None:
        assert LimitConfig().windows == ()
        assert LimitConfig(day=4, hour=3, minute=2, second=1).windows == (
            Window("second", 1, 1),
            Window("minute", 2, 60),
            Window("hour", 3, 3600),
            Window("day", 4, 86400),
        )
        assert LimitConfig(hour=MAX_LIMIT).windows == (Window("hour", MAX_LIMIT, 3600),)

    def test_ipv6_counts_by_64_bits_unless_told_otherwise(self) -> None:
        assert LimitConfig().ipv6_prefix == 64

    def test_the_store_is_opened_for_this_stage(self) -> None:
        opened: list[tuple[str, int]] = []

        def open_store(name: str, max_subjects: int) -> LimitStore:
            opened.append((name, max_subjects))
            return StubStore(Decision(True))

        Limit("strict", LimitConfig(max_subjects=7), make_services(open_store=open_store))
        assert opened == [("strict", 7)]


class TestVerdicts:
    def test_the_customers_example(self) -> None:
        clock = FakeClock()
        stage = make(clock, hour=50, minute=3, second=1)
        assert ask(stage) is None
        assert ask(stage) == Reply(
            429,
            "rate_limit_error",
            "rate_limit_exceeded",
            (
                Sentence(messages.TOO_MANY_REQUESTS),
                Sentence(messages.LIMIT_PER_SECOND, {"count": 1}),
                Sentence(messages.LIMIT_PER_MINUTE, {"count": 3}),
                Sentence(messages.LIMIT_PER_HOUR, {"count": 50}),
                Sentence(messages.TRY_AGAIN, {"count": 1}),
            ),
            headers=(
                (b"retry-after", b"Retry-After: 1\r\n", b"1"),
                (b"retry-after-ms", b"Retry-After-Ms: 1000\r\n", b"1000"),
            ),
        )
        for expected in (None, None):
            clock.advance(1)
            assert ask(stage) is expected
        clock.advance(1)
        assert retry_of(ask(stage)) == (57, 57_000)

    def test_a_day_is_named_too(self) -> None:
        stage = make(day=1)
        assert ask(stage) is None
        reply = ask(stage)
        assert reply is not None
        assert reply.sentences[1:] == (
            Sentence(messages.LIMIT_PER_DAY, {"count": 1}),
            Sentence(messages.TRY_AGAIN, {"count": 86400}),
        )

    def test_without_windows_nobody_is_counted(self) -> None:
        store = StubStore(Decision(False, 1.0))
        stage = make(None, store)
        assert ask(stage) is None
        assert store.asked == []
        assert answered(stage) == []

    @pytest.mark.parametrize(
        ("one", "other", "shared"),
        [
            ("192.0.2.1", "192.0.2.2", False),
            ("2001:db8::1", "2001:db8::ffff:1", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("unix", "unix", True),
            ("unix", "192.0.2.1", False),
        ],
    )
    def test_who_shares_a_limit(self, one: str, other: str, shared: bool) -> None:
        stage = make(hour=1)
        assert ask(stage, one) is None
        assert (ask(stage, other) is not None) is shared

    @pytest.mark.parametrize(
        ("exempt", "client_ip", "is_exempt"),
        [
            (["10.0.0.0/8"], "10.1.2.3", True),
            (["10.0.0.0/8"], "192.0.2.1", False),
            (["10.0.0.0/8"], "unix", False),
            (["unix"], "unix", True),
            (["unix"], "10.1.2.3", False),
            (["unix", "fd00::/8"], "fd00::1", True),
        ],
    )
    def test_the_exempt_are_not_counted(self, exempt: list[str], client_ip: str, is_exempt: bool) -> None:
        store = StubStore(Decision(True), (Remaining(Window("hour", 1, 3600), 0, 1.0),))
        stage = make(None, store, hour=1, exempt=exempt)
        assert ask(stage, client_ip) is None
        assert (store.asked == []) is is_exempt
        assert (answered(stage, client_ip) == []) is is_exempt

    @pytest.mark.parametrize("decision", [Decision(True), Decision(False, 1.5, Window("hour", 1, 3600))])
    def test_a_store_may_answer_later(self, decision: Decision) -> None:
        stage = make(None, StubStore(Later(decision)), hour=1)
        outcome = stage.on_request_headers(make_exchange())
        assert isinstance(outcome, Awaitable)

        async def awaited() -> Reply | None:
            reply: Reply | None = await outcome
            return reply

        reply = drive(awaited())
        assert (reply is None) is decision.allowed
        if reply is not None:
            assert retry_of(reply) == (2, 1500)

    @pytest.mark.parametrize(
        ("wait_s", "seconds", "milliseconds"),
        [
            (0.0001, 1, 1),
            (0.001, 1, 1),
            (0.9995, 1, 1000),
            (1.0, 1, 1000),
            (1.0004, 2, 1001),
            (3599.5, 3600, 3_599_500),
        ],
    )
    def test_waits_are_rounded_up(self, wait_s: float, seconds: int, milliseconds: int) -> None:
        stage = make(None, StubStore(Decision(False, wait_s)), hour=1)
        assert retry_of(ask(stage)) == (seconds, milliseconds)

    @given(eighths=st.lists(st.integers(0, 16), max_size=12))
    def test_who_waits_as_told_is_admitted_and_not_before(self, eighths: list[int]) -> None:
        # Eighths of a second are whole milliseconds and exact in floats.
        clock = FakeClock()
        stage = make(clock, second=2, minute=4)
        for gap in eighths:
            clock.advance(gap / 8)
            reply = ask(stage)
            if reply is None:
                continue
            seconds, milliseconds = retry_of(reply)
            assert seconds * 1000 >= milliseconds
            now_s = clock.now_s
            clock.now_s = now_s + (milliseconds - 1) / 1000
            assert ask(stage) is not None
            clock.now_s = now_s + milliseconds / 1000
            assert ask(stage) is None


class TestResponseHeaders:
    def test_they_say_what_is_left(self) -> None:
        clock = FakeClock()
        stage = make(clock, minute=3, hour=50)
        assert ask(stage) is None
        clock.advance(0.5)
        assert answered(stage) == [
            ("RateLimit-Policy", '"minute";q=3;w=60, "hour";q=50;w=3600'),
            ("RateLimit", '"minute";r=2;t=60, "hour";r=49;t=3600'),
        ]

    def test_a_fresh_client_has_everything_left(self) -> None:
        assert answered(make(minute=3))[1] == ("RateLimit", '"minute";r=3;t=0')

    def test_retry_after_is_not_before_the_reset(self) -> None:
        clock = FakeClock()
        stage = make(clock, minute=1)
        ask(stage)
        clock.advance(0.3)
        seconds, _ = retry_of(ask(stage))
        assert answered(stage)[1] == ("RateLimit", f'"minute";r=0;t={seconds}')

    def test_a_store_that_does_not_know_leaves_no_empty_line(self) -> None:
        # RFC 9651 section 3.1: an empty list is not sent at all.
        names = [name for name, _ in answered(make(None, StubStore(Decision(True)), minute=3))]
        assert "RateLimit" not in names

    def test_an_answer_without_a_head_gets_none(self) -> None:
        exchange: Exchange = make_exchange()
        make(minute=3).on_response_headers(exchange)
        assert exchange.response_headers is None


@pytest.mark.parametrize(
    ("fields", "explained"),
    [
        ({}, "no limit is set"),
        ({"hour": 50, "second": 1}, "192.0.2.1 may send 1 per second, 50 per hour"),
        ({"hour": 50, "exempt": ["192.0.2.0/24"]}, "192.0.2.1 is exempt"),
    ],
)
def test_explain(fields: dict[str, object], explained: str) -> None:
    assert make(**fields).explain(make_exchange(client_ip="192.0.2.1")) == explained
