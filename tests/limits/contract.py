"""The contract suite of limit stores: what each of them promises, whatever it is made of.

A store's own test file subclasses `LimitStoreContract`, and `CappedStoreContract` if the store has room for
``max_subjects`` of a rule, and says how to open one. A store that answers later is tested by the same suite: a
`Session` runs it on one event loop for each test.
"""

from __future__ import annotations

import asyncio
import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, Claim, Claims, Decision, Remaining, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits.store import MOST_TAKEN, LimitStore, Standing
from tests.core.models import Model, model_of
from tests.support.clock import FakeClock

Answer = TypeVar("Answer")

TICK_S = 1 / 64
"""Times are multiples of this: floats hold them and their sums exactly, and so do whole microseconds."""

# None is shorter than a minute, for the sake of stores whose entries expire by a clock of their own: none may do so
# while a test runs. All of them divided by their limits are multiples of the tick, so that gcra is exact, too.
MINUTE, HOUR, DAY = Window("minute", 3, 60), Window("hour", 50, 3600), Window("day", 100, 86_400)

BOTH = pytest.mark.parametrize("algorithm", [SLIDING, GCRA], ids=lambda algorithm: algorithm.name)


def rule(algorithm: Algorithm, *windows: Window, name: str = "limit", burst: int = 100, room: int = 2000) -> Rule:
    """A rule that admits a whole limit at once, unless ``burst`` is given."""
    return Rule(name, windows, algorithm, burst=burst, max_subjects=room)


class Session:
    """A store that is opened, asked and closed on one event loop."""

    def __init__(self, suite: StoreSuite, runner: asyncio.Runner, clock: FakeClock) -> None:
        self.clock = clock
        self._suite = suite
        self._loop = runner.get_loop()
        self._store = self._run(lambda: suite.open(clock))

    def _run(self, ask: Callable[[], Answer | Awaitable[Answer]]) -> Answer:
        async def answer() -> Answer:
            given = ask()
            return await given if inspect.isawaitable(given) else given

        return self._loop.run_until_complete(answer())

    def acquire(self, *claims: Claim) -> Decision:
        return self._run(lambda: self._store.acquire(claims))

    def ask(self, asked: Rule, subject: str = "a") -> Decision:
        """A request with one claim."""
        return self.acquire(Claim(asked, subject))

    def allowed(self, asked: Rule, subject: str = "a", times: int = 1) -> list[bool]:
        """What becomes of so many requests at once."""
        return [self.ask(asked, subject).allowed for _ in range(times)]

    def give_back(self, claims: Claims, decision: Decision) -> None:
        async def undone() -> None:
            before = asyncio.all_tasks()
            self._store.give_back(claims, decision)
            await self._suite.settle(self._store, asyncio.all_tasks() - before)

        self._loop.run_until_complete(undone())

    def standing(self, asked: Rule, subject: str = "a") -> Standing:
        return self._run(lambda: self._store.standing(Claim(asked, subject)))

    def reset(self, asked: Rule, subject: str = "a") -> bool:
        return self._run(lambda: self._store.reset(Claim(asked, subject)))

    def close(self) -> None:
        self._loop.run_until_complete(self._store.close())


