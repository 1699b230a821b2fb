"""Accepting by hand: connections that begin with a PROXY header or with TLS.

asyncio's servers take one TLS context for good, and their transports read all there is: whatever came behind a
PROXY header would be lost to the handshake. Here the header is taken from the socket to the byte, and each connection
is handed to asyncio with the context of its moment.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from proxy.core.address import UNIX, normalise_peer
from proxy.core.proxy_protocol import MAX_BYTES, read_header
from proxy.wire.connection import CLOSE_S, NEVER, unsent_bytes
from proxy.wire.endpoint import BACKLOG, OUT_OF_ROOM, Endpoint
from proxy.wire.server import ServerConnection

if TYPE_CHECKING:
    from proxy.wire.listener import Listener

log = logging.getLogger("sluice.wire")

ACCEPTS_AT_ONCE = 64
"""Connections accepted before the loop sees to others."""
REST_S = 0.5
"""How long accepting rests when the kernel has no room for another connection."""
GOODBYE_S = 0.5
"""How long the other side may take to answer TLS's goodbye once it has all that was written."""
SAY_EVERY_S = 10.0


def accept_waiting(listening: socket.socket) -> list[socket.socket]:
    """Accept whoever waits on a socket that does not block; nobody, if it is closed."""
    accepted: list[socket.socket] = []
    for _ in range(BACKLOG):
        try:
            sock, _address = listening.accept()
        except BlockingIOError:
            break
        except OSError as error:
            if error.errno in OUT_OF_ROOM or listening.fileno() < 0:
                break
            # One client's: see `Acceptor`.
            continue
        sock.setblocking(False)
        accepted.append(sock)
    return accepted


