"""limit: so many requests per second, minute, hour and day for each client; refused ones cost nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import lru_cache
from math import ceil

from pydantic import Field, field_validator

from proxy.core.exchange import NOT_SENT, Exchange
from proxy.core.figure import Figure
from proxy.core.headers import Field as HeaderField
from proxy.core.headers import field
from proxy.core.messages import (
    LIMIT_PER_DAY,
    LIMIT_PER_HOUR,
    LIMIT_PER_MINUTE,
    LIMIT_PER_SECOND,
    LIMITS_UNAVAILABLE,
    TOO_MANY_REQUESTS,
    TRY_AGAIN,
    Message,
    Sentence,
)
from proxy.core.rate import Admission, Claim, Claims, Decision, Rule, make
from proxy.core.reply import RATE_LIMIT, SERVER_ERROR, Reply
from proxy.core.stage import Outcome, Stage
from proxy.stages.limit_fields import LimitFields, add_request_fields
from proxy.stages.limit_rules import By, LimitRule, name_faults, refuse
from proxy.stages.model import Services, StageConfig
from proxy.stages.subjects import Subjects

_PER: dict[str, Message] = {
    "second": LIMIT_PER_SECOND,
    "minute": LIMIT_PER_MINUTE,
    "hour": LIMIT_PER_HOUR,
    "day": LIMIT_PER_DAY,
}
_REMEMBERED_ADDRESSES = 16_384
_REMEMBERED_FIELDS = 1000
_PATIENCE_S = 120.0
"""OpenAI's SDKs wait no longer; older ones would ask again at once and in vain."""
_NOT_WORTH_WAITING = field(b"X-Should-Retry", b"false")


class LimitConfig(LimitRule, StageConfig):
    """At most so many requests in any second, minute, hour and day; 0 = no limit."""

    limits: dict[str, LimitRule] = Field(
        default={},
        description="Further limits, each by a name of its own: a request is charged in all of them, or in none.",
    )

    @field_validator("limits")
    @classmethod
    def _names(cls, limits: dict[str, LimitRule]) -> dict[str, LimitRule]:
        refuse(name_faults(limits))
        return limits


