"""A rolling restart: every worker is replaced by another on the same sockets, one slot after the other."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from proxy.settings.stores import store_of
from proxy.supervisor.process import Slot

if TYPE_CHECKING:
    from proxy.supervisor.supervisor import Supervisor

log = logging.getLogger("sluice.supervisor")


class Rolling:
    """Replaces the workers of a supervisor. The new one accepts before the old one stops to."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._task: asyncio.Task[object] | None = None
        self._again = False

    def begin(self, why: str) -> bool:
        """Replace all; if that is under way, once more when it is done. True."""
        if self._task is not None and not self._task.done():
            self._again = True
            return True
        log.info("%s: restarting the workers one by one, with the configuration that was read at start", why)
        if store_of(self._supervisor.settings).kind == "memory":
            log.warning("limits are in memory: the new worker counts anew (limits.store: shared would not)")
        self._task = self._supervisor.spawn(self._roll())
        return True

    async def _roll(self) -> None:
        is_first = True
        while is_first or self._again:
            is_first = self._again = False
            for slot in self._supervisor.slots:
                is_replaced = await self.replace(slot)
                if self._supervisor.is_stopping:
                    return
                if not is_replaced:
                    log.error("the restart ends here: the workers that were not replaced yet stay")
                    return
        log.info("the workers are restarted")

    async def replace(self, slot: Slot) -> bool:
        """Start another worker in this slot, and drain the one that is there when it accepts; else False."""
        while slot.next is not None and not self._supervisor.is_stopping:
            await slot.next.settled
            await asyncio.sleep(0)
        if slot.current is not None and not await slot.current.settled:
            return True  # it died at its start, and another one has its place
        if self._supervisor.is_stopping:
            return False
        try:
            following = slot.next = self._supervisor.fork(slot)
        except OSError as error:
            log.error("worker %d cannot be replaced just now: %s", slot.number, error.strerror)
            return False
        if not await following.settled:
            return False  # the worker it was to replace stays
        if self._supervisor.is_stopping or slot.next is not following:
            return True
        old, slot.current, slot.next = slot.current, following, None
        slot.restarts += 1
        if old is not None:
            slot.leaving.append(old)
            old.drain(self._supervisor.settings.drain.timeout_s, is_replaced=True)
        return True