class Trace:
    """Asks a store and the models of its subjects side by side."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.models: dict[Claim, Model] = {}
        self.admitted: list[tuple[Claims, Decision]] = []

    def _model(self, claim: Claim) -> Model:
        return self.models.setdefault(claim, model_of(claim.rule))

    def acquire(self, claims: Claims) -> Decision:
        """The store decides as the models do, and says the same about it."""
        now = self.session.clock()
        waits = {(claim, window): wait for claim in claims for window, wait in self._model(claim).waits(now).items()}
        longest = max(waits.values())
        decision = self.session.acquire(*claims)
        assert decision.allowed is (longest == 0)
        assert decision.retry_after_s == longest
        if decision.allowed:
            assert (decision.refused, decision.window) == (None, None)
            for claim in claims:
                self._model(claim).charge(now)
            self.admitted.append((claims, decision))
        else:
            assert decision.refused is not None
            assert decision.window is not None
            assert waits[decision.refused, decision.window] == longest
        assert decision.left == tuple(left for claim in claims for left in self._model(claim).remaining(now))
        assert (decision.overflow, decision.unavailable, decision.local) == (False, False, False)
        return decision

    def give_back(self, which: int) -> None:
        """Undo one of the requests admitted so far, if there is any."""
        if self.admitted:
            claims, decision = self.admitted.pop(which % len(self.admitted))
            self.session.give_back(claims, decision)
            for claim in claims:
                self.models[claim].give_back(decision.at)

    def check_standings(self) -> None:
        for (asked, subject), model in self.models.items():
            standing = self.session.standing(asked, subject)
            assert standing.left == model.remaining(self.session.clock())
            if any(left.remaining < left.window.limit for left in standing.left) and asked.algorithm is SLIDING:
                assert standing.is_known

    def assert_bounds(self) -> None:
        for model in self.models.values():
            model.assert_bound()


# Whole multiples of 192 s divided by limits of up to 4 are whole seconds.
_WINDOWS = st.lists(
    st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=3, unique_by=lambda pair: pair[1]
).map(lambda pairs: tuple(Window(f"w{length}", limit, 192 * length) for limit, length in pairs))


def _rules(*algorithms: Algorithm) -> st.SearchStrategy[tuple[Rule, ...]]:
    one = st.tuples(st.sampled_from(algorithms), _WINDOWS, st.integers(1, 4))
    return st.lists(one, min_size=1, max_size=2).map(
        lambda drawn: tuple(
            rule(algorithm, *windows, name=f"limit{index}", burst=burst)
            for index, (algorithm, windows, burst) in enumerate(drawn)
        )
    )


# Ticks of nothing, of about what an edge may be away, and anything between.
_GAPS = st.one_of(
    st.just(0),
    st.builds(lambda edges, ticks: max(edges * 48 * 64 + ticks, 0), st.integers(0, 16), st.integers(-1, 1)),
    st.integers(0, 400 * 64),
)
_CLAIMED = st.lists(st.tuples(st.integers(0, 1), st.sampled_from("ab")), min_size=1, max_size=3, unique=True)
_STEPS = st.lists(st.tuples(_GAPS, st.one_of(_CLAIMED, _CLAIMED, st.integers(0, 40))), max_size=25)
"""(ticks since the step before, the claims of a request as rule and subject, or which earlier one is given back)"""


def claims_of(rules: tuple[Rule, ...], claimed: list[tuple[int, str]]) -> Claims:
    """Rules that were not drawn are not claimed."""
    return tuple(dict.fromkeys(Claim(rules[index % len(rules)], subject) for index, subject in claimed))


class StoreSuite(ABC):
    """How to open a store. ``examples`` is how many traces each of its properties is tried with."""

    examples = 100

    @abstractmethod
    def open(self, clock: FakeClock) -> LimitStore:
        """An empty store with room for at least a thousand subjects a rule. Called on the event loop of the test."""

    async def settle(self, store: LimitStore, tasks: set[asyncio.Task[object]]) -> None:
        """Wait until a give-back was made: for the tasks that it has started, if the store says nothing else."""
        if tasks:
            await asyncio.wait_for(asyncio.gather(*tasks), 5)

    @contextmanager
    def runner(self) -> Iterator[asyncio.Runner]:
        """The event loop of one test."""
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            yield runner

    @contextmanager
    def opened(self, runner: asyncio.Runner) -> Iterator[Session]:
        """An empty store, closed at the end."""
        session = Session(self, runner, FakeClock())
        try:
            yield session
        finally:
            session.close()

    @pytest.fixture
    def session(self) -> Iterator[Session]:
        with self.runner() as runner, self.opened(runner) as session:
            yield session

    @pytest.fixture
    def clock(self, session: Session) -> FakeClock:
        return session.clock

    def tried(self, test: Callable[..., None]) -> None:
        """Run a property as often as this store can afford."""
        # A store behind a socket is slow, which says nothing about the property.
        settings(max_examples=self.examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])(test)()


class LimitStoreContract(StoreSuite):
    """Subclass it, say how to open a store, and pytest collects what every store must do."""

    def test_sliding_admits_up_to_the_limit(self, session: Session) -> None:
        asked = rule(SLIDING, MINUTE)
        decisions = [session.ask(asked) for _ in range(5)]
        assert [decision.allowed for decision in decisions] == [True, True, True, False, False]
        assert [decision.left for decision in decisions] == [((MINUTE, left, 60.0),) for left in (2, 1, 0, 0, 0)]
        assert decisions[0][:4] == (True, 0.0, None, None)
        assert decisions[3][:4] == (False, 60.0, Claim(asked, "a"), MINUTE)

    def test_gcra_admits_its_burst_then_one_at_a_time(self, session: Session, clock: FakeClock) -> None:
        asked = rule(GCRA, MINUTE, burst=2)
        decisions = [session.ask(asked) for _ in range(3)]
        assert [decision.allowed for decision in decisions] == [True, True, False]
        assert [decision.left for decision in decisions] == [((MINUTE, left, 20.0),) for left in (1, 0, 0)]
        assert decisions[2][:4] == (False, 20.0, Claim(asked, "a"), MINUTE)
        for _ in range(3):
            clock.advance(20)
            assert session.allowed(asked, times=2) == [True, False]

    def test_a_burst_is_never_more_than_the_limit(self, session: Session) -> None:
        assert session.allowed(rule(GCRA, MINUTE, burst=100), times=4) == [True, True, True, False]

    @pytest.mark.parametrize(("limit", "seconds"), [(7, 60), (49, 3600), (100, 60), (1000, 60)])
    def test_a_burst_is_whole_whatever_the_limit(self, session: Session, limit: int, seconds: int) -> None:
        # Sums of a seventh of a minute, as a float has it, would not be.
        for burst in {2, 7, min(limit, 60)}:
            asked = rule(GCRA, Window("w", limit, seconds), name=f"burst {burst}", burst=burst)
            decisions = [session.ask(asked) for _ in range(burst + 1)]
            assert [decision.left[0].remaining for decision in decisions] == [*range(burst - 1, -1, -1), 0]
            assert [decision.allowed for decision in decisions] == [True] * burst + [False]

    def test_gcra_counts_a_million(self, session: Session, clock: FakeClock) -> None:
        # One request a tick.
        asked = rule(GCRA, Window("long", 1_000_000, 15_625), burst=5)
        assert session.allowed(asked, times=6) == [True] * 5 + [False]
        clock.advance(TICK_S)
        assert session.allowed(asked, times=2) == [True, False]
        assert session.ask(asked).retry_after_s == TICK_S

    def test_sliding_counts_hundreds(self, session: Session, clock: FakeClock) -> None:
        asked = rule(SLIDING, Window("minute", 500, 60))
        claims = (Claim(asked, "a"),)
        decisions = []
        for _ in range(500):
            decisions.append(session.acquire(*claims))
            clock.advance(TICK_S)
        assert all(decision.allowed for decision in decisions)
        assert session.ask(asked).retry_after_s == 60 - 500 * TICK_S
        session.give_back(claims, decisions[250])
        assert session.allowed(asked, times=2) == [True, False]

    @BOTH
    def test_a_thousand_subjects_have_room(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, Window("minute", 1, 60))
        for _ in range(2):
            decisions = [session.ask(asked, f"s{n}") for n in range(500)]
            assert not any(decision.overflow for decision in decisions)
        assert not any(decision.allowed for decision in decisions)

    @BOTH
    @pytest.mark.parametrize(
        "other",
        [
            "A",
            "a ",
            "a\n",
            "a\r\nDEL a",
            "",
            "a{x}",
            "{a}",
            "}a{",
            "a:1",
            "a/b",
            "ä",
            "я" * 3000,
            "a" * 10_000,
            "a\x00",
        ],
        ids=lambda other: ascii(other)[:16],
    )
    def test_a_subject_is_just_its_text(self, session: Session, algorithm: Algorithm, other: str) -> None:
        asked = rule(algorithm, Window("minute", 1, 60))
        assert session.allowed(asked, "a", times=2) == [True, False]
        assert session.allowed(asked, other, times=2) == [True, False]
        assert session.reset(asked, other)
        assert session.allowed(asked, "a") == [False]
        assert session.allowed(asked, other) == [True]

    @BOTH
    def test_long_subjects_differ_to_their_last_letter(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, Window("minute", 1, 60))
        for last in "xyz":
            assert session.allowed(asked, "a" * 10_000 + last, times=2) == [True, False]

    @BOTH
    def test_rules_do_not_pay_for_each_other(self, session: Session, algorithm: Algorithm) -> None:
        once = Window("minute", 1, 60)
        for name in ("limit", "limit.per_key", "limit:a", "Limit"):
            for subject in ("a", "per_key", ":a", "a:a"):
                assert session.allowed(rule(algorithm, once, name=name), subject, times=2) == [True, False]

    def test_a_rule_with_another_algorithm_begins_anew(self, session: Session) -> None:
        once = Window("minute", 1, 60)
        assert session.allowed(rule(SLIDING, once), times=2) == [True, False]
        assert session.allowed(rule(GCRA, once), times=2) == [True, False]
        assert session.allowed(rule(SLIDING, once)) == [False]

    @BOTH
    def test_an_override_has_the_same_accounts(self, session: Session, algorithm: Algorithm) -> None:
        asked, larger = rule(algorithm, MINUTE), rule(algorithm, Window("minute", 5, 60))
        assert session.allowed(asked, "a", times=4) == [True, True, True, False]
        assert session.allowed(larger, "b", times=6) == [True] * 5 + [False]
        assert session.allowed(asked, "b") == [False]
        assert session.reset(asked, "b"), "what the override has charged is found by the rule"

    @BOTH
    def test_all_claims_are_charged_or_none(self, session: Session, algorithm: Algorithm) -> None:
        few, many = rule(algorithm, MINUTE, name="few"), rule(algorithm, HOUR, name="many")
        claims = (Claim(many, "a"), Claim(few, "a"), Claim(many, "b"))
        assert [session.acquire(*claims).allowed for _ in range(3)] == [True] * 3
        for order in (claims, claims[::-1]):
            decision = session.acquire(*order)
            assert not decision.allowed
            assert decision.refused == Claim(few, "a")
            assert decision.window == MINUTE
        for subject in "ab":
            assert session.standing(many, subject).left[0].remaining == 47

    @BOTH
    def test_all_subjects_of_a_rule_are_charged_or_none(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE)
        assert session.allowed(asked, "b", times=2) == [True, True]
        both = (Claim(asked, "a"), Claim(asked, "b"))
        assert [session.acquire(*both).allowed for _ in range(2)] == [True, False]
        assert [session.standing(asked, subject).left[0].remaining for subject in "ab"] == [2, 0]

    def test_all_windows_are_charged_or_none(self, session: Session, clock: FakeClock) -> None:
        asked = rule(SLIDING, Window("minute", 1, 60), Window("hour", 3, 3600), DAY)
        refusals = []
        for _ in range(3):
            assert session.allowed(asked) == [True]
            refusals.append(session.ask(asked)[:4])
            clock.advance(60)
        claim, (minute, hour, _) = Claim(asked, "a"), asked.windows
        assert refusals == [(False, 60, claim, minute), (False, 60, claim, minute), (False, 3480, claim, hour)]
        assert session.ask(asked)[:4] == (False, 3420, claim, hour)
        assert session.standing(asked).left == ((minute, 1, 0.0), (hour, 0, 3420.0), (DAY, 97, 86_220.0))

    @pytest.mark.parametrize("turned", [False, True])
    def test_the_longest_wait_is_told(self, session: Session, clock: FakeClock, turned: bool) -> None:
        short = rule(SLIDING, Window("minute", 1, 60), name="short")
        long = rule(GCRA, Window("minute", 1, 60), Window("hour", 2, 3600), name="long")
        claims = (Claim(short, "a"), Claim(long, "b"))
        claims = claims[::-1] if turned else claims
        assert session.acquire(*claims).allowed
        clock.advance(10)
        assert session.acquire(*claims)[:4] == (False, 50.0, claims[0], claims[0].rule.windows[0])
        clock.advance(50)
        assert session.acquire(*claims).allowed
        assert session.acquire(*claims)[:4] == (False, 1740.0, Claim(long, "b"), long.windows[1])
        clock.advance(1740 - TICK_S)
        assert session.acquire(*claims)[:4] == (False, TICK_S, Claim(long, "b"), long.windows[1])
        clock.advance(TICK_S)
        assert session.acquire(*claims).allowed

    def test_what_is_left_is_told_in_the_order_of_the_claims(self, session: Session, clock: FakeClock) -> None:
        first, second = rule(SLIDING, MINUTE, HOUR, name="first"), rule(GCRA, DAY, name="second")
        assert session.allowed(first, "a", times=2) == [True, True]
        clock.advance(30)
        expected: tuple[Remaining, ...] = (
            Remaining(MINUTE, 0, 30.0),
            Remaining(HOUR, 47, 3570.0),
            Remaining(DAY, 99, 864.0),
        )
        assert session.acquire(Claim(first, "a"), Claim(second, "a")).left == expected
        refused = session.acquire(Claim(second, "a"), Claim(first, "a"))
        assert not refused.allowed
        assert refused.left == (expected[2], *expected[:2])

    @BOTH
    def test_a_refused_request_costs_nothing(self, session: Session, clock: FakeClock, algorithm: Algorithm) -> None:
        asked = rule(algorithm, Window("minute", 1, 60))
        assert session.allowed(asked) == [True]
        for _ in range(9):
            clock.advance(6)
            assert session.allowed(asked, times=3) == [False] * 3
        clock.advance(6)
        assert session.allowed(asked) == [True]

    @BOTH
    def test_a_charge_is_given_back(self, session: Session, clock: FakeClock, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE)
        claims = (Claim(asked, "a"),)
        assert session.allowed(asked) == [True]
        clock.advance(TICK_S)
        before = session.standing(asked).left
        decisions = [session.acquire(*claims) for _ in range(2)]
        for decision in reversed(decisions):
            session.give_back(claims, decision)
        assert session.standing(asked).left == before
        assert session.allowed(asked, times=3) == [True, True, False]

    @BOTH
    def test_the_only_charge_is_given_back(self, session: Session, clock: FakeClock, algorithm: Algorithm) -> None:
        asked = rule(algorithm, Window("minute", 1, 60))
        claims = (Claim(asked, "a"),)
        for _ in range(3):
            decision = session.acquire(*claims)
            assert decision.allowed
            clock.advance(TICK_S)
            session.give_back(claims, decision)
        assert session.standing(asked).left == ((asked.windows[0], 1, 0.0),)

    @BOTH
    def test_all_claims_are_given_back(self, session: Session, clock: FakeClock, algorithm: Algorithm) -> None:
        one, two = rule(algorithm, MINUTE, HOUR, name="one"), rule(algorithm, DAY, name="two")
        claims = (Claim(one, "a"), Claim(two, "a"), Claim(two, "b"))
        decision = session.acquire(*claims)
        clock.advance(1)
        session.give_back(claims, decision)
        for asked, subject in claims:
            left = session.standing(asked, subject).left
            assert left == tuple((window, window.limit, 0.0) for window in asked.windows)

    def test_sliding_gives_back_what_was_admitted_before_others(self, session: Session, clock: FakeClock) -> None:
        asked = rule(SLIDING, MINUTE)
        claims = (Claim(asked, "a"),)
        decisions = []
        for _ in range(3):
            decisions.append(session.acquire(*claims))
            clock.advance(10)
        first, second, _ = decisions
        session.give_back(claims, second)
        assert session.standing(asked).left == ((MINUTE, 1, 30.0),)
        session.give_back(claims, first)
        assert session.standing(asked).left == ((MINUTE, 2, 50.0),)

    def test_gcra_keeps_what_was_admitted_before_others(self, session: Session, clock: FakeClock) -> None:
        asked, apart = rule(GCRA, MINUTE, burst=2), rule(SLIDING, MINUTE, name="apart")
        claims = (Claim(asked, "a"), Claim(apart, "a"))
        first = session.acquire(*claims)
        clock.advance(1)
        assert session.allowed(asked) == [True]
        session.give_back(claims, first)
        assert session.ask(asked).retry_after_s == 19.0
        assert session.standing(apart).left == ((MINUTE, 3, 0.0),), "the other claim is given back all the same"

    @BOTH
    def test_giving_back_to_a_stranger_does_nothing(
        self, session: Session, clock: FakeClock, algorithm: Algorithm
    ) -> None:
        asked = rule(algorithm, MINUTE)
        decision = session.ask(asked, "a")
        session.give_back((Claim(asked, "b"),), decision)
        session.give_back((Claim(rule(algorithm, MINUTE, name="never seen"), "a"),), decision)
        assert session.standing(asked, "b") == (((MINUTE, 3, 0.0),), False)
        assert session.standing(asked, "a").left[0].remaining == 2

    @BOTH
    def test_giving_back_what_was_forgotten_does_nothing(
        self, session: Session, clock: FakeClock, algorithm: Algorithm
    ) -> None:
        asked = rule(algorithm, MINUTE)
        claims = (Claim(asked, "a"),)
        forgotten = session.acquire(*claims)
        assert session.reset(asked)
        session.give_back(claims, forgotten)
        assert session.standing(asked) == (((MINUTE, 3, 0.0),), False)
        clock.advance(1)
        assert session.allowed(asked, times=3) == [True] * 3
        session.give_back(claims, forgotten)
        assert session.allowed(asked) == [False]

    @BOTH
    def test_giving_back_what_has_expired_does_nothing(
        self, session: Session, clock: FakeClock, algorithm: Algorithm
    ) -> None:
        asked = rule(algorithm, MINUTE)
        claims = (Claim(asked, "a"),)
        old = [session.acquire(*claims) for _ in range(3)]
        clock.advance(60)
        assert session.allowed(asked, times=4) == [True] * 3 + [False]
        for decision in old:
            session.give_back(claims, decision)
        assert session.allowed(asked) == [False]

    @BOTH
    def test_a_standing_charges_nothing(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE)
        for _ in range(5):
            assert session.standing(asked) == (((MINUTE, 3, 0.0),), False)
        assert session.allowed(asked) == [True]
        for _ in range(5):
            assert session.standing(asked).is_known
        assert session.allowed(asked, times=3) == [True, True, False]

    @BOTH
    def test_reset_forgets_one_subject_of_one_rule(self, session: Session, algorithm: Algorithm) -> None:
        once = Window("minute", 1, 60)
        asked, other = rule(algorithm, once), rule(algorithm, once, name="other")
        for each in (asked, other):
            for subject in "ab":
                assert session.allowed(each, subject) == [True]
        assert session.reset(asked, "a") is True
        assert session.reset(asked, "a") is False
        assert session.standing(asked, "a") == (((once, 1, 0.0),), False)
        assert session.allowed(asked, "a", times=2) == [True, False]
        assert [session.allowed(asked, "b"), session.allowed(other, "a"), session.allowed(other, "b")] == [
            [False]
        ] * 3

    @BOTH
    def test_there_is_nothing_to_forget_of_a_stranger(self, session: Session, algorithm: Algorithm) -> None:
        assert session.reset(rule(algorithm, MINUTE), "nobody") is False

    @pytest.mark.parametrize("algorithms", [(SLIDING,), (GCRA,), (SLIDING, GCRA)], ids=["sliding", "gcra", "both"])
    def test_it_decides_as_the_models_do(self, algorithms: tuple[Algorithm, ...]) -> None:
        with self.runner() as runner:

            @given(rules=_rules(*algorithms), steps=_STEPS)
            def decides(rules: tuple[Rule, ...], steps: list[tuple[int, list[tuple[int, str]] | int]]) -> None:
                with self.opened(runner) as session:
                    trace = Trace(session)
                    for ticks, step in steps:
                        session.clock.advance(ticks * TICK_S)
                        if isinstance(step, int):
                            trace.give_back(step)
                        else:
                            trace.acquire(claims_of(rules, step))
                    trace.check_standings()
                    trace.assert_bounds()

            self.tried(decides)

    @BOTH
    def test_whoever_waits_as_told_is_admitted(self, algorithm: Algorithm) -> None:
        with self.runner() as runner:

            @given(rules=_rules(algorithm), steps=st.lists(st.tuples(_GAPS, _CLAIMED), max_size=12))
            def waits(rules: tuple[Rule, ...], steps: list[tuple[int, list[tuple[int, str]]]]) -> None:
                with self.opened(runner) as session:
                    trace = Trace(session)
                    for ticks, step in steps:
                        # Short gaps: most requests have to wait.
                        session.clock.advance(ticks // 8 * TICK_S)
                        claims = claims_of(rules, step)
                        decision = trace.acquire(claims)
                        if not decision.allowed:
                            session.clock.advance(decision.retry_after_s - TICK_S)
                            assert trace.acquire(claims).retry_after_s == TICK_S
                            session.clock.advance(TICK_S)
                            assert trace.acquire(claims).allowed
                    trace.assert_bounds()

            self.tried(waits)


class CappedStoreContract(StoreSuite):
    """What a store does that keeps apart ``max_subjects`` of a rule and no more."""

    def _fill(self, session: Session, asked: Rule) -> None:
        for n in range(asked.max_subjects):
            assert not session.ask(asked, f"s{n}").overflow

    @BOTH
    def test_new_subjects_share_one_bucket_and_are_told_so(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE, room=4)
        self._fill(session, asked)
        decisions = [session.ask(asked, subject) for subject in ("new", "newer", "new", "newest")]
        assert [decision.allowed for decision in decisions] == [True, True, True, False]
        assert all(decision.overflow for decision in decisions)
        assert [decision.left[0].remaining for decision in decisions] == [2, 1, 0, 0]
        assert session.standing(asked, "another").left[0].remaining == 0
        assert not session.standing(asked, "another").is_known

    @BOTH
    def test_an_active_subject_is_never_evicted(self, session: Session, algorithm: Algorithm) -> None:
        # Its limit would begin anew: whoever can make up subjects could reset his own.
        asked = rule(algorithm, Window("minute", 2, 60), room=3)
        self._fill(session, asked)
        for n in range(50):
            assert session.ask(asked, f"made up {n}").overflow
        for n in range(3):
            decisions = [session.ask(asked, f"s{n}") for _ in range(2)]
            assert [decision.allowed for decision in decisions] == [True, False]
            assert not any(decision.overflow for decision in decisions)

    @BOTH
    def test_each_rule_has_room_of_its_own(self, session: Session, algorithm: Algorithm) -> None:
        full, free = rule(algorithm, MINUTE, name="full", room=2), rule(algorithm, MINUTE, name="free", room=2)
        self._fill(session, full)
        claims = (Claim(free, "new"), Claim(full, "new"))
        for order in (claims, claims[::-1]):
            assert session.acquire(*order).overflow
        assert not session.ask(free, "new").overflow

    @BOTH
    def test_two_new_subjects_of_a_request_find_room_for_one(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE, room=1)
        decision = session.acquire(Claim(asked, "a"), Claim(asked, "b"))
        assert (decision.allowed, decision.overflow) == (True, True)
        assert sorted(session.standing(asked, subject).is_known for subject in "ab") == [False, True]

    def test_the_shared_bucket_drains_like_any_other(self, session: Session, clock: FakeClock) -> None:
        asked = rule(SLIDING, Window("minute", 2, 60), room=1)
        assert session.allowed(asked, "old") == [True]
        assert session.allowed(asked, "new", times=3) == [True, True, False]
        clock.advance(30)
        assert session.allowed(asked, "old") == [True]
        clock.advance(30 - TICK_S)
        assert session.ask(asked, "newer").retry_after_s == TICK_S
        clock.advance(TICK_S)
        decision = session.ask(asked, "newer")
        assert (decision.allowed, decision.overflow) == (True, True)

    @BOTH
    def test_expired_subjects_make_room(self, session: Session, clock: FakeClock, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE, HOUR, room=3)
        self._fill(session, asked)
        clock.advance(3600 - TICK_S)
        assert session.ask(asked, "early").overflow
        clock.advance(TICK_S)
        for n in range(3):
            assert not session.ask(asked, f"new {n}").overflow
        assert session.ask(asked, "one more").overflow

    @BOTH
    def test_a_forgotten_subject_makes_room(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE, room=3)
        self._fill(session, asked)
        assert session.ask(asked, "new").overflow
        assert session.reset(asked, "s1")
        assert not session.ask(asked, "new").overflow

    @BOTH
    def test_leaving_the_shared_bucket_is_no_fresh_start(
        self, session: Session, clock: FakeClock, algorithm: Algorithm
    ) -> None:
        asked = rule(algorithm, MINUTE, room=1)
        assert session.allowed(asked, "old") == [True]
        clock.advance(59)
        assert session.allowed(asked, "new", times=3) == [True] * 3
        clock.advance(1)
        decision = session.ask(asked, "new")
        assert not decision.allowed, "four requests in one second, where three a minute may be"

    @BOTH
    def test_charges_of_the_shared_bucket_are_given_back(self, session: Session, algorithm: Algorithm) -> None:
        asked = rule(algorithm, MINUTE, room=1)
        self._fill(session, asked)
        claims = (Claim(asked, "new"),)
        decisions = [session.acquire(*claims) for _ in range(3)]
        assert session.allowed(asked, "newer") == [False]
        session.give_back(claims, decisions[-1])
        assert session.allowed(asked, "newer", times=2) == [True, False]

    @BOTH
    def test_rules_with_other_numbers_have_shared_buckets_of_their_own(
        self, session: Session, clock: FakeClock, algorithm: Algorithm
    ) -> None:
        # A ring of one time would forget the hundred; one number of gcra cannot leak at two rates.
        few = Window("second", 1, 1) if algorithm is SLIDING else Window("hour", 1, 3600)
        asked, larger = rule(algorithm, few, room=1), rule(algorithm, Window("hour", 100, 3600), room=1)
        assert asked.space == larger.space
        self._fill(session, larger)
        claims = (Claim(larger, "10.0.0.1"),)
        decisions = [session.acquire(*claims) for _ in range(101)]
        assert [decision.allowed for decision in decisions] == [True] * 100 + [False]
        clock.advance(1)
        decision = session.ask(asked, "stranger")
        assert (decision.allowed, decision.overflow) == (True, True)
        assert session.allowed(asked, "another") == [False]
        refused = session.acquire(*claims)
        assert (refused.allowed, refused.overflow) == (False, True)
        assert session.standing(larger, "10.0.0.1").left[0].remaining == 0
        assert session.standing(asked, "stranger").left[0].remaining == 0
        if algorithm is SLIDING:
            session.give_back(claims, decisions[0])
            assert session.standing(larger, "10.0.0.1").left[0].remaining == 1
            assert session.standing(asked, "stranger").left[0].remaining == 0

    def test_much_of_the_shared_bucket_is_not_taken_along(self, session: Session, clock: FakeClock) -> None:
        # Each of a million newcomers would have a copy of it.
        limit = MOST_TAKEN + 36
        asked = rule(SLIDING, Window("minute", limit, 60), room=1)
        self._fill(session, asked)
        clock.advance(1)
        assert session.allowed(asked, "new", times=35) == [True] * 35
        for _ in range(MOST_TAKEN + 1):
            clock.advance(0.5)
            assert session.allowed(asked, "new") == [True]
        # The first subject has expired, so there is room, and of the shared bucket the 35 of one moment are back.
        clock.now_s = 1061
        assert session.ask(asked, "new").overflow, "one more than it may take along is counted"
        assert not session.standing(asked, "new").is_known
        # Four more are back; two fewer are counted than it may take along.
        clock.now_s = 1063
        decision = session.ask(asked, "new")
        assert (decision.allowed, decision.overflow) == (True, False)
        left = limit - MOST_TAKEN + 2 - 1
        assert decision.left[0].remaining == left
        assert session.allowed(asked, "new", times=left + 1) == [True] * left + [False]

    @BOTH
    def test_a_request_whose_subjects_share_the_bucket(self, session: Session, algorithm: Algorithm) -> None:
        # It pays once: where one unit is left, or the limit is one, it would wait for ever otherwise.
        asked = rule(algorithm, MINUTE, room=1)
        self._fill(session, asked)
        both = (Claim(asked, "a"), Claim(asked, "b"))
        assert session.allowed(asked, "c") == [True]
        decisions = [session.acquire(*both) for _ in range(3)]
        assert [decision.allowed for decision in decisions] == [True, True, False]
        assert [left.remaining for left in decisions[0].left] == [1, 1]
        session.give_back(both, decisions[1])
        assert session.allowed(asked, "c", times=2) == [True, False]

    @BOTH
    def test_giving_back_a_forgotten_charge_leaves_the_shared_bucket_alone(
        self, session: Session, algorithm: Algorithm
    ) -> None:
        asked = rule(algorithm, MINUTE, room=1)
        own = (Claim(asked, "own"),)
        decision = session.acquire(*own)
        # At the same moment: the times alone do not tell whose charge it is.
        assert session.allowed(asked, "new", times=3) == [True] * 3
        assert session.reset(asked, "own")
        session.give_back(own, decision)
        assert session.standing(asked, "new").left[0].remaining == 0

    @BOTH
    def test_nobody_has_more_than_his_limit_however_full_it_is(self, algorithm: Algorithm) -> None:
        subjects = st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True)
        # Minutes, so that many fall on one moment: a window is four of them, half of it passes between two units.
        calls = st.lists(st.tuples(st.integers(0, 3), st.one_of(subjects, st.integers(0, 9))), max_size=14)

        with self.runner() as runner:

            @given(calls=calls, room=st.integers(1, 2), burst=st.integers(1, 2))
            def bounded(calls: list[tuple[int, list[str] | int]], room: int, burst: int) -> None:
                asked = rule(algorithm, Window("w", 2, 240), burst=burst, room=room)
                models = {subject: model_of(asked) for subject in "abc"}
                admitted: list[tuple[Claims, Decision]] = []
                with self.opened(runner) as session:
                    for minutes, call in calls:
                        session.clock.advance(60 * minutes)
                        if isinstance(call, list):
                            claims = tuple(Claim(asked, subject) for subject in call)
                            decision = session.acquire(*claims)
                            if decision.allowed:
                                admitted.append((claims, decision))
                        elif admitted:
                            session.give_back(*admitted.pop(call % len(admitted)))
                for claims, decision in admitted:
                    for _, subject in claims:
                        models[subject].charge(decision.at)
                for model in models.values():
                    model.assert_bound()

            self.tried(bounded)
