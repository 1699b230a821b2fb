"""Leaves a store alone that cannot be asked, and finds out when it can be again."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable

from proxy.limits.store import StoreError

log = logging.getLogger("sluice.limits")

FAILURES = 5
"""So many calls in a row must fail before the store is left alone."""

PROBE_S = 0.5
"""Between two looks whether it is back."""


class Breaker:
    """Whether the store ``name`` is asked. After 5 failures in a row it is not, until ``probe`` succeeds.

    ``probe`` runs in the background, every half second; it raises `StoreError` while the store is in trouble.
    """

    def __init__(self, name: str, probe: Callable[[], Awaitable[None]], *, every_s: float = PROBE_S) -> None:
        self._name = name
        self._probe = probe
        self._every_s = every_s
        self._in_a_row = 0
        self._probing: asyncio.Task[None] | None = None
        self.is_open = False
        self.opened = 0
        """How often it has opened."""
        self.failures: Counter[str] = Counter()
        """Calls that failed, by reason."""

    def succeeded(self) -> None:
        """A call was answered."""
        if not self.is_open:
            self._in_a_row = 0

    def failed(self, error: StoreError) -> None:
        """A call was not answered. Needs a running event loop."""
        self.failures[getattr(error, "reason", "error")] += 1
        self._in_a_row += 1
        if self._in_a_row >= FAILURES:
            self._open(error)

    def trip(self, error: StoreError) -> None:
        """The store cannot be asked: that is known without trying further. Needs a running event loop."""
        self.failures[getattr(error, "reason", "error")] += 1
        self._open(error)

    def _open(self, error: StoreError) -> None:
        if self.is_open:
            return
        self.is_open = True
        self.opened += 1
        log.error("limits: %s cannot be asked, on_store_error decides until it can: %s", self._name, error)
        self._probing = asyncio.get_running_loop().create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self._probe()
            except StoreError:
                continue
            except Exception as error:
                # A fault of ours must not leave the store alone for ever.
                log.error("limits: looking for %s failed: %s", self._name, type(error).__name__, exc_info=error)
                continue
            self._in_a_row = 0
            self.is_open = False
            log.warning("limits: %s answers again, limits are exact", self._name)
            return

    async def close(self) -> None:
        """Look no more."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
