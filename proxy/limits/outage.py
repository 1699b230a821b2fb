"""A store that is a server: asked while it answers, left alone while it does not."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from proxy.core.figure import Figure
from proxy.core.rate import Claim, Claims, Decision
from proxy.limits.breaker import Breaker
from proxy.limits.bypass import Bypass
from proxy.limits.store import Clock, LimitStore, Standing, StoreError


class ProbedStore(LimitStore, Protocol):
    """A store that can be tried without asking it for a decision."""

    def acquire(self, claims: Claims) -> Awaitable[Decision]:
        """As `LimitStore.acquire`."""
        ...

    def standing(self, claim: Claim) -> Awaitable[Standing]:
        """As `LimitStore.standing`."""
        ...

    def reset(self, claim: Claim) -> Awaitable[bool]:
        """As `LimitStore.reset`."""
        ...

    async def probe(self) -> None:
        """Raises `StoreError` while the store is in trouble."""
        ...


class OutageStore:
    """Asks ``store``, and while that is in trouble decides as each claim's rule says, with ``local`` beside it."""

    def __init__(self, store: ProbedStore, local: LimitStore, *, hosts: int = 1, clock: Clock) -> None:
        self._store = store
        self._local = local
        self._bypass = Bypass(local, hosts)
        self._clock = clock
        self.breaker = Breaker(str(store), store.probe)
        self._calls = 0
        self._seconds = 0.0

    async def open(self) -> None:
        """Reach the server before the first request needs it; if it is away, begin without it."""
        try:
            await self._store.open()
            await self._store.probe()
        except StoreError as error:
            self.breaker.trip(error)

    def acquire(self, claims: Claims) -> Decision | Awaitable[Decision]:
        """Admit one request and charge every claim of it, or refuse it and charge none. Raises nothing."""
        return self._bypass.decide(claims) if self.breaker.is_open else self._ask(claims)

    async def _ask(self, claims: Claims) -> Decision:
        begun = self._clock()
        try:
            decision = await self._store.acquire(claims)
        except StoreError as error:
            self.breaker.failed(error)
            return self._bypass.decide(claims)
        self.breaker.succeeded()
        self._calls += 1
        self._seconds += self._clock() - begun
        return decision

    def give_back(self, claims: Claims, decision: Decision) -> None:
        """Undo the charges of a request that was certainly not sent, where they were made."""
        if decision.unavailable:
            self._bypass.give_back(claims, decision)
        else:
            self._store.give_back(claims, decision)

    async def standing(self, claim: Claim) -> Standing:
        """Where a subject stands, without charging. Raises `StoreError`."""
        self._check()
        return await self._store.standing(claim)

    async def reset(self, claim: Claim) -> bool:
        """Forget a subject, here too; whether there was anything to forget. Raises `StoreError`."""
        self._check()
        was_here = self._bypass.reset(claim)
        return await self._store.reset(claim) or was_here

    def _check(self) -> None:
        if self.breaker.is_open:
            raise StoreError("the store cannot be asked at the moment")

    async def close(self) -> None:
        """Close both stores."""
        await self.breaker.close()
        await self._store.close()
        await self._local.close()

    def figures(self) -> list[Figure]:
        """What the store's state is and was, for the metrics: (name, kind, help, labels, value)."""
        breaker = self.breaker
        failures = "Calls of the limit store that failed, by reason."
        return [
            ("sluice_limit_store_up", "gauge", "Whether the limit store is asked.", {}, 0 if breaker.is_open else 1),
            ("sluice_limit_store_outages_total", "counter", "Times the store was given up.", {}, breaker.opened),
            *[
                ("sluice_limit_store_failures_total", "counter", failures, {"reason": reason}, count)
                for reason, count in sorted(breaker.failures.items())
            ],
            *self._bypass.figures(),
            ("sluice_limit_store_calls_total", "counter", "Calls that were answered.", {}, self._calls),
            ("sluice_limit_store_seconds_total", "counter", "What those took together.", {}, self._seconds),
            *self._store.figures(),
            *self._local.figures(),
        ]

    def __repr__(self) -> str:
        return f"<OutageStore of {self._store!r}>"