class Limit(Stage):
    """Counts requests in every window of every rule, and refuses the one that would be too many.

    All claims of a request are checked, then all are charged, or none. A request that certainly was not sent
    upstream, whoever refused it later, gets its units back. ``counts``: some limit is set.
    """

    def __init__(self, name: str, config: LimitConfig, services: Services) -> None:
        super().__init__(name, config.mode)
        self._store = services.store
        self._clock = services.clock
        everything = {name: config, **{f"{name}.{own}": rule for own, rule in config.limits.items()}}
        self._subjects = tuple(s for s in (Subjects(n, rule) for n, rule in everything.items()) if s.counts)
        self.counts = bool(self._subjects)
        self.reads = ("client_ip",)
        if any("path" in subjects.parts for subjects in self._subjects):
            self.reads += ("target",)
        if any(subjects.needs_credential for subjects in self._subjects):
            self.reads += ("credential",)
        # Where the address alone decides, what it claims is worked out once.
        self._claims_of_address: Callable[[str], Claims] | None = None
        if all(subjects.is_by_address for subjects in self._subjects):
            self._claims_of_address = lru_cache(maxsize=_REMEMBERED_ADDRESSES)(self._all_of_address)
        self._fields: dict[Rule | tuple[Rule, ...], LimitFields] = {}
        # A flood is refused in the same words.
        self._named = lru_cache(maxsize=_REMEMBERED_FIELDS)(_named)
        self._told = lru_cache(maxsize=_REMEMBERED_FIELDS)(_told)
        self._counts = {"admitted": 0, "refused": 0, "unchecked": 0, "unavailable": 0}

    def on_request_headers(self, exchange: Exchange) -> Outcome:
        """429 if one more request would be too many in some window; 503 if that cannot be told."""
        if not self.counts:
            return None
        by_address = self._claims_of_address
        claims = self._claims(exchange) if by_address is None else by_address(exchange.client_ip)
        if not claims:
            return None
        decision = self._store.acquire(claims)
        if type(decision) is Decision:
            return self._decided(exchange, claims, decision)
        assert not isinstance(decision, Decision)
        return self._wait(exchange, claims, decision)

    async def _wait(self, exchange: Exchange, claims: Claims, decision: Awaitable[Decision]) -> Reply | None:
        decided = await decision
        if exchange.completed:
            # The client did not wait: nobody will complete this stage any more.
            self._give_back(claims, decided)
            return None
        return self._decided(exchange, claims, decided)

    def _claims(self, exchange: Exchange) -> Claims:
        return tuple([claim for subjects in self._subjects for claim in subjects.claims(exchange)])

    def _all_of_address(self, client_ip: str) -> Claims:
        return tuple([claim for subjects in self._subjects for claim in subjects.claims_of_address(client_ip)])

    def _decided(self, exchange: Exchange, claims: Claims, decision: Decision) -> Reply | None:
        admission = make(Admission, (claims, decision))
        if exchange.limited is None:
            exchange.limited = {self.name: admission}
        else:
            exchange.limited[self.name] = admission
        if not decision.allowed:
            return self._refuse(decision)
        if decision.unavailable and not decision.local:
            self._counts["unchecked"] += 1
        else:
            self._counts["admitted"] += 1
        return None

    def on_response_headers(self, exchange: Exchange) -> None:
        """Add what is left: ``RateLimit`` everywhere, ``x-ratelimit-*`` as OpenAI has it to our own answers.

        A forwarded answer keeps OpenAI's own ``x-ratelimit-*``, which speak of OpenAI's limits. Where the store could
        not be asked, nothing is known, and nothing is said.
        """
        headers = exchange.response_headers
        admission = None if exchange.limited is None else exchange.limited.get(self.name)
        if headers is None or admission is None:
            return
        claims, decision = admission
        if not decision.left:
            return
        fields = self._fields.get(claims[0].rule) if len(claims) == 1 else None
        if fields is None:
            fields = self._fields_of(claims)
        if not (decision.local or decision.unavailable):
            # What holds in the meantime is this host's share, which is no policy.
            headers.append(fields.policy)
        # If the body was waited for, the decision may be younger than the request by nobody knows how much.
        is_dated = decision.allowed and exchange.body is None
        headers.append(fields.remaining(decision, self._clock() - exchange.started_s if is_dated else 0.0))
        if exchange.reply is not None or exchange.refused_with:
            add_request_fields(headers, decision)

    def _fields_of(self, claims: Claims) -> LimitFields:
        rules = tuple([rule for rule, _ in claims])
        # One rule is its own key, which is quicker than a tuple of it.
        key = rules if len(rules) > 1 else rules[0]
        fields = self._fields.get(key)
        if fields is None:
            if len(self._fields) >= _REMEMBERED_FIELDS:
                self._fields.clear()
            fields = self._fields[key] = LimitFields(rules)
        return fields

    def on_complete(self, exchange: Exchange) -> None:
        """Give the units back if the request certainly was not sent upstream."""
        if exchange.upstream_sent is NOT_SENT and exchange.limited is not None:
            admission = exchange.limited.get(self.name)
            if admission is not None:
                self._give_back(*admission)

    def _give_back(self, claims: Claims, decision: Decision) -> None:
        # Where nothing could be asked nothing was charged, unless this host's own store was asked in its place.
        if decision.allowed and (decision.local or not decision.unavailable):
            self._store.give_back(claims, decision)

    def _refuse(self, decision: Decision) -> Reply:
        if decision.refused is None or decision.window is None:
            self._counts["unavailable"] += 1
            retry, _ = _retry_fields(decision.retry_after_s or 1.0)
            return Reply(503, SERVER_ERROR, "limits_unavailable", (Sentence(LIMITS_UNAVAILABLE),), headers=retry)
        self._counts["refused"] += 1
        retry, seconds = _retry_fields(decision.retry_after_s)
        rule = decision.refused.rule
        headers = (*retry, self._named(rule, decision.window.name))
        return Reply(429, RATE_LIMIT, "rate_limit_exceeded", self._told(rule, seconds), headers=headers)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Everybody's rules, in the order they are claimed."""
        return tuple([rule for subjects in self._subjects for rule in subjects.rules])

    def claims_of(self, given: Mapping[str, str]) -> Iterator[Claim]:
        """The claims of a subject named by its parts, on those rules that count such subjects."""
        for subjects in self._subjects:
            yield from subjects.claims_of(given)

    def counted_by(self) -> list[tuple[By, ...]]:
        """What the subjects are told apart by, for each rule."""
        every = [parts for subjects in self._subjects for parts in (subjects.parts, subjects.address_parts)]
        return [parts for parts in every if parts]

    def figures(self) -> list[Figure]:
        """What was decided, each request once.

        ``unchecked`` passed and ``unavailable`` did not, both because the store could not be asked.
        """
        name, about = "sluice_limit_decisions_total", "Requests that a limit decided on, by outcome."
        return [
            (name, "counter", about, {"outcome": outcome, "mode": self.mode.value}, count)
            for outcome, count in self._counts.items()
        ]

    def explain(self, exchange: Exchange) -> str:
        """Which windows apply to whom, limit by limit."""
        if len(self._subjects) == 1:
            return self._subjects[0].explain(exchange)
        said = [f"{subjects.name}: {subjects.explain(exchange)}" for subjects in self._subjects]
        return "; ".join(said) or "no limit is set"


def _named(rule: Rule, window: str) -> HeaderField:
    """``X-Sluice-Limit``: which window of which rule refuses."""
    return field(b"X-Sluice-Limit", f"{rule.name}.{window}".encode("ascii"))


def _told(rule: Rule, seconds: int) -> tuple[Sentence, ...]:
    """What a refused client is told, who may come back in so many seconds."""
    limits = [Sentence(_PER[window.name], {"count": window.limit}) for window in rule.windows]
    return (Sentence(TOO_MANY_REQUESTS), *limits, Sentence(TRY_AGAIN, {"count": seconds}))


@lru_cache(maxsize=_REMEMBERED_FIELDS)
def _retry_after(seconds: int) -> HeaderField:
    return field(b"Retry-After", b"%d" % seconds)


def _retry_fields(wait_s: float) -> tuple[tuple[HeaderField, ...], int]:
    """``Retry-After`` and ``Retry-After-Ms``, ``X-Should-Retry`` if it is too long to wait for, and the seconds.

    Rounded up to the unit sent, so that a client that waits so long is never refused again for it.
    """
    milliseconds = ceil(wait_s * 1000)
    seconds = -(-milliseconds // 1000)
    fields = (_retry_after(seconds), field(b"Retry-After-Ms", b"%d" % milliseconds))
    return (fields if wait_s <= _PATIENCE_S else (*fields, _NOT_WORTH_WAITING)), seconds
