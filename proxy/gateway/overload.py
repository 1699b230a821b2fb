"""Overload: what is refused when there is no room, so that what is under way stays whole.

A refusal costs no chain, no upstream and no body: 503 with ``Retry-After``. Health is answered all the same.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate

from proxy.core.errors import RETRY_SOON
from proxy.core.exchange import Route
from proxy.core.messages import OVERLOADED
from proxy.core.reply import SERVER_ERROR, Reply
from proxy.gateway.answering import AnsweringDelegate
from proxy.gateway.downstream import Downstream
from proxy.wire.response import ResponseWriter

if TYPE_CHECKING:
    from proxy.gateway.plane import DataPlane

log = logging.getLogger("sluice.gateway")

TIGHT = 0.90
"""Share of the memory from which connections end with their request."""
FULL = 0.95
"""Share of the memory from which new requests are refused."""
TRIM_S = 1.0
"""How often at most freed memory is given back while it is tight: 300 MB of it take 20 ms, none take 1 ms."""


class BusyDelegate(AnsweringDelegate):
    """503: there is no room for another exchange."""

    def __init__(self, plane: DataPlane, downstream: Downstream, route: Route) -> None:
        super().__init__(plane, downstream)
        self.route = route

    def _refusal(self) -> Reply | None:
        return Reply.of(503, SERVER_ERROR, "overloaded", OVERLOADED, headers=(RETRY_SOON,))


class Surplus(HTTPServerConnectionDelegate):
    """Serves the connections beyond the cap: one refusal each, or health."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Refuse whatever would be work."""
        assert isinstance(request_conn, ResponseWriter)
        return self._plane.delegate_for(request_conn.head.target, request_conn, has_room=False)


class MemoryGuard:
    """Watches the process's resident memory at each tick of the clock.

    ``on_change(is_tight, is_full)`` is called when one of the two changes. ``in_flight()`` is the number of exchanges
    under way: with none there is nothing to make room for, and new work is never refused. ``resident()`` answers in
    bytes; ``give_back()`` returns freed memory to the system, at most once in `TRIM_S` of ``clock`` (seconds).

    It keeps out what is new. What has been admitted may still grow beyond ``max_bytes``, each exchange by the bodies
    it is allowed to hold: the limit of the container has to leave room for that.
    """

    def __init__(
        self,
        max_bytes: int,
        on_change: Callable[[bool, bool], None],
        resident: Callable[[], int] | None = None,
        *,
        in_flight: Callable[[], int] = lambda: 1,
        give_back: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_bytes = max_bytes
        self._on_change = on_change
        self._resident = resident or resident_bytes
        self._in_flight = in_flight
        self._give_back = give_back or malloc_trim()
        self._clock = clock
        self._next_trim_s = float("-inf")
        self._state = (False, False)

    def poll(self) -> None:
        """Look."""
        used = self._used()
        state = (used >= TIGHT, used >= FULL and self._in_flight() > 0)
        if state == self._state:
            return
        if state[1] != self._state[1]:
            log.warning(
                "%.0f %% of overload.max_memory_bytes are in use: new requests are %s",
                used * 100,
                "refused" if state[1] else "taken again",
            )
        self._state = state
        self._on_change(*state)

    def _used(self) -> float:
        """The share in use, when what could be given back has been: a freed burst would else count for ever."""
        used = self._resident() / self._max_bytes
        now = self._clock()
        if used < TIGHT or now < self._next_trim_s:
            return used
        self._next_trim_s = now + TRIM_S
        self._give_back()
        return self._resident() / self._max_bytes


def malloc_trim() -> Callable[[], object]:
    """What makes the C library return its free memory to the system (malloc_trim(3)); nothing where it cannot.

    glibc keeps the holes that a burst leaves, and counts on filling them again.
    """
    # Only a guarded process needs ctypes, which is a megabyte.
    import ctypes

    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return lambda: None
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda: trim(0)


def resident_bytes() -> int:
    """The process's resident memory, in bytes; 0 where the system does not tell (proc(5), statm)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
