"""The chain's two promises, order and completion, stage by stage and for every list of stages there may be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.chain import BODY_WANTED, Chain, OrderError, Verdict, check_order
from proxy.core.exchange import Exchange
from proxy.core.messages import IP_NOT_ALLOWED
from proxy.core.reply import Reply
from proxy.core.stage import Mode, Stage
from tests.support.exchange import Later, drive, make_exchange
from tests.support.exchange import make_stage as make

WAY: dict[str, Any] = {"headers": None, "body": None, "response": None, "complete": None}
"""Every hook but the one for chunks, each going on."""


class FaultError(Exception):
    """A stage's own fault."""


def denial(code: str) -> Reply:
    return Reply.of(403, "permission_error", code, IP_NOT_ALLOWED)


def chain_of(trace: list[str], *stages: Stage) -> Chain:
    return Chain([*stages, make("up", trace, terminal=True, headers=None)])


async def awaited(outcome: Awaitable[Verdict]) -> Verdict:
    return await outcome


def proceed(chain: Chain, exchange: Exchange) -> Verdict:
    verdict = chain.proceed(exchange)
    return drive(awaited(verdict)) if isinstance(verdict, Awaitable) else verdict


def run(chain: Chain, exchange: Exchange, trace: list[str]) -> Verdict:
    """Proceed to the last verdict, giving the body when it is wanted."""
    verdict = proceed(chain, exchange)
    while verdict == BODY_WANTED:
        assert exchange.body is None
        trace.append("-- body is in")
        exchange.body = b"{}"
        verdict = proceed(chain, exchange)
    return verdict


class TestOrder:
    def test_stages_run_in_the_operators_order(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, headers=None), make("b", trace, headers=None))
        assert proceed(chain, make_exchange()) is None
        assert trace == ["a headers", "b headers", "up headers"]

    def test_a_stage_that_wants_the_body_holds_the_later_ones(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, headers=None, body=None), make("b", trace, headers=None))
        exchange = make_exchange()
        assert proceed(chain, exchange) == BODY_WANTED
        assert trace == ["a headers"]
        assert proceed(chain, exchange) == BODY_WANTED, "asked again without a body, it still waits for one"
        exchange.body = b""
        assert proceed(chain, exchange) is None
        assert trace == ["a headers", "a body", "b headers", "up headers"]

    def test_a_body_that_nobody_wants_is_not_waited_for(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, wants=False, body=None))
        assert proceed(chain, make_exchange()) is None
        assert trace == ["up headers"]

    def test_the_body_is_asked_for_once_for_several_stages(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, body=None), make("b", trace, headers=None, body=None))
        assert run(chain, make_exchange(), trace) is None
        assert trace == ["-- body is in", "a body", "b headers", "b body", "up headers"]

    def test_a_reply_ends_the_request_phases(self) -> None:
        trace: list[str] = []
        reply = denial("no")
        chain = chain_of(trace, make("a", trace, headers=reply, body=None), make("b", trace, headers=None))
        exchange = make_exchange()
        assert proceed(chain, exchange) is reply
        assert exchange.reply is reply
        assert trace == ["a headers"]

    @pytest.mark.parametrize("phase", ["headers", "body"])
    def test_a_stage_that_waits_holds_the_later_ones(self, phase: str) -> None:
        trace: list[str] = []
        hooks: dict[str, Any] = {phase: Later()}
        later = make("b", trace, headers=Later()), make("c", trace, body=None)
        chain = chain_of(trace, make("a", trace, **hooks), *later)
        exchange = make_exchange(body=b"{}")
        outcome = chain.proceed(exchange)
        assert isinstance(outcome, Awaitable)
        assert trace == [f"a {phase}"]
        assert drive(awaited(outcome)) is None
        assert trace == [f"a {phase}", "b headers", "c body", "up headers"]

    def test_a_stage_may_wait_before_another_wants_the_body(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, headers=Later()), make("b", trace, body=Later(denial("late"))))
        verdict = run(chain, make_exchange(), trace)
        assert isinstance(verdict, Reply)
        assert verdict.code == "late"
        assert trace == ["a headers", "-- body is in", "b body"]

    def test_coroutines_of_the_loop_serve_as_hooks(self) -> None:
        class Asks(Stage):
            async def on_request_headers(self, exchange: Exchange) -> Reply | None:
                await asyncio.sleep(0)
                return denial("asked")

        async def scenario() -> Verdict:
            outcome = Chain([Asks("a"), make("up", [], terminal=True)]).proceed(make_exchange())
            assert isinstance(outcome, Awaitable)
            return await outcome

        verdict = asyncio.run(scenario())
        assert isinstance(verdict, Reply)
        assert verdict.code == "asked"

    @pytest.mark.parametrize("fault", [FaultError(), Later(FaultError())])
    def test_a_fault_goes_up_and_counts_as_no_verdict(self, fault: Any) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, **WAY), make("b", trace, headers=fault, complete=None))
        exchange = make_exchange()
        with pytest.raises(FaultError):
            run(chain, exchange, trace)
        chain.complete(exchange)
        assert exchange.reply is None
        assert trace[-1] == "a complete"
        assert list(chain.verdicts(exchange)) == [("a", "pass"), ("b", "unfinished")]


