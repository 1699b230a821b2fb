"""The listener: binds a socket, keeps count of its connections, drains them at the end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from tornado.httputil import HTTPServerConnectionDelegate

from proxy.core.headers import Field, Headers, field
from proxy.wire.gate import RequestError
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker

ErrorAnswer = Callable[[RequestError, bytes, Headers], tuple[list[Field], bytes]]
"""(error, target as far as known, headers as far as known) → (header lines, body)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a connection may take, in seconds."""

    header_s: float = 10.0
    body_s: float = 30.0
    keep_alive_s: float = 75.0


def plain_error(error: RequestError, target: bytes, headers: Headers) -> tuple[list[Field], bytes]:
    """The answer to a broken request where nobody has a better one."""
    return [field(b"Content-Type", b"text/plain; charset=utf-8")], f"{error.reason}\n".encode()


class Listener:
    """Serves a Tornado `HTTPServerConnectionDelegate` on our wire.

    ``on_error`` shapes the answers to requests that are refused before a delegate exists.
    """

    protocol = "http"

    def __init__(
        self,
        app: HTTPServerConnectionDelegate,
        *,
        ticker: Ticker | None = None,
        timeouts: Timeouts | None = None,
        max_header_bytes: int = 65_536,
        on_error: ErrorAnswer = plain_error,
    ) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self.ticker = ticker or Ticker(self.loop)
        self.timeouts = timeouts or Timeouts()
        self.max_header_bytes = max_header_bytes
        self.on_error = on_error
        self.is_draining = False
        self._connections: set[ServerConnection] = set()
        self._servers: list[asyncio.Server] = []
        self._empty: asyncio.Future[None] | None = None

    async def listen(self, host: str, port: int) -> None:
        """Bind and accept. Raises OSError if the address cannot be had."""
        server = await self.loop.create_server(
            lambda: ServerConnection(self), host, port, reuse_address=True, backlog=1024
        )
        self._servers.append(server)

    async def listen_on(self, sock: socket.socket) -> None:
        """Accept on a socket that is bound already."""
        self._servers.append(await self.loop.create_server(lambda: ServerConnection(self), sock=sock, backlog=1024))

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of every bound socket."""
        found = [sock.getsockname() for server in self._servers for sock in server.sockets]
        return [(name[0], name[1]) for name in found]

    @property
    def port(self) -> int:
        """The port of the first bound socket."""
        return self.addresses[0][1]

    def opened(self, connection: ServerConnection) -> None:
        """Count a connection in."""
        self._connections.add(connection)
        self.ticker.watch(connection)

    def closed(self, connection: ServerConnection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self.ticker.drop(connection)
        if not self._connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more, let running exchanges end; True if all did in time, else the rest is cut."""
        self.is_draining = True
        for server in self._servers:
            server.close()
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.close()
        if self._connections:
            self._empty = self.loop.create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)
        remaining = len(self._connections)
        self.abort()
        # Lost connections are reported in the loop's next round.
        await asyncio.sleep(0)
        return not remaining

    def abort(self) -> None:
        """Cut every connection, now."""
        for connection in tuple(self._connections):
            connection.abort()

    async def close(self) -> None:
        """Stop now."""
        await self.drain(0)

    def __len__(self) -> int:
        return len(self._connections)

    def __repr__(self) -> str:
        return f"<Listener {self.addresses} [{len(self)} connections]>"
