"""Bytes that arrived before anybody could take them.

A connection that is not read notices neither FIN nor RST, so reading goes on into this small buffer. Past its bound
reading stops, and the kernel is asked at each tick whether the other side is still there.
"""

from __future__ import annotations

import asyncio
import select
import socket
import sys
from collections.abc import Callable

from proxy.wire.ticker import Ticker

READ_AHEAD = 65_536
"""Bytes kept before reading stops."""
_GONE_STATES = (7, 8)  # TCP_CLOSE, TCP_CLOSE_WAIT of <netinet/tcp.h>


class ReadAhead:
    """The waiting bytes of one connection, to be looked at and, by the methods, changed.

    ``on_gone`` is called when the other side left while reading ``is_paused``.
    """

    __slots__ = ("_on_gone", "_ticker", "_transport", "is_paused", "waiting")

    def __init__(self, transport: asyncio.Transport, ticker: Ticker, on_gone: Callable[[], None]) -> None:
        self._transport = transport
        self._ticker = ticker
        self._on_gone = on_gone
        self.waiting = b""
        self.is_paused = False

    def keep(self, data: bytes) -> None:
        """Keep bytes behind those that wait already."""
        self.waiting += data
        if len(self.waiting) > READ_AHEAD and not self.is_paused and not self._transport.is_closing():
            self.is_paused = True
            self._transport.pause_reading()
            self._ticker.poll(self)

    def put_back(self, data: bytes) -> None:
        """Keep bytes before those that wait already."""
        if data:
            self.waiting = data + self.waiting

    def take(self, at_most: int = sys.maxsize) -> bytes:
        """Waiting bytes from the front, which wait no more."""
        data = self.waiting
        if len(data) <= at_most:
            self.waiting = b""
            return data
        self.waiting = data[at_most:]
        return data[:at_most]

    def resume(self) -> None:
        """Read on, if reading had stopped."""
        if self.is_paused:
            self.is_paused = False
            self._ticker.stop_polling(self)
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def close(self) -> None:
        """Forget everything: the connection is gone."""
        self.waiting = b""
        self._ticker.stop_polling(self)

    def poll(self) -> None:
        """While nothing is read, only the kernel's state of the socket tells whether the other side left."""
        if has_left(self._transport):
            self._on_gone()


def has_left(transport: asyncio.Transport) -> bool:
    """Whether the other side of a connection has closed or reset it, asked without reading."""
    sock = transport.get_extra_info("socket")
    try:
        if sock.family == socket.AF_UNIX:
            poll = select.poll()
            poll.register(sock.fileno(), select.POLLRDHUP)
            return bool(poll.poll(0))
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
    except (OSError, AttributeError):
        return False
    return state in _GONE_STATES
