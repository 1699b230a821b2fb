"""The pool: idle connections to one origin, last used first, and the dialling of new ones."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.errors import NoCapacity, UpstreamError
from proxy.core.origin import Origin
from proxy.wire.answer_reader import READ_AT_ONCE
from proxy.wire.client import UpstreamConnection
from proxy.wire.client_tls import client_context
from proxy.wire.dial import dial
from proxy.wire.resolver import Lookup, Resolver, system_lookup
from proxy.wire.ticker import Ticker

MAX_IDLE = 256
"""Idle connections kept. A burst of streams must not hold its sockets back from new clients afterwards, and this
many serve some thousand short requests a second."""

OnConnected = Callable[[UpstreamConnection], None]
OnError = Callable[[UpstreamError], None]


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """How long an upstream may take, in seconds."""

    connect_s: float = 5.0
    first_byte_s: float = 900.0
    idle_s: float = 900.0
    pool_idle_s: float = 30.0


class Pool:
    """Connections to one origin. Busy ones belong to their exchange; only idle ones are held here.

    At most ``max_connections`` are open or being dialled at a time (0 = no cap), and at most ``max_idle`` idle.
    """

    def __init__(
        self,
        origin: Origin,
        ticker: Ticker,
        timeouts: UpstreamTimeouts | None = None,
        tls: ssl.SSLContext | None = None,
        *,
        max_connections: int = 0,
        max_idle: int = MAX_IDLE,
        lookup: Lookup = system_lookup,
    ) -> None:
        self.origin = origin
        self.timeouts = timeouts or UpstreamTimeouts()
        self.loop = asyncio.get_running_loop()
        self.resolver = Resolver(origin.host, lookup=lookup, on_change=self._addresses_changed)
        self._ticker = ticker
        self._tls = (tls or client_context()) if origin.tls else None
        self._max_connections = max_connections
        self._max_idle = max_idle
        # Of this pool's alone: loops of other threads read at the same time.
        self.read_buffer = memoryview(bytearray(READ_AT_ONCE))
        self._idle: list[UpstreamConnection] = []
        # To which address each leads. What is dialled is not open yet, and counts all the same.
        self._open: dict[UpstreamConnection, str] = {}
        self._dialled: dict[UpstreamConnection, str] = {}
        self._dials: set[asyncio.Task[None]] = set()

    def acquire(self) -> UpstreamConnection | None:
        """An idle connection that is still alive, or None: then `dial`.

        None past its time either, though the ticker has yet to see it: the origin's own limit may be just behind.
        """
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_alive and connection.deadline_s > self.loop.time():
                return connection
            self._discard(connection)
        return None

    def dial(self, on_connected: OnConnected, on_error: OnError) -> asyncio.Task[None]:
        """Open a connection and call one of the two back; cancelling the task stops the attempt.

        ``on_error`` is given NoCapacity at once, in the loop's next round, if ``max_connections`` are busy.
        """
        if self._is_full and self._idle:
            self._discard(self._idle.pop(0))
        if self._is_full:
            task = self.loop.create_task(self._refuse(on_error))
        else:
            connection = UpstreamConnection(self)
            self._dialled[connection] = ""
            task = self.loop.create_task(self._dial(connection, on_connected, on_error))
            # Not in the coroutine alone: a task that is cancelled before its first step never enters it.
            task.add_done_callback(lambda _: self._dialled.pop(connection, None))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return task

    @property
    def _is_full(self) -> bool:
        limit = self._max_connections
        return 0 < limit <= len(self._open) + len(self._dialled)

    async def _refuse(self, on_error: OnError) -> None:
        on_error(NoCapacity(f"all {self._max_connections} connections to {self.origin.host} are busy"))

    async def _dial(self, connection: UpstreamConnection, on_connected: OnConnected, on_error: OnError) -> None:
        def protocol_for(address: str) -> UpstreamConnection:
            self._dialled[connection] = address
            return connection

        try:
            await dial(
                self.resolver,
                self.origin.port,
                protocol_for,
                tls=self._tls,
                timeout_s=self.timeouts.connect_s,
            )
        except UpstreamError as error:
            self._give_up(connection)
            on_error(error)
        except asyncio.CancelledError:
            self._give_up(connection)
            raise
        else:
            on_connected(connection)

    def _give_up(self, connection: UpstreamConnection) -> None:
        """Forget a connection whose dial came to nothing, though it may stand by now."""
        self._dialled.pop(connection, None)
        if connection in self._open:
            self._discard(connection)

    def opened(self, connection: UpstreamConnection) -> None:
        """Count a connection in."""
        self._open[connection] = self._dialled.pop(connection, "")
        self._ticker.watch(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """Count a connection out."""
        self._open.pop(connection, None)
        self._ticker.drop(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose exchange ended cleanly for the next one.

        Not if its address is no longer one of the origin's: whoever moved it away expects to see it idle soon.
        """
        if self.timeouts.pool_idle_s <= 0 or self._open.get(connection) not in self.resolver.hosts:
            connection.close()
            return
        connection.deadline_s = self.loop.time() + self.timeouts.pool_idle_s
        self._idle.append(connection)
        if len(self._idle) > self._max_idle:
            # The one unused for longest is the one that the origin, too, will close first.
            self._idle.pop(0).close()

    def _discard(self, connection: UpstreamConnection) -> None:
        """Close a connection that nobody uses. Its place is free now, not when the loop has seen to it."""
        self.closed(connection)
        connection.abandon()

    def _addresses_changed(self, addresses: frozenset[str]) -> None:
        """Let go of idle connections to addresses that the origin has no more."""
        gone = [connection for connection in self._idle if self._open.get(connection) not in addresses]
        for connection in gone:
            self._discard(connection)

    async def close(self) -> None:
        """Close what is idle, abandon what is busy, stop dialling."""
        self.resolver.close()
        for task in tuple(self._dials):
            task.cancel()
        for connection in tuple(self._open):
            connection.abandon()
        # Lost connections are reported in the loop's next round.
        await asyncio.sleep(0)

    def __repr__(self) -> str:
        idle = len(self._idle)
        return f"<Pool {self.origin.host} [{len(self._open) - idle} busy, {idle} idle, {len(self._dials)} dialling]>"
