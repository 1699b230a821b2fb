"""limit: how often. Arithmetic: tests/core; stores: tests/limits; whom it counts: test_subjects."""

from __future__ import annotations

from collections.abc import Awaitable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import messages
from proxy.core.chain import Chain, check_order
from proxy.core.exchange import Exchange, UpstreamSent
from proxy.core.figure import Figure
from proxy.core.headers import Headers
from proxy.core.messages import Sentence
from proxy.core.rate import Claim, Claims, Decision, Remaining, Rule, Window
from proxy.core.reply import Reply
from proxy.core.sliding import SLIDING
from proxy.core.stage import Mode, Stage
from proxy.limits.memory import MemoryStore
from proxy.limits.store import LimitStore, Standing
from proxy.stages import build
from proxy.stages.key import KeyConfig
from proxy.stages.limit import Limit, LimitConfig
from proxy.stages.subject_names import key_id
from proxy.stages.upstream import UpstreamConfig
from tests.support.clock import FakeClock
from tests.support.exchange import Later, drive, headers_of, make_exchange, make_services
from tests.support.structured_fields import parse_list

HOUR = Window("hour", 5, 3600)
RULE = Rule("limit", (HOUR,), SLIDING)
CLAIM = Claim(RULE, "192.0.2.1")
LEFT = (Remaining(HOUR, 4, 100.0),)


def make(clock: FakeClock | None = None, store: LimitStore | None = None, /, **fields: object) -> Limit:
    name = str(fields.pop("name", "limit"))
    return Limit(name, LimitConfig.model_validate(fields), make_services(clock, store))


def ask(stage: Limit, exchange: Exchange | None = None) -> Reply | None:
    outcome = stage.on_request_headers(exchange or make_exchange())
    assert not isinstance(outcome, Awaitable)
    return outcome


def answered(stage: Limit, exchange: Exchange, *lines: tuple[str, str]) -> dict[str, str]:
    """The header lines the stage adds to an answer that has these."""
    exchange.response_headers = headers_of(*lines)
    stage.on_response_headers(exchange)
    added = list(exchange.response_headers.pairs())
    assert added[: len(lines)] == list(lines)
    assert len(added) == len(dict(added))
    return dict(added[len(lines) :])


def headers_in(reply: Reply | None) -> dict[str, str]:
    assert reply is not None
    return dict(Headers(list(reply.headers)).pairs())


def retry_of(reply: Reply | None) -> tuple[int, int]:
    """(Retry-After, Retry-After-Ms)"""
    found = headers_in(reply)
    return int(found["Retry-After"]), int(found["Retry-After-Ms"])


