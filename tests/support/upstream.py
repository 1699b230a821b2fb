"""A fake upstream on raw sockets: a ledger of what was fully received, and answers scripted byte by byte."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass
class Received:
    """One fully received request."""

    connection: int
    method: str
    target: str
    lines: list[tuple[str, str]]
    body: bytes
    chunks: list[bytes] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """The first value of a header, by its name in any case."""
        return next((value for key, value in self.lines if key.lower() == name.lower()), None)

    def get_all(self, name: str) -> list[str]:
        """Every value of a header, by its name in any case."""
        return [value for key, value in self.lines if key.lower() == name.lower()]


@dataclass(eq=False)
class Wire:
    """What a script writes its answer with."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    closed: bool = False

    @property
    def is_closed(self) -> bool:
        """Whether the script has closed this connection."""
        return self.closed

    async def send(self, data: bytes) -> None:
        """Write and flush. Raises ConnectionError if the gateway has closed."""
        try:
            self.writer.write(data)
        except RuntimeError:
            if self.writer.is_closing():  # what uvloop raises then
                raise ConnectionResetError from None
            raise
        await self.writer.drain()

    async def gone(self) -> bool:
        """Wait until the gateway closes this connection."""
        return await self.reader.read(1) == b""

    @property
    def peer_port(self) -> int:
        """The port of the gateway's end."""
        return int(self.writer.get_extra_info("peername")[1])

    def stop_reading(self) -> None:
        """Take nothing more from the socket: what comes fills its buffer, and then the gateway waits."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # typeshed has the writing half only

    def read_on(self) -> None:
        """End `stop_reading`."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    def half_close(self) -> None:
        """Say that nothing more will be sent, and stay to read."""
        self.writer.write_eof()

    def close(self) -> None:
        """Close cleanly."""
        self.closed = True
        self.writer.close()

    def reset(self) -> None:
        """Close with a reset."""
        self.closed = True
        sock = self.writer.get_extra_info("socket")
        if sock is None or self.writer.is_closing():
            return
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Received, Wire], Awaitable[None]]


async def answer_ok(received: Received, wire: Wire) -> None:
    """A small JSON answer."""
    body = b'{"ok": true}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    await wire.send(head + (b"" if received.method == "HEAD" else body))


class FakeUpstream:
    """Accepts connections and answers every request by ``script``.

    ``receive_buffer`` and ``send_buffer`` are SO_RCVBUF and SO_SNDBUF of its connections in bytes, 0 = the system's
    choice: small ones let backpressure be felt early.
    """

    def __init__(self, *, receive_buffer: int = 0, send_buffer: int = 0) -> None:
        self._buffers = ((socket.SO_RCVBUF, receive_buffer), (socket.SO_SNDBUF, send_buffer))
        self._held: socket.socket | None = None
        self._wires: set[Wire] = set()
        self.port = 0
        self.ledger: list[Received] = []
        self.script: Script = answer_ok
        self.early: Script | None = None
        """Called when a head is in, before its body; if it closes the connection the body is not read."""
        self.on_connect: Callable[[Wire], None] | None = None
        """Called when a connection stands; one that it closes is not read."""
        self.connections = 0
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind to a free port on loopback."""
        await self._listen(self._bound(0))

    def _bound(self, port: int) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option, size in self._buffers:
            if size:  # set before it listens, so that every accepted connection has it from its first segment
                sock.setsockopt(socket.SOL_SOCKET, option, size)
        try:
            sock.bind(("127.0.0.1", port))
        except OSError:
            sock.close()
            raise
        return sock

    async def _listen(self, sock: socket.socket) -> None:
        self._server = await asyncio.start_server(self._accept, sock=sock, limit=1 << 20, backlog=1024)
        self.port = sock.getsockname()[1]

    async def refuse(self) -> None:
        """Close everything and refuse connections until `accept_again`.

        The port stays bound: a free one could become the source of a dial to itself, which TCP lets succeed.
        """
        self._server.close()
        self.close_connections()
        for _ in range(500):
            try:
                self._held = self._bound(self.port)
                return
            except OSError:  # the loop has not closed the listening socket yet
                await asyncio.sleep(0.002)
        raise TimeoutError(f"port {self.port} is not to be had")

    async def accept_again(self) -> None:
        """Listen on the same port again."""
        held, self._held = self._held, None
        assert held is not None
        await self._listen(held)

    def close_connections(self) -> None:
        """Close every connection, cleanly."""
        for wire in tuple(self._wires):
            wire.close()

    @property
    def base_url(self) -> str:
        """What a gateway's base_url is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        if self._held is not None:
            self._held.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        self.open += 1
        wire = Wire(reader, writer)
        self._wires.add(wire)
        try:
            if self.on_connect is not None:
                self.on_connect(wire)
            await self._serve(self.connections, wire)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._wires.discard(wire)
            self._tasks.discard(task)
            writer.close()

    async def _serve(self, number: int, wire: Wire) -> None:
        while not wire.is_closed:
            head = await wire.reader.readuntil(b"\r\n\r\n")
            start, *lines = head.decode("latin-1").split("\r\n")[:-2]
            method, target, _ = start.split(" ")
            pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            received = Received(number, method, target, pairs, b"")
            if self.early is not None:
                await self.early(received, wire)
                if wire.closed:
                    return
            await self._read_body(received, wire.reader)
            self.ledger.append(received)
            await self.script(received, wire)

    async def _read_body(self, received: Received, reader: asyncio.StreamReader) -> None:
        length = received.get("content-length")
        if length is not None:
            received.body = await reader.readexactly(int(length))
        elif received.get("transfer-encoding") is not None:
            while size := int(await reader.readline(), 16):
                received.chunks.append(await reader.readexactly(size))
                assert await reader.readexactly(2) == b"\r\n"
            assert await reader.readexactly(2) == b"\r\n"
            received.body = b"".join(received.chunks)
