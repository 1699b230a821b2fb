"""limit: so many requests per second, minute, hour and day for each client; refused ones cost nothing."""

from __future__ import annotations

from collections.abc import Awaitable
from math import ceil
from typing import Literal

from pydantic import Field, field_validator

from proxy.core.address import UNIX, contains, parse_address, parse_network, subject_key
from proxy.core.exchange import Exchange
from proxy.core.headers import field
from proxy.core.messages import (
    LIMIT_PER_DAY,
    LIMIT_PER_HOUR,
    LIMIT_PER_MINUTE,
    LIMIT_PER_SECOND,
    TOO_MANY_REQUESTS,
    TRY_AGAIN,
    Message,
    Sentence,
)
from proxy.core.rate import MAX_LIMIT, Decision, Window
from proxy.core.reply import RATE_LIMIT, Reply
from proxy.core.stage import Outcome, Stage
from proxy.stages.model import Services, StageConfig

_WINDOWS: tuple[tuple[str, int, Message], ...] = (
    ("second", 1, LIMIT_PER_SECOND),
    ("minute", 60, LIMIT_PER_MINUTE),
    ("hour", 3600, LIMIT_PER_HOUR),
    ("day", 86400, LIMIT_PER_DAY),
)


class LimitConfig(StageConfig):
    """At most so many requests in any second, minute, hour and day; 0 = no limit."""

    by: Literal["client_ip"] = Field(default="client_ip", description="Whom the limit counts.")
    second: int = Field(default=0, ge=0, description="Requests in any second; 0 = no limit.")
    minute: int = Field(default=0, ge=0, description="Requests in any minute; 0 = no limit.")
    hour: int = Field(default=0, ge=0, description="Requests in any hour; 0 = no limit.")
    day: int = Field(default=0, ge=0, description="Requests in any day; 0 = no limit.")
    exempt: list[str] = Field(default=[], description="Addresses and networks that are not limited.")
    ipv6_prefix: int = Field(
        default=64, ge=16, le=128, description="IPv6 clients count by network of this many bits."
    )
    max_subjects: int = Field(
        default=200_000,
        ge=1,
        description="How many clients are remembered; further ones share one bucket until old ones expire.",
    )

    @field_validator("second", "minute", "hour", "day")
    @classmethod
    def _not_too_large(cls, limit: int) -> int:
        if limit > MAX_LIMIT:
            raise ValueError(
                f"{limit} is more than the {MAX_LIMIT} requests one window can count exactly; "
                "use a shorter window with a smaller number"
            )
        return limit

    @field_validator("exempt")
    @classmethod
    def _networks(cls, entries: list[str]) -> list[str]:
        for entry in entries:
            if entry != UNIX:
                parse_network(entry)
        return entries

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows that are set, shortest first."""
        limits = {"second": self.second, "minute": self.minute, "hour": self.hour, "day": self.day}
        return tuple(Window(name, limits[name], s) for name, s, _ in _WINDOWS if limits[name])


class Limit(Stage):
    """Counts each client's requests in every window and refuses the one that would be too many."""

    reads = ("client_ip",)

    def __init__(self, name: str, config: LimitConfig, services: Services) -> None:
        super().__init__(name, config.mode)
        self._windows = config.windows
        self._store = services.open_store(name, config.max_subjects)
        self._subject = subject_key(config.ipv6_prefix)
        self._exempt = [parse_network(entry) for entry in config.exempt if entry != UNIX]
        self._exempt_unix = UNIX in config.exempt
        self._exempt_any = bool(config.exempt)
        messages = {window: message for window, _, message in _WINDOWS}
        self._limits = tuple(Sentence(messages[w.name], {"count": w.limit}) for w in self._windows)
        self._names = tuple(w.name.encode("ascii") for w in self._windows)
        policy = ", ".join(f'"{w.name}";q={w.limit};w={w.seconds}' for w in self._windows)
        self._policy = field(b"RateLimit-Policy", policy.encode("ascii"))

    def on_request_headers(self, exchange: Exchange) -> Outcome:
        """429 if one more request would be too many in some window."""
        if not self._windows or (self._exempt_any and self._is_exempt(exchange.client_ip)):
            return None
        decision = self._store.acquire(self._subject(exchange.client_ip), self._windows)
        if type(decision) is Decision:
            return None if decision.allowed else self._refuse(decision)
        assert isinstance(decision, Awaitable)
        return self._wait(decision)

    async def _wait(self, decision: Awaitable[Decision]) -> Reply | None:
        decided = await decision
        return None if decided.allowed else self._refuse(decided)

    def on_response_headers(self, exchange: Exchange) -> None:
        """Add ``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers)."""
        headers = exchange.response_headers
        if headers is None or not self._windows or (self._exempt_any and self._is_exempt(exchange.client_ip)):
            return
        left = self._store.remaining(self._subject(exchange.client_ip), self._windows)
        headers.fields.append(self._policy)
        if left:
            items = [
                b'"%b";r=%d;t=%d' % (name, rest, ceil(reset_s))
                for name, (_, rest, reset_s) in zip(self._names, left, strict=True)
            ]
            headers.add(b"RateLimit", b", ".join(items))

    def _is_exempt(self, client_ip: str) -> bool:
        if client_ip == UNIX:
            return self._exempt_unix
        return contains(self._exempt, parse_address(client_ip)) is not None

    def _refuse(self, decision: Decision) -> Reply:
        # Rounded up to the unit sent, so that a client that waits so long is never refused again for it.
        milliseconds = ceil(decision.retry_after_s * 1000)
        seconds = ceil(milliseconds / 1000)
        return Reply(
            429,
            RATE_LIMIT,
            "rate_limit_exceeded",
            (Sentence(TOO_MANY_REQUESTS), *self._limits, Sentence(TRY_AGAIN, {"count": seconds})),
            headers=(
                field(b"Retry-After", b"%d" % seconds),
                field(b"Retry-After-Ms", b"%d" % milliseconds),
            ),
        )

    def explain(self, exchange: Exchange) -> str:
        """Which windows apply to whom."""
        if not self._windows:
            return "no limit is set"
        if self._is_exempt(exchange.client_ip):
            return f"{exchange.client_ip} is exempt"
        limits = ", ".join(f"{w.limit} per {w.name}" for w in self._windows)
        return f"{self._subject(exchange.client_ip)} may send {limits}"