class StubStore:
    """Answers what it is told, and notes what it was asked."""

    def __init__(self, decision: Decision | Awaitable[Decision]) -> None:
        self.asked: list[Claims] = []
        self.given_back: list[tuple[Claims, Decision]] = []
        self._decision = decision

    def acquire(self, claims: Claims) -> Decision | Awaitable[Decision]:
        self.asked.append(claims)
        return self._decision

    def give_back(self, claims: Claims, decision: Decision) -> None:
        self.given_back.append((claims, decision))

    def standing(self, claim: Claim) -> Standing:
        raise NotImplementedError

    def reset(self, claim: Claim) -> bool:
        raise NotImplementedError

    async def open(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def figures(self) -> list[Figure]:
        raise NotImplementedError


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
                (b"x-sluice-limit", b"X-Sluice-Limit: limit.second\r\n", b"limit.second"),
            ),
        )
        for expected in (None, None):
            clock.advance(1)
            assert ask(stage) is expected
        clock.advance(1)
        refused = ask(stage)
        assert retry_of(refused) == (57, 57_000)
        assert headers_in(refused)["X-Sluice-Limit"] == "limit.minute"

    def test_a_day_is_named_too(self) -> None:
        stage = make(day=1)
        assert ask(stage) is None
        reply = ask(stage)
        assert reply is not None
        assert reply.sentences[1:] == (
            Sentence(messages.LIMIT_PER_DAY, {"count": 1}),
            Sentence(messages.TRY_AGAIN, {"count": 86400}),
        )

    @pytest.mark.parametrize(
        "fields",
        [{}, {"limits": {"per_key": {"by": "credential"}}}, {"overrides": {"10.0.0.0/8": {"hour": 0}}}],
    )
    def test_without_numbers_nobody_is_counted_and_nothing_is_read(self, fields: dict[str, object]) -> None:
        store = StubStore(Decision(False, 1.0, CLAIM, HOUR))
        stage = make(None, store, **fields)
        exchange = make_exchange()
        assert ask(stage, exchange) is None
        assert store.asked == []
        assert exchange.limited is None
        assert answered(stage, exchange) == {}
        assert stage.reads == ("client_ip",)
        assert stage.rules == ()

    def test_a_limit_of_an_override_alone_counts(self) -> None:
        stage = make(overrides={"10.0.0.0/8": {"hour": 1}})
        inside = [ask(stage, make_exchange(client_ip="10.0.0.1")) for _ in range(2)]
        assert inside[0] is None
        assert inside[1] is not None
        assert [ask(stage) for _ in range(3)] == [None] * 3

    def test_all_limits_of_a_stage_are_charged_or_none(self) -> None:
        clock = FakeClock()
        stage = make(
            clock, minute=2, limits={"on_path": {"by": "path", "hour": 3}, "per_key": {"by": "credential", "day": 9}}
        )

        def send(client_ip: str) -> str:
            reply = ask(stage, make_exchange(client_ip=client_ip, credential="sk-a"))
            return "" if reply is None else headers_in(reply)["X-Sluice-Limit"]

        assert [send("10.0.0.1") for _ in range(4)] == ["", "", "limit.minute", "limit.minute"]
        # Nothing was burnt by the two that were refused: the path has one left.
        assert [send("10.0.0.2") for _ in range(2)] == ["", "limit.on_path.hour"]
        assert [send("10.0.0.3") for _ in range(2)] == ["limit.on_path.hour"] * 2
        clock.advance(60)
        assert send("10.0.0.1") == "limit.on_path.hour"

    def test_made_up_keys_run_into_the_limit_of_their_address(self) -> None:
        stage = make(by="credential", hour=2, keys_per_ip=2)
        replies = [ask(stage, make_exchange(credential=f"sk-{number}")) for number in range(6)]
        assert [reply is None for reply in replies] == [True] * 4 + [False] * 2
        assert headers_in(replies[4])["X-Sluice-Limit"] == "limit.address.hour"
        # Elsewhere the same keys have what is left of their own.
        assert ask(stage, make_exchange(credential="sk-1", client_ip="10.0.0.1")) is None

    def test_the_longest_wait_decides_what_is_named(self) -> None:
        stage = make(second=1, limits={"daily": {"day": 1}})
        assert ask(stage) is None
        reply = ask(stage)
        assert headers_in(reply)["X-Sluice-Limit"] == "limit.daily.day"
        assert retry_of(reply) == (86_400, 86_400_000)

    @pytest.mark.parametrize("decision", [Decision(True), Decision(False, 1.5, CLAIM, HOUR)])
    def test_a_store_may_answer_later(self, decision: Decision) -> None:
        stage = make(None, StubStore(Later(decision)), hour=1)
        exchange = make_exchange()
        outcome = stage.on_request_headers(exchange)
        assert isinstance(outcome, Awaitable)
        reply = drive(awaited(outcome))
        assert (reply is None) is decision.allowed
        assert exchange.limited is not None
        assert exchange.limited["limit"].decision is decision
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
        stage = make(None, StubStore(Decision(False, wait_s, CLAIM, HOUR)), hour=1)
        assert retry_of(ask(stage)) == (seconds, milliseconds)

    def test_each_refusal_is_told_its_own_wait(self) -> None:
        clock = FakeClock()
        stage = make(clock, hour=1, limits={"other": {"by": "path", "hour": 1}})
        assert ask(stage) is None
        found = []
        for target in (b"/v1/a", b"/v1/a", b"/v1/b"):
            clock.advance(0.75)
            found.append(ask(stage, make_exchange(target=target)))
        assert [retry_of(reply) for reply in found] == [(3600, 3_599_250), (3599, 3_598_500), (3598, 3_597_750)]
        for reply in found:
            assert reply is not None
            assert reply.sentences[-1].params["count"] == retry_of(reply)[0]
            assert headers_in(reply)["X-Sluice-Limit"] == "limit.hour"

    @pytest.mark.parametrize(
        ("wait_s", "told"), [(1.0, None), (119.9, None), (120.0, None), (120.001, "false"), (3599.5, "false")]
    )
    def test_a_wait_that_no_client_takes_is_not_to_be_tried(self, wait_s: float, told: str | None) -> None:
        stage = make(None, StubStore(Decision(False, wait_s, CLAIM, HOUR)), hour=1)
        assert headers_in(ask(stage)).get("X-Should-Retry") == told

    @pytest.mark.parametrize("algorithm", ["sliding", "gcra"])
    @given(eighths=st.lists(st.integers(0, 16), max_size=12))
    def test_who_waits_as_told_is_admitted_and_not_before(self, algorithm: str, eighths: list[int]) -> None:
        # Eighths of a second are whole milliseconds and exact in floats.
        clock = FakeClock()
        stage = make(clock, second=2, minute=4, algorithm=algorithm)
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