class TestCompletion:
    def test_every_stage_passed_is_completed_once_in_reverse(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, *(make(name, trace, complete=None) for name in "abc"))
        exchange = make_exchange()
        proceed(chain, exchange)
        trace.clear()
        chain.complete(exchange)
        chain.complete(exchange)
        assert trace == ["c complete", "b complete", "a complete"]
        assert exchange.completed

    def test_the_stage_that_rejects_is_not_completed(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, **WAY), make("b", trace, headers=denial("no"), complete=None))
        exchange = make_exchange(body=b"")
        proceed(chain, exchange)
        chain.complete(exchange)
        assert [line for line in trace if "complete" in line] == ["a complete"]

    @pytest.mark.parametrize("hooks", [{"body": None}, {"headers": Later()}], ids=["body", "awaitable"])
    def test_a_client_that_leaves_while_a_stage_waits_completes_only_those_ahead(self, hooks: dict[str, Any]) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, complete=None), make("b", trace, complete=None, **hooks))
        exchange = make_exchange()
        outcome = chain.proceed(exchange)
        chain.complete(exchange)
        assert [line for line in trace if "complete" in line] == ["a complete"]
        if not isinstance(outcome, str):
            assert drive(awaited(outcome)) is None  # type: ignore[arg-type]
            chain.complete(exchange)
            assert trace.count("a complete") == 1

    def test_a_fault_does_not_stop_the_others(self, caplog: pytest.LogCaptureFixture) -> None:
        trace: list[str] = []
        stages = [make(name, trace, complete=FaultError(name) if name == "b" else None) for name in "abc"]
        chain = chain_of(trace, *stages)
        exchange = make_exchange()
        proceed(chain, exchange)
        with caplog.at_level(logging.ERROR, "sluice.chain"):
            chain.complete(exchange)
        assert trace[1:] == ["c complete", "b complete", "a complete"]
        assert caplog.messages == ["on_complete failed in exchange req_1"]

    def test_an_exchange_no_stage_saw_is_completed_for_none(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, complete=None))
        exchange = make_exchange()
        chain.complete(exchange)
        assert trace == []
        assert list(chain.verdicts(exchange)) == []


