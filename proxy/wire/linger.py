"""The end of a connection that is closed while its client may still be sending."""

from __future__ import annotations

import asyncio

from proxy.wire.connection import Connection
from proxy.wire.ticker import Ticker

LINGER_S = 1.0
"""How long a closing connection is still read when nothing comes: the client is to get our answer, not a reset."""
LINGER_AT_MOST_S = 30.0
"""The same for a client that is still sending, or still taking the answer."""
LINGER_BYTES = 64 * 2**20
"""How much is thrown away at most: who sends on after that has to live with the reset."""


class Linger(asyncio.Protocol):
    """Says that nothing more comes, and for a while reads on what nobody wants.

    Closing with unread bytes would be a reset, and a reset may destroy what the client has not read of our answer
    (RFC 9112 section 9.6). Many clients read no answer before their whole upload is out, so it goes on while bytes
    come: until `LINGER_S` without any, `LINGER_AT_MOST_S` in all or `LINGER_BYTES`.
    """

    def __init__(self, connection: Connection, ticker: Ticker) -> None:
        self._connection = connection
        self._ticker = ticker
        self._transport = connection.give_to(self)
        now = ticker.loop.time()
        self.deadline_s = now + LINGER_S
        self._until_s = now + LINGER_AT_MOST_S
        self._bytes_left = LINGER_BYTES
        ticker.watch(self)
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Throw it away."""
        self._bytes_left -= len(data)
        if self._bytes_left >= 0 and not self._transport.is_closing():
            self.deadline_s = min(self._ticker.loop.time() + LINGER_S, self._until_s)

    def on_deadline(self) -> None:
        """The moment is over, unless a slow client still takes our answer."""
        now = self._ticker.loop.time()
        if self._transport.get_write_buffer_size() and now < self._until_s:
            self.deadline_s = now + LINGER_S
        elif not self._transport.is_closing():
            # TLS cannot be closed by half: this is where its goodbye is said.
            self.deadline_s = now + LINGER_S
            self._transport.close()
        else:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._ticker.drop(self)
        self._connection.connection_lost(exc)
