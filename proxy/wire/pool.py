"""The pool: idle connections to one origin, last used first, and the dialling of new ones."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from proxy.core.errors import ConnectError, ConnectTimeout, UpstreamError
from proxy.core.origin import Origin
from proxy.wire.client import UpstreamConnection
from proxy.wire.ticker import Ticker


@dataclass(frozen=True, slots=True)
class UpstreamTimeouts:
    """How long an upstream may take, in seconds."""

    connect_s: float = 5.0
    first_byte_s: float = 900.0
    idle_s: float = 900.0
    pool_idle_s: float = 30.0


class Pool:
    """Connections to one origin. Busy ones belong to their exchange; only idle ones are held here."""

    def __init__(
        self,
        origin: Origin,
        ticker: Ticker,
        timeouts: UpstreamTimeouts | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.origin = origin
        self.timeouts = timeouts or UpstreamTimeouts()
        self.loop = asyncio.get_running_loop()
        self._ticker = ticker
        self._tls = (tls or ssl.create_default_context()) if origin.tls else None
        self._idle: list[UpstreamConnection] = []
        self._open: set[UpstreamConnection] = set()
        self._dials: set[asyncio.Task[None]] = set()

    def acquire(self) -> UpstreamConnection | None:
        """An idle connection that is still alive, or None: then `dial`."""
        idle = self._idle
        while idle:
            connection = idle.pop()
            if connection.is_alive:
                return connection
            connection.close()
        return None

    def dial(
        self,
        on_connected: Callable[[UpstreamConnection], None],
        on_error: Callable[[UpstreamError], None],
    ) -> asyncio.Task[None]:
        """Open a connection and call one of the two back; cancelling the task stops the attempt."""
        task = self.loop.create_task(self._dial(on_connected, on_error))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)
        return task

    async def _dial(
        self,
        on_connected: Callable[[UpstreamConnection], None],
        on_error: Callable[[UpstreamError], None],
    ) -> None:
        host, port, tls = self.origin
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                _, connection = await self.loop.create_connection(
                    lambda: UpstreamConnection(self),
                    host,
                    port,
                    ssl=self._tls,
                    server_hostname=host if tls else None,
                )
        except TimeoutError:
            on_error(ConnectTimeout(f"no connection to {host}:{port} within connect_timeout_s"))
        except (OSError, ssl.SSLError) as error:
            on_error(ConnectError(f"no connection to {host}:{port}: {error}"))
        else:
            on_connected(connection)

    def opened(self, connection: UpstreamConnection) -> None:
        """Count a connection in."""
        self._open.add(connection)
        self._ticker.watch(connection)

    def closed(self, connection: UpstreamConnection) -> None:
        """Count a connection out."""
        self._open.discard(connection)
        self._ticker.drop(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def release(self, connection: UpstreamConnection) -> None:
        """Keep a connection whose exchange ended cleanly for the next one."""
        if self.timeouts.pool_idle_s > 0:
            connection.deadline_s = self.loop.time() + self.timeouts.pool_idle_s
            self._idle.append(connection)
        else:
            connection.close()

    async def close(self) -> None:
        """Close what is idle, abandon what is busy, stop dialling."""
        for task in tuple(self._dials):
            task.cancel()
        for connection in tuple(self._open):
            connection.abandon()
        # Lost connections are reported in the loop's next round.
        await asyncio.sleep(0)

    def __repr__(self) -> str:
        idle = len(self._idle)
        return f"<Pool {self.origin.host} [{len(self._open) - idle} busy, {idle} idle, {len(self._dials)} dialling]>"
