"""What both sides of the wire have in common: a transport, its backpressure, its deadline, its three ways to end."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from asyncio import Future
from contextlib import suppress
from typing import cast

from tornado.iostream import StreamClosedError

WRITE_AHEAD = 65_536
"""Bytes the transport buffers before a write answers a future that waits."""
CLOSE_S = 30.0
"""How long a closed connection may take to send what was written before."""
NEVER = float("inf")
_NO_BYTES = bytes(4)  # a C int
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Connection(asyncio.BaseProtocol):
    """One TCP connection. ``deadline_s`` is on the loop's clock; the `Ticker` looks at it."""

    # Attributes that are set after many others of the kind were made would cost each a dictionary of its own.
    __slots__ = ("_drained", "_loop", "_ready", "_socket", "_transport", "deadline_s")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.deadline_s = NEVER
        self._drained: Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_AHEAD)
        self._ready: Future[None] = self._loop.create_future()
        self._ready.set_result(None)
        self._socket: socket.socket | None = transport.get_extra_info("socket")
        if self._socket is not None and self._socket.family in (socket.AF_INET, socket.AF_INET6):
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of whoever waits to write."""
        self.resume_writing()

    def pause_writing(self) -> None:
        """The other side reads slowly: writes now answer a future that waits."""
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """The other side has caught up."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def write(self, data: bytes) -> Future[None]:
        """Write bytes; the future is done when more may be written, and failed if the connection is closed."""
        transport = self._transport
        if transport.is_closing():
            return self.refused()
        transport.write(data)
        return self._drained or self._ready

    def writable(self) -> Future[None]:
        """The future that is done when more may be written."""
        return self._drained or self._ready

    def refused(self) -> Future[None]:
        """A future that says the connection is closed, as Tornado's writes answer it."""
        future: Future[None] = self._loop.create_future()
        future.set_exception(StreamClosedError())
        future.exception()  # marks it as looked at: nobody is obliged to await a write
        return future

    @property
    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Close when everything written has gone out, or could not within `CLOSE_S`."""
        self.deadline_s = self._loop.time() + CLOSE_S if self._transport.get_write_buffer_size() else NEVER
        if not self._transport.is_closing():
            self._transport.close()

    def give_to(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Let another protocol have the transport's callbacks from now on; it reports the connection's loss here."""
        self.deadline_s = NEVER
        self._transport.set_protocol(protocol)
        return self._transport

    def abort(self) -> None:
        """Close now, whatever has not gone out. The other side sees a clean end all the same."""
        self.deadline_s = NEVER
        self._transport.abort()

    def reset(self) -> None:
        """Close now with a reset, so that the end cannot be taken for the end of a body."""
        if self._socket is not None and not self._transport.is_closing():
            set_reset_on_close(self._socket)
        Connection.abort(self)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """How much of what was written the other side has not acknowledged: in our buffer and in the kernel's.

    The kernel's buffer may hold megabytes, so ours alone would not show that a slow client still takes something.
    """
    waiting = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None and sys.platform == "linux":
        with suppress(OSError):
            queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, _NO_BYTES)
            waiting += int.from_bytes(queued, sys.byteorder)
    return waiting


def set_reset_on_close(sock: socket.socket) -> None:
    """Make the close of this socket a reset (SO_LINGER with no time)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