async def awaited(outcome: Awaitable[Reply | None]) -> Reply | None:
    return await outcome


class TestGivingBack:
    @pytest.mark.parametrize("mode", ["enforce", "shadow"])
    @pytest.mark.parametrize(
        ("sent", "is_back"), [(UpstreamSent.NO, True), (UpstreamSent.UNKNOWN, False), (UpstreamSent.YES, False)]
    )
    def test_what_was_certainly_not_sent_costs_nothing(self, mode: str, sent: UpstreamSent, is_back: bool) -> None:
        stage = make(minute=1, limits={"per_key": {"by": "credential", "hour": 1}}, mode=mode)
        exchange = make_exchange(credential="sk-a")
        assert ask(stage, exchange) is None
        exchange.upstream_sent = sent
        stage.on_complete(exchange)
        assert (ask(stage, make_exchange(credential="sk-a")) is None) is is_back
        # A key that had it back has it once: the charges of others are theirs.
        assert ask(stage, make_exchange(credential="sk-a")) is not None

    def test_a_refused_request_gives_nothing_back(self) -> None:
        store = StubStore(Decision(False, 1.0, CLAIM, HOUR))
        stage = make(None, store, hour=1)
        exchange = make_exchange()
        assert ask(stage, exchange) is not None
        stage.on_complete(exchange)
        assert store.given_back == []

    def test_each_charge_is_its_own(self) -> None:
        clock = FakeClock()
        stage = make(clock, minute=2)
        first, second = make_exchange(), make_exchange()
        assert ask(stage, first) is None
        clock.advance(10)
        assert ask(stage, second) is None
        second.upstream_sent = UpstreamSent.YES
        for exchange in (first, second):
            stage.on_complete(exchange)
        # The first was given back: of the other two, the first ends 60 s after the second request.
        assert ask(stage) is None
        assert retry_of(ask(stage)) == (60, 60_000)

    @pytest.mark.parametrize("modes", [("enforce", "enforce"), ("shadow", "enforce")])
    def test_a_later_limit_that_refuses_burns_nothing_in_the_ones_before(self, modes: tuple[str, str]) -> None:
        services = make_services()
        stages: list[Stage] = [
            Limit("per_ip", LimitConfig(minute=3, mode=Mode(modes[0])), services),
            build("key", KeyConfig(), services),
            Limit("per_key", LimitConfig(by="credential", hour=1, keys_per_ip=9, mode=Mode(modes[1])), services),
            build("upstream", UpstreamConfig(), services),
        ]
        chain = Chain(stages)

        def send(key: str) -> str:
            exchange = make_exchange(("Authorization", f"Bearer {key}"))
            verdict = chain.proceed(exchange)
            if verdict is None:
                exchange.upstream_sent = UpstreamSent.YES
            chain.complete(exchange)
            return headers_in(verdict)["X-Sluice-Limit"] if isinstance(verdict, Reply) else ""

        assert [send("a") for _ in range(5)] == ["", *["per_key.hour"] * 4]
        assert [send(key) for key in "bc"] == ["", ""]
        assert send("d") == ("per_ip.minute" if modes[0] == "enforce" else "")

    def test_whoever_left_while_the_store_was_asked_gets_it_back(self) -> None:
        decision = Decision(True, left=LEFT)
        store = StubStore(Later(decision))
        stage = make(None, store, hour=1)
        exchange = make_exchange()
        outcome = stage.on_request_headers(exchange)
        assert isinstance(outcome, Awaitable)
        exchange.completed = True
        assert drive(awaited(outcome)) is None
        assert store.given_back == [(store.asked[0], decision)]
        assert exchange.limited is None


