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


@dataclass
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
        """Write and flush."""
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> bool:
        """Wait until the gateway closes this connection."""
        return await self.reader.read(1) == b""

    def close(self) -> None:
        """Close cleanly."""
        self.closed = True
        self.writer.close()

    def reset(self) -> None:
        """Close with a reset."""
        self.closed = True
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


Script = Callable[[Received, Wire], Awaitable[None]]


async def answer_ok(received: Received, wire: Wire) -> None:
    """A small JSON answer."""
    body = b'{"ok": true}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    await wire.send(head + (b"" if received.method == "HEAD" else body))


class FakeUpstream:
    """Accepts connections and answers every request by ``script``."""

    def __init__(self) -> None:
        self.ledger: list[Received] = []
        self.script: Script = answer_ok
        self.early: Script | None = None
        """Called when a head is in, before its body; if it closes the connection the body is not read."""
        self.connections = 0
        self.open = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind to a free port on loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def base_url(self) -> str:
        """What a gateway's base_url is set to."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
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
        try:
            await self._serve(self.connections, wire)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
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