class TestModes:
    def test_off_is_as_if_it_were_not_there(self) -> None:
        trace: list[str] = []
        stage = make("a", trace, mode=Mode.OFF, chunk=None, **{**WAY, "headers": denial("no")})
        chain = chain_of(trace, stage)
        exchange = make_exchange()
        assert proceed(chain, exchange) is None
        chain.response_headers(exchange)
        chain.complete(exchange)
        assert trace == ["up headers"]
        assert list(chain.verdicts(exchange)) == [("up", "pass")]
        assert chain.names == ("up",)
        assert not chain.changes_chunks

    @pytest.mark.parametrize("phase", ["headers", "body"])
    @pytest.mark.parametrize("wrapped", [lambda reply: reply, Later], ids=["at once", "later"])
    def test_shadow_notes_what_it_would_have_done(self, phase: str, wrapped: Any) -> None:
        trace: list[str] = []
        reply = denial("over")
        chain = chain_of(trace, make("a", trace, mode=Mode.SHADOW, complete=None, **{phase: wrapped(reply)}))
        exchange = make_exchange()
        assert run(chain, exchange, trace) is None
        assert exchange.reply is None
        assert exchange.shadowed == [("a", reply)]
        assert list(chain.verdicts(exchange)) == [("a", "shadow_deny over"), ("up", "pass")]
        chain.complete(exchange)
        assert trace[-1] == "a complete"

    def test_shadow_changes_nothing_the_client_sees(self) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, mode=Mode.SHADOW, chunk=None, response=None))
        exchange = make_exchange()
        proceed(chain, exchange)
        chain.response_headers(exchange)
        assert chain.response_chunk(exchange, b"x") == b"x"
        assert trace == ["up headers"]
        assert not chain.changes_chunks

    @pytest.mark.parametrize("phase", ["headers", "body"])
    @pytest.mark.parametrize("fault", [FaultError(), Later(FaultError())], ids=["at once", "later"])
    def test_shadow_cannot_break_what_it_watches(self, phase: str, fault: Any) -> None:
        trace: list[str] = []
        chain = chain_of(trace, make("a", trace, mode=Mode.SHADOW, **{phase: fault}))
        exchange = make_exchange()
        assert run(chain, exchange, trace) is None
        assert exchange.shadowed is None

    def test_shadow_cannot_break_it_by_its_wish_for_the_body_either(self) -> None:
        class Undecided(Stage):
            def wants_body(self, exchange: Exchange) -> bool:
                raise FaultError

            def on_request_body(self, exchange: Exchange) -> None:
                raise AssertionError("called without having asked")

        chain = chain_of([], Undecided("a", Mode.SHADOW))
        assert proceed(chain, make_exchange()) is None


class TestResponse:
    def test_headers_pass_the_reached_stages_in_reverse(self) -> None:
        trace: list[str] = []
        replies: dict[str, Any] = {"a": None, "b": denial("no"), "c": None}
        chain = chain_of(trace, *(make(name, trace, headers=reply, response=None) for name, reply in replies.items()))
        exchange = make_exchange()
        proceed(chain, exchange)
        trace.clear()
        chain.response_headers(exchange)
        assert trace == ["b response", "a response"], "the rejecting stage sees its own reply, the later ones do not"

    def test_chunks_pass_in_reverse(self) -> None:
        trace: list[str] = []
        chain = chain_of(
            trace, make("a", trace, chunk=None), make("b", trace, headers=None), make("c", trace, chunk=0)
        )
        assert chain.changes_chunks
        assert chain.response_chunk(make_exchange(), b"-") == b"-ca"
        assert trace == ["c chunk", "a chunk"]

    def test_repr_shows_the_order(self) -> None:
        chain = chain_of([], make("a", [], headers=None), make("b", [], mode=Mode.OFF))
        assert repr(chain) == "<Chain a ▸ up>"
        assert repr(chain.stages[1]) == "<b b off>"


NEVER_FORWARDS = "the chain must end with an upstream stage: without one no request can be forwarded"


SHADOW_KEY = make("key", [], writes=("credential",), mode=Mode.SHADOW)
KEY = make("key", [], writes=("credential",))
LIMIT = make("limit", [], reads=("credential",))
UP = make("up", [], terminal=True)
OFF = make("off", [], terminal=True, mode=Mode.OFF)
READER = make(
    "up", [], terminal=True, reads=("x", "client_ip", "peer_ip", "headers", "method", "target", "route", "y")
)
# fmt: off
ORDERS: list[tuple[list[Stage], list[tuple[int, str]]]] = [
    ([UP], []),
    ([KEY, LIMIT, UP], []),
    ([], [(0, NEVER_FORWARDS)]),
    ([KEY, KEY], [(1, NEVER_FORWARDS)]),
    ([UP, KEY], [(0, "up forwards, so it must be the last stage"), (1, NEVER_FORWARDS)]),
    ([UP, UP], [(0, "up forwards, so it must be the last stage")]),
    ([make("up", [], terminal=True, mode=Mode.SHADOW)], [(0, "up forwards, so its mode can only be enforce")]),
    ([LIMIT, KEY, UP], [(0, "limit reads credential, which key sets only later; move limit behind key")]),
    ([SHADOW_KEY, LIMIT, UP], [(1, "limit reads credential, which key does not set in mode shadow")]),
    ([LIMIT, OFF], [(0, "limit reads credential, which no stage of the chain sets"),
                    (1, "off forwards, so its mode can only be enforce")]),
    ([READER], [(0, "up reads x, which no stage of the chain sets"),
                (0, "up reads y, which no stage of the chain sets")]),
]
# fmt: on


