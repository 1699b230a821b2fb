"""One timer for all connections: who has waited for too long, and whose client has silently left.

A timer per request would cost more than all stages together. A connection here only writes down its deadline;
a sweep every 200 ms finds those that have passed, so a timeout fires up to that much late and never early.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

log = logging.getLogger("sluice.wire")

INTERVAL_S = 0.2
AT_ONCE = 10
"""Deadlines dealt with before the loop sees to others: some 0.1 ms each, when they are answered with a 408."""


class Watched(Protocol):
    """Something with a deadline on the loop's clock; ``inf`` for none."""

    deadline_s: float

    def on_deadline(self) -> None:
        """The deadline has passed."""
        ...


class Polled(Protocol):
    """Something that does not read its socket just now, and so would not notice its end."""

    def poll(self) -> None:
        """Look whether the other side is still there."""
        ...


class Ticker:
    """Sweeps over what is watched and polled; rests while there is nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._watched: set[Watched] = set()
        self._polled: set[Polled] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, watched: Watched) -> None:
        """Sweep over this one until it is dropped."""
        self._watched.add(watched)
        self._start()

    def drop(self, watched: Watched) -> None:
        """Sweep over this one no more."""
        self._watched.discard(watched)

    def poll(self, polled: Polled) -> None:
        """Poll this one at each sweep until told otherwise."""
        self._polled.add(polled)
        self._start()

    def stop_polling(self, polled: Polled) -> None:
        """Poll this one no more."""
        self._polled.discard(polled)

    def close(self) -> None:
        """Stop sweeping for good."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watched.clear()
        self._polled.clear()

    def _start(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(INTERVAL_S, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self.loop.time()
        late = [watched for watched in self._watched if watched.deadline_s <= now]
        self._call(late, list(self._polled))
        if self._watched or self._polled:
            self._start()

    def _call(self, late: list[Watched], polled: list[Polled]) -> None:
        """Call some, and the rest in the loop's next round: many at once must not hold everybody else up."""
        now = self.loop.time()
        calls = [one.on_deadline for one in late[:AT_ONCE] if one in self._watched and one.deadline_s <= now]
        calls += [one.poll for one in polled[:AT_ONCE] if one in self._polled]
        for call in calls:
            try:
                call()
            except Exception:
                # One faulty connection must not stop the clock of all others.
                log.exception("a deadline could not be dealt with")
        if late[AT_ONCE:] or polled[AT_ONCE:]:
            self.loop.call_soon(self._call, late[AT_ONCE:], polled[AT_ONCE:])

    def __repr__(self) -> str:
        return f"<Ticker [{len(self._watched)} watched, {len(self._polled)} polled]>"
