"""A tunnel: two connections joined after a 101, bytes passed on as they come, both ways, until either side ends.

Backpressure works as everywhere: a side that is slow to take makes the other one wait. A side that is not read for
that reason cannot be heard leaving, so the kernel is asked about it at each tick.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.wire.connection import NEVER, Connection
from proxy.wire.read_ahead import has_left
from proxy.wire.ticker import Ticker

ENDING_S = 5.0
"""How long one side may take to send the rest after the other one has ended."""


class _Side(asyncio.Protocol):
    """One side of a tunnel."""

    def __init__(self, tunnel: Tunnel, connection: Connection) -> None:
        self._tunnel = tunnel
        self._connection = connection
        self.transport = connection.give_to(self)
        self.other: _Side
        self.received = 0
        self.has_left = False
        self.is_lost = False

    def data_received(self, data: bytes) -> None:
        """Pass bytes on."""
        self.received += len(data)
        self._tunnel.touch()
        if not self.other.transport.is_closing():
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        """This side is slow: take no more from the other."""
        if not self.other.transport.is_closing():
            self.other.transport.pause_reading()
            self._tunnel.ticker.poll(self.other)

    def resume_writing(self) -> None:
        """This side has caught up."""
        self._tunnel.ticker.stop_polling(self.other)
        if not self.other.transport.is_closing():
            self.other.transport.resume_reading()

    def poll(self) -> None:
        """See whether a client that is not being read has left; what an upstream sent before is still to come."""
        if self._tunnel.is_client(self) and has_left(self.transport):
            self.has_left = True
            self.transport.abort()

    def eof_received(self) -> bool:
        """This side has nothing more to say."""
        self.has_left = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """This side has ended, and so the other one does."""
        self.is_lost = True
        self._tunnel.ticker.stop_polling(self)
        self._connection.connection_lost(exc)
        self._tunnel.end(self, was_reset=exc is not None)


class Tunnel:
    """Joins two connections, and calls ``on_end`` once when both are gone.

    ``idle_s`` is how long neither side may say anything. ``bytes_up`` and ``bytes_down`` count what passed.
    """

    def __init__(
        self,
        client: Connection,
        upstream: Connection,
        *,
        ticker: Ticker,
        idle_s: float,
        on_end: Callable[[Tunnel], None],
    ) -> None:
        self.ticker = ticker
        self._idle_s = idle_s
        self._on_end: Callable[[Tunnel], None] | None = on_end
        self._client = _Side(self, client)
        self._upstream = _Side(self, upstream)
        self._client.other, self._upstream.other = self._upstream, self._client
        self.ended_by = ""
        """Which side ended it, ``client`` or ``upstream``; neither if it was we, or a silence that was too long."""
        self.was_broken = False
        """Whether it ended otherwise than by one side's closing it."""
        self.touch()
        ticker.watch(self)

    @property
    def bytes_up(self) -> int:
        """What the client sent."""
        return self._client.received

    @property
    def bytes_down(self) -> int:
        """What the upstream sent."""
        return self._upstream.received

    def begin(self, from_client: bytes, from_upstream: bytes) -> None:
        """Pass on what had come before the tunnel stood."""
        if from_client:
            self._client.data_received(from_client)
        if from_upstream:
            self._upstream.data_received(from_upstream)

    def touch(self) -> None:
        """Something was said."""
        self.deadline_s = self.ticker.loop.time() + self._idle_s

    def is_client(self, side: _Side) -> bool:
        """Whether a side is the client's."""
        return side is self._client

    def on_deadline(self) -> None:
        """Nothing was said for too long, or the rest could not be sent in time."""
        self.was_broken = True
        self.deadline_s = NEVER
        self._client.transport.abort()
        self._upstream.transport.abort()

    def end(self, side: _Side, *, was_reset: bool) -> None:
        """One side is gone: send the other one what is left for it, and close it."""
        if not side.other.is_lost:
            self._note_end(side, was_reset)
            self.deadline_s = self.ticker.loop.time() + ENDING_S
            side.other.transport.close()
            return
        self.ticker.drop(self)
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self)

    def _note_end(self, side: _Side, was_reset: bool) -> None:
        if not self.was_broken and (was_reset or side.has_left):
            self.ended_by = "client" if side is self._client else "upstream"
        self.was_broken = self.was_broken or was_reset or not side.has_left
