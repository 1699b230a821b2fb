"""The chain: stages in the operator's order, flattened at start-up into one tuple per phase.

Two promises, whatever the stages are:

order        no hook of a stage runs before the hooks of the stages ahead of it. A stage that wants the body
             therefore holds the later ones until the body is in.
completion   ``on_complete`` runs exactly once, in reverse, for every stage passed before the rejection,
             failure or disconnect; the stage that rejected is itself not completed.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Literal

from proxy.core.exchange import Exchange
from proxy.core.reply import Reply
from proxy.core.stage import Mode, Outcome, Stage

log = logging.getLogger("sluice.chain")

BODY_WANTED: Final = "body wanted"
Verdict = Reply | Literal["body wanted"] | None
"""None = every stage was passed; BODY_WANTED = put the body into the exchange, then proceed again."""

_Hook = Callable[[Exchange], Outcome]
_Step = tuple[int, int, _Hook, Callable[[Exchange], bool] | None]
"""(its own index, its stage's, the hook, whether that wants the body)"""

EXCHANGE_FIELDS = frozenset({"client_ip", "peer_ip", "headers", "method", "target", "route"})
"""What every exchange has before the first stage runs."""


class OrderError(ValueError):
    """The stages cannot run in this order. ``position`` is the index of the stage at fault."""

    def __init__(self, position: int, message: str) -> None:
        super().__init__(message)
        self.position = position


def check_order(stages: Sequence[Stage]) -> list[OrderError]:
    """Every reason why these stages cannot run in this order; an empty list if they can."""
    problems: list[OrderError] = []
    if not stages or not stages[-1].terminal:
        problems.append(
            OrderError(
                max(len(stages) - 1, 0),
                "the chain must end with an upstream stage: without one no request can be forwarded",
            )
        )
    written = set(EXCHANGE_FIELDS)
    for position, stage in enumerate(stages):
        if stage.terminal and position != len(stages) - 1:
            problems.append(OrderError(position, f"{stage.name} forwards, so it must be the last stage"))
        if stage.terminal and stage.mode is not Mode.ENFORCE:
            problems.append(OrderError(position, f"{stage.name} forwards, so its mode can only be enforce"))
        missing = [field for field in stage.reads if field not in written]
        problems.extend(OrderError(position, _unwritten(stages, position, field)) for field in missing)
        if stage.mode is Mode.ENFORCE:
            written.update(stage.writes)
    return problems


def _unwritten(stages: Sequence[Stage], position: int, field: str) -> str:
    name = stages[position].name
    for later in stages[position + 1 :]:
        if field in later.writes:
            return f"{name} reads {field}, which {later.name} sets only later; move {name} behind {later.name}"
    for earlier in stages[:position]:
        if field in earlier.writes:
            return f"{name} reads {field}, which {earlier.name} does not set in mode {earlier.mode}"
    return f"{name} reads {field}, which no stage of the chain sets"


class Chain:
    """Stages ready to run. Raises `OrderError` if they cannot run in this order."""

    def __init__(self, stages: Iterable[Stage]) -> None:
        self.stages = tuple(stages)
        for problem in check_order(self.stages):
            raise problem
        active = [s for s in self.stages if s.mode is not Mode.OFF]
        self.names = tuple(stage.name for stage in active)
        self._length = len(active)
        self._all_passed = tuple((name, "pass") for name in self.names)
        self._steps: tuple[_Step, ...] = tuple((index, *step) for index, step in enumerate(_steps(active)))
        backwards = list(enumerate(active))[::-1]
        # A stage in shadow changes nothing the client can see, so its response hooks do not run.
        enforcing = [(n, s) for n, s in backwards if s.mode is Mode.ENFORCE]
        self._response_headers = tuple(
            (n, s.on_response_headers) for n, s in enforcing if _overrides(s, "on_response_headers")
        )
        self._response_chunk = tuple(s.on_response_chunk for _, s in enforcing if _overrides(s, "on_response_chunk"))
        self._complete = tuple((n, s.on_complete) for n, s in backwards if _overrides(s, "on_complete"))
        self.changes_chunks = bool(self._response_chunk)

    def proceed(self, exchange: Exchange) -> Verdict | Awaitable[Verdict]:
        """Run the request phases from where this exchange stands.

        Returns at once unless a stage has to wait; then an awaitable of the same. After BODY_WANTED call
        again with ``exchange.body`` set.
        """
        steps = self._steps
        if exchange.step:
            steps = steps[exchange.step :]
        for index, position, hook, wants_body in steps:
            exchange.entered = position
            if wants_body is not None:
                if not wants_body(exchange):
                    continue
                if exchange.body is None:
                    exchange.step = index
                    return BODY_WANTED
            outcome = hook(exchange)
            if outcome is None:
                continue
            if type(outcome) is Reply:
                exchange.reply = outcome
                return outcome
            exchange.step = index + 1
            return self._wait(exchange, outcome)
        exchange.step = len(self._steps)
        exchange.entered = self._length
        return None

    async def _wait(self, exchange: Exchange, outcome: Outcome) -> Verdict:
        assert not isinstance(outcome, Reply)
        assert outcome is not None
        reply = await outcome
        if reply is not None:
            exchange.reply = reply
            return reply
        verdict = self.proceed(exchange)
        return await verdict if isinstance(verdict, Awaitable) else verdict

    def response_headers(self, exchange: Exchange) -> None:
        """Let the stages that were reached see and change the response head, last stage first."""
        for position, hook in self._response_headers:
            if position <= exchange.entered:
                hook(exchange)

    def response_chunk(self, exchange: Exchange, chunk: bytes) -> bytes:
        """Pass one piece of a forwarded body through the stages, last stage first."""
        for hook in self._response_chunk:
            chunk = hook(exchange, chunk)
        return chunk

    def complete(self, exchange: Exchange) -> None:
        """End the exchange for every stage it passed. Only the first call counts."""
        if exchange.completed:
            return
        exchange.completed = True
        for position, hook in self._complete:
            if position < exchange.entered:
                try:
                    hook(exchange)
                except Exception:
                    # One faulty stage must not keep the others from releasing what they hold.
                    log.exception("on_complete failed in exchange %s", exchange.request_id)

    def verdicts(self, exchange: Exchange) -> tuple[tuple[str, str], ...]:
        """(stage, verdict) for every stage this exchange reached.

        ``pass``, or ``deny`` or ``shadow_deny`` with the code; at the stage where an exchange ended without that
        stage's doing, ``stopped`` with the code of the gateway's own refusal, or ``unfinished``.
        """
        if exchange.entered == self._length and exchange.shadowed is None:
            return self._all_passed
        if exchange.entered < 0:
            return ()
        found = [(name, "pass") for name in self.names[: exchange.entered]]
        if exchange.entered < self._length:
            if exchange.reply is not None:
                verdict = f"deny {exchange.reply.code}"
            else:
                verdict = f"stopped {exchange.refused_with}" if exchange.refused_with else "unfinished"
            found.append((self.names[exchange.entered], verdict))
        for name, reply in exchange.shadowed or ():
            found[self.names.index(name)] = (name, f"shadow_deny {reply.code}")
        return tuple(found)

    def __repr__(self) -> str:
        return f"<Chain {' ▸ '.join(self.names)}>"


def _overrides(stage: Stage, hook: str) -> bool:
    return getattr(type(stage), hook) is not getattr(Stage, hook)


def _steps(active: Sequence[Stage]) -> Iterable[tuple[int, _Hook, Callable[[Exchange], bool] | None]]:
    for position, stage in enumerate(active):
        if _overrides(stage, "on_request_headers"):
            yield position, _seen(stage, stage.on_request_headers), None
        if _overrides(stage, "on_request_body"):
            yield position, _seen(stage, stage.on_request_body), _wants(stage)


def _wants(stage: Stage) -> Callable[[Exchange], bool]:
    """Whether the stage wants the body; in shadow, no if it fails to say."""
    if stage.mode is Mode.ENFORCE:
        return stage.wants_body

    def wants_body(exchange: Exchange) -> bool:
        try:
            return stage.wants_body(exchange)
        except Exception:
            log.exception("stage %s failed in shadow", stage.name)
            return False

    return wants_body


def _seen(stage: Stage, hook: _Hook) -> _Hook:
    """The hook itself; in shadow, one that notes what it would have answered and lets the exchange pass."""
    if stage.mode is Mode.ENFORCE:
        return hook

    def note(exchange: Exchange, reply: Reply | None) -> None:
        if reply is not None:
            exchange.shadowed = [*(exchange.shadowed or ()), (stage.name, reply)]

    async def wait(exchange: Exchange, outcome: Awaitable[Reply | None]) -> None:
        try:
            note(exchange, await outcome)
        except Exception:
            log.exception("stage %s failed in shadow", stage.name)

    def shadow(exchange: Exchange) -> Outcome:
        try:
            outcome = hook(exchange)
        except Exception:
            # A stage that only watches must not be able to break what it watches.
            log.exception("stage %s failed in shadow", stage.name)
            return None
        if outcome is None or isinstance(outcome, Reply):
            note(exchange, outcome)
            return None
        return wait(exchange, outcome)

    return shadow