@pytest.mark.parametrize(("stages", "problems"), ORDERS)
def test_check_order(stages: list[Stage], problems: list[tuple[int, str]]) -> None:
    assert sorted((problem.position, str(problem)) for problem in check_order(stages)) == problems
    if problems:
        with pytest.raises(OrderError):
            Chain(stages)
    else:
        assert Chain(stages).stages == tuple(stages)


@dataclass(frozen=True)
class Plan:
    """One stage of the model: what each request hook does, None for a hook it has not."""

    mode: Mode
    headers: str | None
    body: str | None
    wants: bool
    complete_fails: bool


ACTS = st.sampled_from([None, "pass", "deny", "fault", "later pass", "later deny", "later fault"])
PLANS = st.builds(Plan, st.sampled_from(Mode), ACTS, ACTS, st.booleans(), st.booleans())


def act(name: str, what: str) -> Any:
    done: Any = {"pass": None, "deny": denial(name), "fault": FaultError(name)}[what.removeprefix("later ")]
    return Later(done) if what.startswith("later ") else done


def build(name: str, plan: Plan, trace: list[str]) -> Stage:
    hooks = {phase: act(name, what) for phase in ("headers", "body") if (what := getattr(plan, phase))}
    complete = FaultError() if plan.complete_fails else None
    return make(name, trace, mode=plan.mode, wants=plan.wants, response=None, complete=complete, **hooks)


def reference(plans: list[tuple[str, Plan]]) -> tuple[list[str], str, list[tuple[str, str]]]:
    """(trace, how it ends, verdicts), told in the words of the promises and not as the chain does it."""
    trace: list[str] = []
    active = [(name, plan) for name, plan in plans if plan.mode is not Mode.OFF]
    verdicts: list[tuple[str, str]] = []
    end = "forward"
    for name, plan in active:
        verdict = "pass"
        for phase, what in (("headers", plan.headers), ("body", plan.body)):
            if what is None or end != "forward" or (phase == "body" and not plan.wants):
                continue
            if phase == "body" and "-- body is in" not in trace:
                trace.append("-- body is in")
            trace.append(f"{name} {phase}")
            kind = what.removeprefix("later ")
            if kind == "deny":
                verdict = f"deny {name}" if plan.mode is Mode.ENFORCE else f"shadow_deny {name}"
            if kind == "fault" and plan.mode is Mode.ENFORCE:
                verdict = "unfinished"
            if kind != "pass" and plan.mode is Mode.ENFORCE:
                end = kind
        verdicts.append((name, verdict))
        if end != "forward":
            break
    reached = active[: len(verdicts)]
    passed = reached if end == "forward" else reached[:-1]
    trace += [f"{name} response" for name, plan in reversed(reached) if plan.mode is Mode.ENFORCE]
    trace += [f"{name} complete" for name, _ in reversed(passed)]
    return trace, end, verdicts


@given(st.lists(PLANS, max_size=6))
def test_every_chain_does_as_the_model_says(plans: list[Plan]) -> None:
    named = [
        *((f"s{n}", plan) for n, plan in enumerate(plans)),
        ("up", Plan(Mode.ENFORCE, "pass", None, False, False)),
    ]
    trace: list[str] = []
    stages = [build(name, plan, trace) for name, plan in named[:-1]]
    chain = Chain([*stages, make("up", trace, terminal=True, headers=None, response=None, complete=None)])
    exchange = make_exchange()
    try:
        verdict = run(chain, exchange, trace)
        end = "deny" if isinstance(verdict, Reply) else "forward"
        assert exchange.reply is verdict
    except FaultError:
        end = "fault"
    chain.response_headers(exchange)
    chain.complete(exchange)
    chain.complete(exchange)
    assert (trace, end, list(chain.verdicts(exchange))) == reference(named)
