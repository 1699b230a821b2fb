"""A store on this machine that may run out of room, and what is decided then."""

from __future__ import annotations

import logging
from typing import Protocol

from proxy.core.figure import Figure
from proxy.core.rate import Claim, Claims, Decision
from proxy.limits.bypass import Bypass
from proxy.limits.store import Clock, LimitStore, Standing, StoreError

log = logging.getLogger("sluice.limits")


CALM_S = 1.0
"""So long without a failure, and the store has room again: where it is short a small account fits and a large not."""


class NearStore(LimitStore, Protocol):
    """A store that answers at once, or raises `StoreError` at once."""

    def acquire(self, claims: Claims) -> Decision:
        """As `LimitStore.acquire`."""
        ...

    def standing(self, claim: Claim) -> Standing:
        """As `LimitStore.standing`."""
        ...

    def reset(self, claim: Claim) -> bool:
        """As `LimitStore.reset`."""
        ...


class GuardedStore:
    """Asks ``store``, and whenever that fails decides as each claim's rule says, with ``local`` beside it.

    ``local`` is this process's own, one of so many ``processes``: its claims get their part of each limit.
    There is no breaker: a store that is full says so at once, and has room again as soon as something has expired.
    """

    def __init__(self, store: NearStore, local: LimitStore, *, processes: int = 1, clock: Clock) -> None:
        self._store = store
        self._bypass = Bypass(local, processes)
        self._clock = clock
        self._is_failing = False
        self._failed_s = 0.0

    async def open(self) -> None:
        """There is nothing to be reached."""

    def acquire(self, claims: Claims) -> Decision:
        """Admit one request and charge every claim of it, or refuse it and charge none. Raises nothing."""
        try:
            decision = self._store.acquire(claims)
        except StoreError as error:
            self._failed_s = self._clock()
            if not self._is_failing:
                self._is_failing = True
                log.error("limits: %s: deciding without it, as on_store_error says", error)
            return self._bypass.decide(claims)
        if self._is_failing and self._clock() - self._failed_s >= CALM_S:
            self._is_failing = False
            log.warning("limits: %r has room again", self._store)
        return decision

    def give_back(self, claims: Claims, decision: Decision) -> None:
        """Undo the charges of a request that was certainly not sent, where they were made."""
        if decision.unavailable:
            self._bypass.give_back(claims, decision)
            return
        try:
            self._store.give_back(claims, decision)
        except StoreError as error:
            # The client pays for a request that was not sent: too little is admitted, never too much.
            log.debug("limits: a unit could not be given back: %s", error)

    def standing(self, claim: Claim) -> Standing:
        """Where a subject stands, without charging. Raises `StoreError`."""
        return self._store.standing(claim)

    def reset(self, claim: Claim) -> bool:
        """Forget a subject; whether there was anything to forget. Raises `StoreError`."""
        was_here = self._bypass.reset(claim)
        return self._store.reset(claim) or was_here

    async def close(self) -> None:
        """Close the store."""
        await self._store.close()

    def figures(self) -> list[Figure]:
        """What the store counts, and what was decided without it."""
        up: Figure = (
            "sluice_limit_store_up",
            "gauge",
            "Whether the limit store is asked.",
            {},
            0 if self._is_failing else 1,
        )
        return [up, *self._store.figures(), *self._bypass.figures()]

    def __repr__(self) -> str:
        return f"<GuardedStore of {self._store!r}>"
