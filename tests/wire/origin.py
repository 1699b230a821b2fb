"""An origin on loopback that does what a test tells it, and a receiver that writes down what comes."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from proxy.core.errors import UpstreamError
from proxy.core.origin import Origin
from proxy.wire.client import UpstreamConnection
from proxy.wire.gate import ResponseError, ResponseHead
from proxy.wire.pool import Pool, UpstreamTimeouts
from proxy.wire.ticker import Ticker

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK_2 = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Answer:
    """Receives one answer; pauses or abandons in the callback named, if one is."""

    def __init__(self, *, splices: bool = False, abandon_in: str = "", pause_in: str = "") -> None:
        self.connection: UpstreamConnection
        self.status = 0
        self.informational: list[int] = []
        self.body = b""
        self.ended = False
        self.error: UpstreamError | None = None
        self._splices = splices
        self._abandon_in = abandon_in
        self._pause_in = pause_in
        self._changed = asyncio.Event()

    def on_upstream_informational(self, head: ResponseHead) -> None:
        self.informational.append(head.status)

    def on_upstream_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        raise ResponseError("a 101 that nobody asked for")

    def on_upstream_headers(self, head: ResponseHead) -> bool:
        self.status = head.status
        self._act("headers")
        return self._splices

    def on_upstream_data(self, data: bytes) -> None:
        self.body += data
        self._act("data")

    def on_upstream_end(self) -> None:
        assert not self.ended
        assert self.error is None
        self.ended = True
        self._changed.set()

    def on_upstream_error(self, error: UpstreamError) -> None:
        assert not self.ended
        assert self.error is None
        self.error = error
        self._changed.set()

    def _act(self, place: str) -> None:
        self._changed.set()
        if place == self._abandon_in:
            self.connection.abandon()
        if place == self._pause_in:
            self.connection.pause_reading()

    async def outcome(self) -> str:
        """Wait for the end: "end" or "error"."""
        while not self.ended and self.error is None:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 5)
        return "end" if self.ended else "error"

    async def saw_all(self, body: bytes = b"") -> None:
        """Wait until this much of the body is there; without one, until what was sent has had time to come."""
        while len(self.body) < len(body):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 5)
        await asyncio.sleep(0.01)


async def gone(connection: UpstreamConnection) -> None:
    """Wait until a connection is closed on our side."""
    for _ in range(2000):
        if connection.is_closing:
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it is still open")


class ScriptedOrigin:
    """The newest connection to it is what `send`, `close` and `reset` work on."""

    def __init__(self) -> None:
        self.pool: Pool
        self.connections = 0
        self._streams: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._arrived = asyncio.Event()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A connection has come."""
        self.connections += 1
        self._streams.append((reader, writer))
        self._arrived.set()

    async def connect(self) -> UpstreamConnection:
        """A connection of the pool: an idle one, else a new one."""
        connection = self.pool.acquire()
        if connection is not None:
            return connection
        self._arrived.clear()
        dialled: asyncio.Future[UpstreamConnection] = asyncio.get_running_loop().create_future()
        self.pool.dial(dialled.set_result, dialled.set_exception)
        connection = await dialled
        await self.arrived()
        return connection

    async def arrived(self) -> None:
        """Wait for a connection."""
        await asyncio.wait_for(self._arrived.wait(), 5)

    async def ask(
        self,
        request: bytes = GET,
        *,
        method: str = "GET",
        is_whole: bool = True,
        splices: bool = False,
        abandon_in: str = "",
        pause_in: str = "",
    ) -> Answer:
        """Send a request over a connection of the pool."""
        answer = Answer(splices=splices, abandon_in=abandon_in, pause_in=pause_in)
        answer.connection = await self.connect()
        answer.connection.begin(answer, method)
        answer.connection.write(request)
        if is_whole:
            answer.connection.request_ended()
        return answer

    async def received(self, data: bytes) -> None:
        """Wait until these bytes have come."""
        assert await asyncio.wait_for(self._streams[-1][0].readexactly(len(data)), 5) == data

    async def send(self, data: bytes, *, by: int = 0, may_fail: bool = False) -> None:
        """Send bytes, in segments of ``by`` if given."""
        writer = self._streams[-1][1]
        with suppress(*((ConnectionError,) if may_fail else ())):
            for start in range(0, len(data), by or len(data) or 1):
                writer.write(data[start : start + (by or len(data))])
                await writer.drain()
                await asyncio.sleep(0)

    @property
    def socket(self) -> socket.socket:
        """The raw socket of the newest connection, to send while the loop stands still."""
        transport_socket = self._streams[-1][1].get_extra_info("socket")
        return socket.socket(fileno=socket.dup(transport_socket.fileno()))

    async def is_left(self) -> bool:
        """Wait until our side has closed."""
        reader = self._streams[-1][0]
        with suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 5)
        return True

    def turn(self) -> None:
        """Work on the oldest connection from now on; it counts as the newest then."""
        self._streams.append(self._streams.pop(0))

    def close(self) -> None:
        """End the newest connection cleanly."""
        self._streams[-1][1].close()

    def reset(self) -> None:
        """End it with a reset."""
        writer = self._streams[-1][1]
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async def stop(self) -> None:
        """Close everything."""
        await self.pool.close()
        for _, writer in self._streams:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


@asynccontextmanager
async def origin(timeouts: UpstreamTimeouts | None = None) -> AsyncIterator[ScriptedOrigin]:
    """A scripted origin and a pool of connections to it."""
    peer = ScriptedOrigin()
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0)
    ticker = Ticker(asyncio.get_running_loop())
    peer.pool = Pool(Origin("127.0.0.1", server.sockets[0].getsockname()[1], False), ticker, timeouts)
    try:
        yield peer
    finally:
        await peer.stop()
        server.close()
        ticker.close()
