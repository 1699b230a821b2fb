"""The listener: binds a socket, keeps count of its connections, drains them at the end."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tornado.httputil import HTTPServerConnectionDelegate

from proxy.core.headers import Field, Headers, field
from proxy.wire.accept import Acceptor, Arrival, accept_waiting
from proxy.wire.endpoint import BACKLOG, Endpoint, UnixFile, bind, keep_alive
from proxy.wire.gate import RequestError
from proxy.wire.known_heads import KnownHeads
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Ticker

ErrorAnswer = Callable[[RequestError, bytes, Headers], tuple[list[Field], bytes]]
"""(error, target as far as known, headers as far as known) → (header lines, body)."""


MAX_SURPLUS = 256
"""Connections beyond the cap that are still told so; of more, the oldest are closed."""
MOST_ARRIVALS = 4096
"""Connections that may be short of HTTP at once, whatever the cap; then the oldest makes room for the next."""
CUT_S = 1.0
"""How long clients may take to hear that their exchange is cut at the end of a drain."""
LAST_CHANCE_S = 0.7
"""How long, in a drain, a client that has connected may take to say its first request."""
_LOOK_EVERY_S = 0.02
_ROUNDS_OF_ACCEPTING = 5
"""Rounds of the loop in which what it has accepted already becomes a connection of ours."""


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
    ``max_connections`` the newest ``max_surplus`` are served by ``surplus_app``, one request each, and older ones are
    closed: whoever comes to ask for health is heard, however many sit there. Connections short of HTTP count, too.
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
        self._max_surplus = 0 if surplus_app is None else max_surplus
        self._surplus_app = surplus_app
        self.loop = asyncio.get_running_loop()
        self.ticker = ticker or Ticker(self.loop)
        self.timeouts = timeouts or Timeouts()
        self.max_header_bytes = max_header_bytes
        self.known_heads = KnownHeads(max_header_bytes, self.loop.time)
        self.on_error = on_error
        self.may_speak_proxy = may_speak_proxy
        self.is_draining = False
        self.is_shedding = False
        """Whether connections end with their request, for want of memory."""
        self._connections: set[ServerConnection] = set()
        self._surplus: dict[ServerConnection, None] = {}  # those of them beyond the cap, oldest first
        self._leaving: set[ServerConnection] = set()  # those of them that were closed to make room
        self._arrivals: dict[Arrival, None] = {}  # oldest first
        self._servers: list[tuple[asyncio.Server | Acceptor, Endpoint, socket.socket]] = []
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
        else:
            server = await self._serve(sock)
        self._servers.append((server, endpoint, sock))

    async def _serve(self, sock: socket.socket) -> asyncio.Server:
        if sock.family is not socket.AF_UNIX:
            return await self.loop.create_server(lambda: ServerConnection(self), sock=sock, backlog=BACKLOG)
        if sys.version_info >= (3, 13):
            # From here on loops would remove the file themselves, whoever bound it.
            return await self.loop.create_unix_server(
                lambda: ServerConnection(self), sock=sock, backlog=BACKLOG, cleanup_socket=False
            )
        return await self.loop.create_unix_server(lambda: ServerConnection(self), sock=sock, backlog=BACKLOG)

    def _stop_accepting(self) -> list[socket.socket]:
        """Close the sockets; those who still waited to be accepted, and would have been reset."""
        # While the sockets are open no other file can have the inodes of ours.
        for file in self._files:
            file.remove()
        self._files.clear()
        last: list[socket.socket] = []
        for server, endpoint, sock in self._servers:
            if endpoint.is_plain:
                last += accept_waiting(sock)
            server.close()
        return last

    def _bound(self) -> list[tuple[Any, Endpoint]]:
        return [(sock.getsockname(), endpoint) for server, endpoint, _ in self._servers for sock in server.sockets]

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
        is_surplus = len(self._connections) - len(self._leaving) > self.max_connections
        self._make_room()
        if not is_surplus:
            return self.app
        # Behind the others only now: of those who may have to go, the newcomer is none.
        self._surplus[connection] = None
        if not self._max_surplus:
            self._dismiss(connection)
        return self._surplus_app or self.app

    def closed(self, connection: ServerConnection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self._surplus.pop(connection, None)
        self._leaving.discard(connection)
        self.ticker.drop(connection)
        if not self._connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)

    def arrived(self, arrival: Arrival) -> None:
        """Count in a connection that is short of HTTP."""
        self._arrivals[arrival] = None
        self._make_room()

    def left(self, arrival: Arrival) -> None:
        """Such a connection has become one of ours, or is gone."""
        self._arrivals.pop(arrival, None)

    def _make_room(self) -> None:
        """After somebody has come: close somebody else if there are too many now.

        As a rule that is the oldest arrival, for who means well has said what is needed within milliseconds. But
        where the connections themselves fill the cap a part of the surplus is kept for arrivals, or nobody would get
        in over TLS any more.
        """
        arrivals, connections = len(self._arrivals), len(self._connections) - len(self._leaving)
        if arrivals > MOST_ARRIVALS:
            next(iter(self._arrivals)).close()
        elif arrivals + connections > self.max_connections + self._max_surplus:
            if arrivals > (self._max_surplus + 1) // 2:
                next(iter(self._arrivals)).close()
            elif self._surplus:
                quiet = (connection for connection in self._surplus if not connection.is_under_way)
                self._dismiss(next(quiet, None) or next(iter(self._surplus)))

    def _dismiss(self, connection: ServerConnection) -> None:
        """Close a surplus connection. The loop reports its loss in its next round only."""
        del self._surplus[connection]
        self._leaving.add(connection)
        connection.abort()

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more, let running exchanges end; True if all did in time, else the rest is cut."""
        self.is_draining = True
        for sock in self._stop_accepting():
            await self.loop.connect_accepted_socket(lambda: ServerConnection(self), sock)
        end_s = self.loop.time() + timeout_s
        if timeout_s:
            await self._give_last_chance(min(timeout_s, LAST_CHANCE_S))
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.close()
        for arrival in tuple(self._arrivals):
            arrival.close()
        await self._emptied(max(end_s - self.loop.time(), 0))
        for connection in tuple(self._connections):
            if connection.is_under_way:
                self._was_cut = True
                connection.cut()
        await self._emptied(CUT_S if timeout_s else 0)
        self.abort()
        # Lost connections are reported in the loop's next round.
        await asyncio.sleep(0)
        return not self._was_cut

    async def _give_last_chance(self, timeout_s: float) -> None:
        """Close what is idle, but let those who got in say what they came for.

        Whoever was accepted a moment ago would otherwise see a reset in place of an answer, though the port was
        never closed: another worker may have it.
        """
        for _ in range(_ROUNDS_OF_ACCEPTING):
            await asyncio.sleep(0)
        looks = int(timeout_s / _LOOK_EVERY_S)
        for _ in range(looks):
            if not self._close_idle():
                break
            await asyncio.sleep(_LOOK_EVERY_S)

    def _close_idle(self) -> bool:
        """Close who has had an answer and asks for nothing; True if somebody has yet to say the first request."""
        is_awaited = bool(self._arrivals)
        for connection in tuple(self._connections):
            if connection.is_idle and not connection.is_closing:
                # A first request has no body that has ended yet.
                if not connection.body.has_ended or _has_unread(connection):
                    is_awaited = True
                else:
                    connection.close()
        return is_awaited

    async def _emptied(self, timeout_s: float) -> None:
        """Wait until no connection is left, or for so long."""
        if self._connections:
            self._empty = self.loop.create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)

    def abort(self) -> None:
        """Cut every connection, now."""
        for arrival in tuple(self._arrivals):
            arrival.close()
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


def _has_unread(connection: ServerConnection) -> bool:
    """Whether bytes of the client wait in the kernel (FIONREAD, ioctl_tty(2)): read, they may be a request."""
    sock = connection._socket
    if sock is None:
        return False
    try:
        waiting = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
    except OSError:
        return False
    return any(waiting)