class TestResponseHeaders:
    def test_they_say_what_is_left(self) -> None:
        clock = FakeClock()
        stage = make(clock, minute=3, hour=50)
        exchange = make_exchange()
        assert ask(stage, exchange) is None
        clock.advance(0.5)
        assert answered(stage, exchange, ("X-RateLimit-Limit-Requests", "500")) == {
            "RateLimit-Policy": '"limit.minute";q=3;w=60, "limit.hour";q=50;w=3600',
            "RateLimit": '"limit.minute";r=2;t=60, "limit.hour";r=49;t=3600',
        }
        clock.advance(30)
        assert answered(stage, exchange)["RateLimit"] == '"limit.minute";r=2;t=30, "limit.hour";r=49;t=3570'

    def test_an_answer_of_our_own_has_openais_form_too(self) -> None:
        stage = make(minute=3, hour=2)
        exchanges = [make_exchange() for _ in range(3)]
        replies = [ask(stage, exchange) for exchange in exchanges]
        exchanges[0].refused_with = "upstream_unreachable"
        assert answered(stage, exchanges[0]) == {
            "RateLimit-Policy": '"limit.minute";q=3;w=60, "limit.hour";q=2;w=3600',
            "RateLimit": '"limit.minute";r=2;t=60, "limit.hour";r=1;t=3600',
            "X-RateLimit-Limit-Requests": "2",
            "X-RateLimit-Remaining-Requests": "1",
            "X-RateLimit-Reset-Requests": "1h0m0s",
        }
        exchanges[2].reply = replies[2]
        assert answered(stage, exchanges[2]) == {
            "RateLimit-Policy": '"limit.minute";q=3;w=60, "limit.hour";q=2;w=3600',
            "RateLimit": '"limit.minute";r=1;t=60, "limit.hour";r=0;t=3600',
            "X-RateLimit-Limit-Requests": "2",
            "X-RateLimit-Remaining-Requests": "0",
            "X-RateLimit-Reset-Requests": "1h0m0s",
        }

    def test_several_limits_are_told_in_lines_that_are_valid_alone_and_together(self) -> None:
        limits = {"per_key": {"by": "credential", "hour": 5, "day": 9}}
        stages = [make(second=2, minute=3, limits=limits), make(name="quota", minute=4, limits=limits)]
        exchange = make_exchange(credential="sk-a")
        exchange.response_headers = headers_of()
        for stage in stages:
            assert ask(stage, exchange) is None
        for stage in reversed(stages):
            stage.on_response_headers(exchange)
        for name in (b"ratelimit-policy", b"ratelimit"):
            lines = [value.decode() for value in exchange.response_headers.get_all(name)]
            assert len(lines) == 2
            assert sum(len(parse_list([line])) for line in lines) == 11
            items = parse_list(lines)
            assert len({label for label, _ in items}) == 11
            assert all(type(value) is int and value >= 0 for _, found in items for value in found.values())
        expected = {"limit.second", "limit.per_key.address.day", "quota.per_key.hour", "quota.minute"}
        assert expected <= {label for label, _ in items}

    @pytest.mark.parametrize("algorithm", ["sliding", "gcra"])
    @given(gaps=st.lists(st.floats(0, 20), min_size=1, max_size=8))
    def test_retry_after_is_never_before_the_reset_of_what_refused(self, algorithm: str, gaps: list[float]) -> None:
        clock = FakeClock()
        stage = make(clock, second=1, minute=3, algorithm=algorithm)
        for gap in gaps:
            clock.advance(gap)
            exchange = make_exchange(started_s=clock())
            exchange.reply = reply = ask(stage, exchange)
            told = {name: found["t"] for name, found in parse_list([answered(stage, exchange)["RateLimit"]])}
            if reply is not None:
                assert retry_of(reply)[0] >= float(told[headers_in(reply)["X-Sluice-Limit"]])

    def test_a_body_that_was_waited_for_makes_no_reset_too_early(self) -> None:
        clock = FakeClock()
        stage = make(clock, minute=3)
        exchange = make_exchange()
        clock.advance(20)  # the body
        exchange.body = b"{}"
        assert ask(stage, exchange) is None
        assert answered(stage, exchange)["RateLimit"] == '"limit.minute";r=2;t=60'

    def test_who_is_not_limited_is_told_nothing(self) -> None:
        stage = make(minute=3, exempt=["192.0.2.0/24"])
        exchange = make_exchange()
        assert ask(stage, exchange) is None
        assert answered(stage, exchange) == {}

    def test_an_answer_without_a_head_gets_none(self) -> None:
        stage = make(minute=3)
        exchange = make_exchange()
        ask(stage, exchange)
        stage.on_response_headers(exchange)
        assert exchange.response_headers is None

    def test_no_more_combinations_of_rules_are_remembered_than_it_has_room_for(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Each override of each limit makes combinations with all others.
        monkeypatch.setattr("proxy.stages.limit._REMEMBERED_FIELDS", 5)
        stage = make(minute=99, overrides={f"10.0.0.{n}": {"minute": n} for n in range(1, 30)})
        for n in [*range(1, 30), *range(1, 30)]:
            exchange = make_exchange(client_ip=f"10.0.0.{n}")
            ask(stage, exchange)
            assert answered(stage, exchange)["RateLimit-Policy"] == f'"limit.minute";q={n};w=60'
            assert len(stage._fields) <= 5

    def test_overrides_are_told_to_those_they_are_for(self) -> None:
        stage = make(minute=3, overrides={"10.0.0.0/8": {"minute": 9}})
        for client_ip, limit in (("10.0.0.1", 9), ("192.0.2.1", 3), ("10.0.0.2", 9)):
            exchange = make_exchange(client_ip=client_ip)
            ask(stage, exchange)
            assert answered(stage, exchange)["RateLimit-Policy"] == f'"limit.minute";q={limit};w=60'


class TestStoreTrouble:
    def test_denied_for_want_of_a_store_is_another_refusal(self) -> None:
        store = StubStore(Decision(False, 1.0, CLAIM, unavailable=True))
        stage = make(None, store, hour=5)
        exchange = make_exchange()
        exchange.reply = reply = ask(stage, exchange)
        assert reply == Reply(
            503,
            "server_error",
            "limits_unavailable",
            (Sentence(messages.LIMITS_UNAVAILABLE),),
            headers=(
                (b"retry-after", b"Retry-After: 1\r\n", b"1"),
                (b"retry-after-ms", b"Retry-After-Ms: 1000\r\n", b"1000"),
            ),
        )
        assert answered(stage, exchange) == {}

    def test_no_wait_is_no_reason_to_come_back_at_once(self) -> None:
        stage = make(None, StubStore(Decision(False, unavailable=True)), hour=5)
        assert retry_of(ask(stage)) == (1, 1000)

    def test_allowed_without_a_store_nothing_is_known_and_nothing_charged(self) -> None:
        store = StubStore(Decision(True, unavailable=True))
        stage = make(None, store, hour=5)
        exchange = make_exchange()
        assert ask(stage, exchange) is None
        assert answered(stage, exchange) == {}
        stage.on_complete(exchange)
        assert store.given_back == []

    def test_a_share_is_told_as_what_is_left_and_given_back(self) -> None:
        decision = Decision(True, left=LEFT, unavailable=True, local=True)
        store = StubStore(decision)
        stage = make(None, store, hour=5)
        exchange = make_exchange()
        assert ask(stage, exchange) is None
        assert answered(stage, exchange) == {"RateLimit": '"limit.hour";r=4;t=100'}
        stage.on_complete(exchange)
        assert [given for _, given in store.given_back] == [decision]

    def test_refused_by_the_share_is_a_refusal_like_any_other(self) -> None:
        decision = Decision(False, 2.0, CLAIM, HOUR, (Remaining(HOUR, 0, 2.0),), unavailable=True, local=True)
        reply = ask(make(None, StubStore(decision), hour=5))
        assert reply is not None
        assert (reply.status, headers_in(reply)["X-Sluice-Limit"]) == (429, "limit.hour")

    @pytest.mark.parametrize(
        ("decision", "outcome"),
        [
            (Decision(True), "admitted"),
            (Decision(True, local=True, unavailable=True), "admitted"),
            (Decision(True, unavailable=True), "unchecked"),
            (Decision(False, 1.0, CLAIM, HOUR), "refused"),
            (Decision(False, 1.0, CLAIM, HOUR, unavailable=True, local=True), "refused"),
            (Decision(False, 1.0, CLAIM, unavailable=True), "unavailable"),
        ],
    )
    def test_each_decision_is_counted_once(self, decision: Decision, outcome: str) -> None:
        stage = make(None, StubStore(decision), hour=5)
        ask(stage)
        counted = {figure[3]["outcome"]: figure[4] for figure in stage.figures()}
        assert counted == dict.fromkeys(("admitted", "refused", "unchecked", "unavailable"), 0) | {outcome: 1}
        assert {figure[:2] for figure in stage.figures()} == {("sluice_limit_decisions_total", "counter")}
        assert {figure[3]["mode"] for figure in stage.figures()} == {"enforce"}


class TestOrder:
    @pytest.mark.parametrize(
        ("fields", "reads"),
        [
            ({"hour": 1}, ("client_ip",)),
            ({"hour": 1, "by": "path"}, ("client_ip", "target")),
            ({"hour": 1, "by": "credential"}, ("client_ip", "credential")),
            ({"hour": 1, "exempt": ["sha256:" + "0" * 32]}, ("client_ip", "credential")),
            ({"limits": {"x": {"hour": 1, "by": ["path", "credential"]}}}, ("client_ip", "target", "credential")),
            ({"by": "credential"}, ("client_ip",)),
        ],
    )
    def test_it_reads_what_it_tells_requests_apart_by(
        self, fields: dict[str, object], reads: tuple[str, ...]
    ) -> None:
        assert make(**fields).reads == reads

    def test_by_credential_stands_behind_key(self) -> None:
        services = make_services()
        key, upstream = (build(name, config, services) for name, config in
                         (("key", KeyConfig()), ("upstream", UpstreamConfig())))  # fmt: skip
        limit = make(by="credential", hour=1)
        assert check_order([key, limit, upstream]) == []
        assert [str(problem) for problem in check_order([limit, key, upstream])] == [
            "limit reads credential, which key sets only later; move limit behind key"
        ]


class TestQuestions:
    STAGE_FIELDS: dict[str, object] = {  # noqa: RUF012
        "minute": 3,
        "limits": {"per_key": {"by": "credential", "hour": 5}, "off": {"by": "path"}},
    }

    def test_its_rules_are_everybodys(self) -> None:
        assert [rule.name for rule in make(**self.STAGE_FIELDS).rules] == [
            "limit",
            "limit.per_key",
            "limit.per_key.address",
        ]

    def test_what_it_counts_by(self) -> None:
        stage = make(**self.STAGE_FIELDS)
        assert stage.counted_by() == [("client_ip",), ("credential",), ("client_ip",)]

    def test_a_named_subject_finds_every_account_of_it(self) -> None:
        stage = make(**self.STAGE_FIELDS)
        by_address = [claim.rule.name for claim in stage.claims_of({"client_ip": "192.0.2.1"})]
        assert by_address == ["limit", "limit.per_key.address"]
        (claim,) = stage.claims_of({"credential": key_id("sk-a")})
        assert (claim.rule.name, claim.subject) == ("limit.per_key", key_id("sk-a"))
        assert list(stage.claims_of({"path": "/v1/x"})) == []

    def test_and_it_is_what_was_charged(self) -> None:
        store = MemoryStore(FakeClock())
        stage = make(None, store, **self.STAGE_FIELDS)
        ask(stage, make_exchange(credential="sk-a"))
        for given_parts in ({"client_ip": "192.0.2.1"}, {"credential": key_id("sk-a")}):
            for claim in stage.claims_of(given_parts):
                assert store.standing(claim).is_known


@pytest.mark.parametrize(
    ("fields", "explained"),
    [
        ({}, "no limit is set"),
        ({"hour": 50, "second": 1}, "192.0.2.1 may send 1 per second, 50 per hour"),
        ({"hour": 50, "exempt": ["192.0.2.0/24"]}, "192.0.2.1 is exempt (192.0.2.0/24)"),
        (
            {"hour": 50, "limits": {"on_path": {"by": "path", "minute": 9}}},
            "limit: 192.0.2.1 may send 50 per hour; "
            "limit.on_path: /v1/chat/completions is asked at most 9 per minute",
        ),
    ],
)
def test_explain(fields: dict[str, object], explained: str) -> None:
    assert make(**fields).explain(make_exchange(client_ip="192.0.2.1")) == explained
