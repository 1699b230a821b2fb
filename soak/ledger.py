"""An upstream that costs next to nothing: it answers every request at once and writes its body down.

A body is ``{"...": "NAME-NUMBER"}``; those of one name are kept together.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from typing import cast

from soak.lane import message_end


def answer(body: bytes) -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


ANSWER = answer(b'{"ok": true}')


class Ledger:
    """``connections`` counts those ever accepted, ``requests`` likewise; each is answered by ``answer``."""

    def __init__(self, answer: bytes = ANSWER) -> None:
        self.answer = answer
        self.connections = 0
        self.requests = 0
        self._received: defaultdict[bytes, Counter[bytes]] = defaultdict(Counter)
        self.port = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()

    async def start(self, address: str = "127.0.0.1") -> None:
        """Listen on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self), address, 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for transport in tuple(self._open):
            transport.abort()
        await asyncio.sleep(0)  # in which they end

    def take(self, name: bytes) -> Counter[bytes]:
        """How often each body was received that is called so up to the last hyphen; they are forgotten here."""
        return self._received.pop(name, Counter())

    def receive(self, body: bytes) -> None:
        """A request arrived whole."""
        self.requests += 1
        self._received[body.rpartition(b"-")[0]][body] += 1

    def opened(self, transport: asyncio.Transport) -> None:
        """A connection was accepted."""
        self.connections += 1
        self._open.add(transport)

    def closed(self, transport: asyncio.Transport) -> None:
        """It has ended."""
        self._open.discard(transport)


class _Connection(asyncio.Protocol):
    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods, but are no subclass.
        self._transport = cast(asyncio.Transport, transport)
        self._ledger.opened(self._transport)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        begin = 0
        while end := message_end(data, begin):
            body = data[data.index(b"\r\n\r\n", begin) + 4 : end]
            self._ledger.receive(body)
            self._transport.write(self._ledger.answer)
            begin = end
        self._rest = data[begin:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._ledger.closed(self._transport)
