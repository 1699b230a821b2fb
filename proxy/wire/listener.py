"""The listener: binds a socket, keeps count of its connections, drains them at the end."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tornado.httputil import HTTPServerConnectionDelegate

from proxy.core.headers import Field, Headers, field
from proxy.wire.accept import Acceptor
from proxy.wire.endpoint import BACKLOG, Endpoint, UnixFile, bind, keep_alive
from proxy.wire.gate import RequestError
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker

ErrorAnswer = Callable[[RequestError, bytes, Headers], tuple[list[Field], bytes]]
"""(error, target as far as known, headers as far as known) → (header lines, body)."""


MAX_SURPLUS = 256
"""Connections beyond the cap that are still told so; further ones are closed at once."""
CUT_S = 1.0
"""How long clients may take to hear that their exchange is cut at the end of a drain."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a connection may take, in seconds."""

    header_s: float = 10.0
    body_s: float = 30.0
    keep_alive_s: float = 75.0
    write_s: float = 60.0


def plain_error(error: RequestError, target: bytes, headers: Headers) -> tuple[list[Field], bytes]:
    """The answer to a broken request where nobody has a better one."""
    return [field(b"Content-Type", b"text/plain; charset=utf-8")], f"{error.reason}\n".encode()


class Listener:
    """Serves a Tornado `HTTPServerConnectionDelegate` on our wire.

    ``on_error`` shapes the answers to requests that are refused before a delegate exists. Of the connections beyond
    ``max_connections`` ``max_surplus`` are served by ``surplus_app``, one request each; the rest are closed at once.
    ``may_speak_proxy`` says of a peer (its normalised address, or ``unix``) whether its PROXY header is believed; by
    default nobody's is.
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
        max_connections: int = sys.maxsize,
        max_surplus: int = MAX_SURPLUS,
        surplus_app: HTTPServerConnectionDelegate | None = None,
        may_speak_proxy: Callable[[str], bool] = lambda peer_ip: False,
    ) -> None:
        self.app = app
        self.max_connections = max_connections
        self._max_surplus = max_surplus
        self._surplus_app = surplus_app
        self.loop = asyncio.get_running_loop()
        self.ticker = ticker or Ticker(self.loop)
        self.timeouts = timeouts or Timeouts()
        self.max_header_bytes = max_header_bytes
        self.on_error = on_error
        self.may_speak_proxy = may_speak_proxy
        self.is_draining = False
        self.is_shedding = False
        """Whether connections end with their request, for want of memory."""
        self._connections: set[ServerConnection] = set()
        self._servers: list[tuple[asyncio.Server | Acceptor, Endpoint]] = []
        self._files: list[UnixFile] = []
        self._empty: asyncio.Future[None] | None = None
        self._was_cut = False

    async def listen(self, endpoint: Endpoint) -> None:
        """Bind and accept. Raises OSError if the address cannot be had."""
        bound = await bind(endpoint)
        if bound.file is not None:
            self._files.append(bound.file)
        for sock in bound.sockets:
            await self.listen_on(sock, endpoint)

    async def listen_on(self, sock: socket.socket, endpoint: Endpoint | None = None) -> None:
        """Accept on a socket that is bound already; of ``endpoint`` only what is spoken before HTTP counts.

        The file of a unix socket stays in the care of whoever bound it.
        """
        endpoint = endpoint or Endpoint()
        # On the listening socket: what is accepted inherits it, from its first moment and at no cost.
        keep_alive(sock)
        server: asyncio.Server | Acceptor
        if not endpoint.is_plain:
            server = Acceptor(sock, endpoint, self)
        elif sock.family is socket.AF_UNIX:
            server = await self._serve_unix(sock)
        else:
            server = await self.loop.create_server(lambda: ServerConnection(self), sock=sock, backlog=BACKLOG)
        self._servers.append((server, endpoint))

    async def _serve_unix(self, sock: socket.socket) -> asyncio.Server:
        if sys.version_info >= (3, 13):
            # From here on loops would remove the file themselves, whoever bound it.
            return await self.loop.create_unix_server(
                lambda: ServerConnection(self), sock=sock, backlog=BACKLOG, cleanup_socket=False
            )
        return await self.loop.create_unix_server(lambda: ServerConnection(self), sock=sock, backlog=BACKLOG)

    def _stop_accepting(self) -> None:
        # While the sockets are open no other file can have the inodes of ours.
        for file in self._files:
            file.remove()
        self._files.clear()
        for server, _ in self._servers:
            server.close()

    def _bound(self) -> list[tuple[Any, Endpoint]]:
        return [(sock.getsockname(), endpoint) for server, endpoint in self._servers for sock in server.sockets]

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """(host, port) of every TCP socket that is bound."""
        return [(name[0], name[1]) for name, _ in self._bound() if isinstance(name, tuple)]

    @property
    def urls(self) -> list[str]:
        """Every bound socket as a log names it: ``https://[::1]:5000``, ``http+unix:/run/sluice.sock``."""
        return [endpoint.url(name) for name, endpoint in self._bound()]

    @property
    def port(self) -> int:
        """The port of the first TCP socket."""
        return self.addresses[0][1]

    @property
    def keeps_connections(self) -> bool:
        """Whether a connection may outlive its request."""
        return not (self.is_draining or self.is_shedding)

    def opened(self, connection: ServerConnection) -> HTTPServerConnectionDelegate:
        """Count a connection in; who is to serve it."""
        self._connections.add(connection)
        self.ticker.watch(connection)
        surplus = len(self._connections) - self.max_connections
        if surplus <= 0:
            return self.app
        if self._surplus_app is None or surplus > self._max_surplus:
            connection.abort()
        return self._surplus_app or self.app

    def closed(self, connection: ServerConnection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self.ticker.drop(connection)
        if not self._connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more, let running exchanges end; True if all did in time, else the rest is cut."""
        self.is_draining = True
        self._stop_accepting()
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.close()
        await self._emptied(timeout_s)
        for connection in tuple(self._connections):
            if connection.is_under_way:
                self._was_cut = True
                connection.cut()
        await self._emptied(CUT_S if timeout_s else 0)
        self.abort()
        # Lost connections are reported in the loop's next round.
        await asyncio.sleep(0)
        return not self._was_cut

    async def _emptied(self, timeout_s: float) -> None:
        """Wait until no connection is left, or for so long."""
        if self._connections:
            self._empty = self.loop.create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)

    def abort(self) -> None:
        """Cut every connection, now."""
        for connection in tuple(self._connections):
            self._was_cut = self._was_cut or connection.is_under_way
            connection.abort()

    async def close(self) -> None:
        """Stop now."""
        await self.drain(0)

    def __len__(self) -> int:
        return len(self._connections)

    def __repr__(self) -> str:
        return f"<Listener {self.urls} [{len(self)} connections]>"