class AcceptedConnection(ServerConnection):
    """A connection that began with a PROXY header, with TLS, or with both. ``source`` is what the header claimed."""

    def __init__(self, listener: Listener, arrival: Arrival, source: tuple[str, int] | None) -> None:
        super().__init__(listener)
        self._arrival = arrival
        self._source = source
        self._close_until_s = NEVER
        self._was_unsent = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, with the address that was claimed."""
        # First, lest it be counted twice and somebody else be closed to make room for it.
        self._listener.left(self._arrival)
        super().connection_made(transport)
        if self._source is not None:
            self.context.claim(self._source)

    def close(self) -> None:
        """Close when everything written has gone out, without waiting for long for TLS's goodbye.

        A client that keeps an idle connection does not read it, and so answers a goodbye at its next request.
        """
        now = self._loop.time()
        if not self.is_closing:
            self._close_until_s = now + CLOSE_S
        super().close()
        self.deadline_s = now + GOODBYE_S

    def on_deadline(self) -> None:
        """Something took too long; but a slow client that still takes our answer may go on."""
        now = self._loop.time()
        unsent = unsent_bytes(self._transport)
        # The loop's own queue behind TLS cannot be asked: where the kernel has nothing left just now, it may be about
        # to get more. So all must be gone at two looks in a row.
        if self.is_closing and now < self._close_until_s and (unsent or self._was_unsent):
            self._was_unsent = unsent > 0
            self.deadline_s = now + GOODBYE_S
        else:
            super().on_deadline()


class Acceptor:
    """Accepts on one socket; in the place of an `asyncio.Server`."""

    def __init__(self, sock: socket.socket, endpoint: Endpoint, listener: Listener) -> None:
        self.sockets: tuple[socket.socket, ...] = (sock,)
        self.endpoint = endpoint
        self.listener = listener
        self.loop = listener.loop
        self._socket = sock
        self._rest: asyncio.TimerHandle | None = None
        self._quiet_until_s = 0.0
        self._unsaid = 0
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self.loop.add_reader(sock, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_AT_ONCE):
            try:
                sock, address = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in OUT_OF_ROOM:
                    # One client's: it has left again, or its network has failed (accept(2), "Error handling").
                    continue
                # The socket stays readable, and trying at once would spin.
                self._say(logging.WARNING, f"no connection can be accepted just now: {error.strerror}")
                self.loop.remove_reader(self._socket)
                self._rest = self.loop.call_later(REST_S, self._accept_again)
                return
            self._take(sock, normalise_peer(address[0]) if isinstance(address, tuple) else UNIX)

    def _accept_again(self) -> None:
        self._rest = None
        self.loop.add_reader(self._socket, self._accept)

    def _take(self, sock: socket.socket, peer_ip: str) -> None:
        sock.setblocking(False)
        if self.endpoint.proxy_protocol and not self.listener.may_speak_proxy(peer_ip):
            self.complain(peer_ip, "it is not among the proxies that are trusted to speak the PROXY protocol")
            sock.close()
            return
        self.listener.arrived(Arrival(self, sock, peer_ip))

    def complain(self, peer_ip: str, why: str, level: int = logging.WARNING) -> None:
        """Log why a connection was closed."""
        self._say(level, f"closed a connection from {peer_ip}: {why}")

    def _say(self, level: int, text: str) -> None:
        """Log one line in `SAY_EVERY_S`, for anybody can cause them; the others are counted."""
        now = self.loop.time()
        if now < self._quiet_until_s:
            self._unsaid += 1
            return
        self._quiet_until_s = now + SAY_EVERY_S
        more, self._unsaid = self._unsaid, 0
        log.log(level, "%s%s", text, f" ({more} more lines were left out before)" if more else "")

    def close(self) -> None:
        """Accept no more, but whoever is waiting."""
        if self._socket.fileno() < 0:
            return
        self._accept()
        if self._rest is not None:
            self._rest.cancel()
        self.loop.remove_reader(self._socket)
        self._socket.close()

    def __repr__(self) -> str:
        return f"<Acceptor {self.endpoint}>"


class Arrival:
    """A connection that is not one of ours yet: its PROXY header or its TLS handshake is still to come."""

    def __init__(self, acceptor: Acceptor, sock: socket.socket, peer_ip: str) -> None:
        self._acceptor = acceptor
        self._listener = acceptor.listener
        self._socket = sock
        self._peer_ip = peer_ip
        self._awaits_header = acceptor.endpoint.proxy_protocol
        self._header = b""
        self._source: tuple[str, int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_given = False
        self.deadline_s = acceptor.loop.time() + self._listener.timeouts.header_s
        self._listener.ticker.watch(self)
        # TLS, too, begins when the client has said something: one that never does costs nothing but its socket.
        acceptor.loop.add_reader(sock, self._on_readable)

    def _on_readable(self) -> None:
        try:
            if self._awaits_header and not self._read_header():
                return
        except BlockingIOError:
            return
        except OSError as error:
            log.debug("%s left before its PROXY header was whole: %s", self._peer_ip, error)
            self.close()
            return
        except ValueError as error:
            self._acceptor.complain(self._peer_ip, str(error))
            self.close()
            return
        self._stop_watching()
        self._task = self._acceptor.loop.create_task(self._hand_over())
        self._task.add_done_callback(self._handed_over)

    def _read_header(self) -> bool:
        """Take from the socket what belongs to the header, and nothing behind it; True if it is whole."""
        seen = self._socket.recv(MAX_BYTES, socket.MSG_PEEK)
        if not seen:
            raise ConnectionError("end of the connection")
        header = read_header(self._header + seen)
        if header is None:
            # All of it is the header's. Left in the socket it would wake us again and again.
            self._header += self._take(len(seen))
            return False
        self._take(header.size - len(self._header))
        self._source = header.source
        self._awaits_header = False
        return True

    def _take(self, size: int) -> bytes:
        taken = b""
        while len(taken) < size:
            piece = self._socket.recv(size - len(taken))
            if not piece:
                raise ConnectionError("end of the connection")
            taken += piece
        return taken

    async def _hand_over(self) -> None:
        """Let asyncio have the socket; with TLS, from the first byte of the handshake."""
        self._is_given = True
        loop, tls = self._acceptor.loop, self._acceptor.endpoint.tls
        try:
            if tls is None:
                await loop.connect_accepted_socket(self._connection, self._socket)
            else:
                await loop.connect_accepted_socket(
                    self._connection,
                    self._socket,
                    ssl=tls.context(loop.time()),
                    ssl_handshake_timeout=max(self.deadline_s - loop.time(), 0.001),
                    ssl_shutdown_timeout=CLOSE_S,
                )
        except ssl.SSLError as error:
            why = f"the TLS handshake failed ({error.reason})"
            self._acceptor.complain(self._peer_ip, why, logging.INFO)
        except OSError as error:
            log.debug("%s left or was too slow: %s", self._peer_ip, error)

    def _handed_over(self, task: asyncio.Task[None]) -> None:
        self._listener.left(self)
        if not self._is_given:
            self._socket.close()
        if not task.cancelled() and task.exception() is not None:
            log.error("a connection could not be accepted", exc_info=task.exception())

    def _connection(self) -> ServerConnection:
        return AcceptedConnection(self._listener, self, self._source)

    def _stop_watching(self) -> None:
        self._listener.ticker.drop(self)
        self._acceptor.loop.remove_reader(self._socket)

    def on_deadline(self) -> None:
        """Nothing came, or too little."""
        log.debug("%s did not say enough in time", self._peer_ip)
        self.close()

    def close(self) -> None:
        """Close, whatever is under way."""
        self._listener.left(self)
        if self._task is not None:
            self._task.cancel()
            return
        self._stop_watching()
        self._socket.close()

    def __repr__(self) -> str:
        return f"<Arrival {self._peer_ip}>"
