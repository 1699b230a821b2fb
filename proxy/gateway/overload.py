"""Overload: what is refused when there is no room, so that what is under way stays whole.

A refusal costs no chain, no upstream and no body: 503 with ``Retry-After``. Health is answered all the same.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate

from proxy.core.errors import RETRY_SOON
from proxy.core.exchange import Exchange, Route
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


class BusyDelegate(AnsweringDelegate):
    """503: there is no room for another exchange."""

    def __init__(self, plane: DataPlane, downstream: Downstream, route: Route) -> None:
        super().__init__(plane, downstream)
        self.route = route

    def _refusal(self, exchange: Exchange) -> Reply | None:
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

    ``on_change(is_tight, is_full)`` is called when one of the two changes. ``resident()`` answers in bytes.
    """

    def __init__(
        self, max_bytes: int, on_change: Callable[[bool, bool], None], resident: Callable[[], int] | None = None
    ) -> None:
        self._max_bytes = max_bytes
        self._on_change = on_change
        self._resident = resident or resident_bytes
        self._state = (False, False)

    def poll(self) -> None:
        """Look."""
        used = self._resident() / self._max_bytes
        state = (used >= TIGHT, used >= FULL)
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


def resident_bytes() -> int:
    """The process's resident memory, in bytes; 0 where the system does not tell (proc(5), statm)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
