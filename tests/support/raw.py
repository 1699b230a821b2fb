"""A client that writes bytes exactly as told and reads answers just as plainly."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from dataclasses import dataclass
from typing import Any


@dataclass
class Answer:
    """One answer as it stood on the wire."""

    status: int
    reason: str
    lines: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        """The first value of a header, by its name in any case."""
        return next((value for key, value in self.lines if key.lower() == name.lower()), None)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass
class Outcome:
    """How an exchange ended for its client, cuts included.

    ``answer`` is None if not even a head came; else it has as much of the body as did. ``is_whole`` = by its framing
    (RFC 9112 section 6.3) nothing is missing: only that may be taken for the end.
    """

    answer: Answer | None
    is_whole: bool


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int, *, receive_buffer: int = 0) -> RawClient:
        """Connect to a port on loopback; ``receive_buffer`` is SO_RCVBUF in bytes, 0 = the system's choice."""
        if not receive_buffer:
            return cls(*await asyncio.open_connection("127.0.0.1", port))
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        return cls(*await asyncio.open_connection(sock=sock))

    @property
    def socket(self) -> socket.socket:
        """The socket, to look at and to set options of."""
        sock: socket.socket = self.writer.get_extra_info("socket")
        return sock

    @property
    def port(self) -> int:
        """The port of this end."""
        return int(self.writer.get_extra_info("sockname")[1])

    async def send(self, data: bytes, *, by: int = 0, pause_s: float = 0) -> None:
        """Write bytes, in segments of ``by`` if given. Raises ConnectionError if the gateway has closed."""
        for start in range(0, len(data), by or len(data) or 1):
            try:
                self.writer.write(data[start : start + (by or len(data))])
            except RuntimeError:
                if self.writer.is_closing():  # what uvloop raises then
                    raise ConnectionResetError from None
                raise
            await self.writer.drain()
            await asyncio.sleep(pause_s)

    async def head(self) -> Answer:
        """Read one head."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.split("\r\n")[:-2]
        _, status, reason = start.split(" ", 2)
        pairs = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Answer(int(status), reason, pairs, b"")

    async def answer(self, method: str = "GET") -> Answer:
        """Read one whole answer; 1xx answers are passed over. Raises IncompleteReadError on a cut."""
        while (answer := await self.head()).status < 200:
            pass
        await self._body(answer, method)
        return answer

    async def _body(self, answer: Answer, method: str) -> None:
        """Read the body of ``answer`` into it, piece by piece."""
        length = answer.get("content-length")
        if method == "HEAD" or answer.status in (204, 304):
            return
        if answer.get("transfer-encoding") == "chunked":
            while size := int((await self.reader.readuntil(b"\r\n")).partition(b";")[0], 16):
                answer.body += await self._exactly(answer, size)
                await self.reader.readexactly(2)
            while await self.reader.readuntil(b"\r\n") != b"\r\n":
                pass
        elif length is not None:
            answer.body = await self._exactly(answer, int(length))
        else:
            while piece := await self.reader.read(65_536):
                answer.body += piece

    async def _exactly(self, answer: Answer, size: int) -> bytes:
        try:
            return await self.reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            answer.body += error.partial
            raise

    async def outcome(self, method: str = "GET") -> Outcome:
        """Read one answer to its end, whatever end that is."""
        answer: Answer | None = None
        try:
            while (head := await self.head()).status < 200:
                pass
            answer = head
            await self._body(answer, method)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ValueError):
            # ValueError: a size that is no number, so the framing is broken for every reader.
            return Outcome(answer, False)
        return Outcome(answer, True)

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        """Write a request and read its answer."""
        await self.send(data)
        return await self.answer(method)

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; False if bytes come instead."""
        try:
            return await self.reader.read(1) == b""
        except ConnectionError:
            return True

    def stop_reading(self) -> None:
        """Take nothing more from the socket: what comes fills its buffer, and then the sender waits."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]  # typeshed has the writing half only

    def half_close(self) -> None:
        """Say that nothing more will be sent, and stay to read."""
        self.writer.write_eof()

    def close(self) -> None:
        """Close."""
        self.writer.close()

    def reset(self) -> None:
        """Close with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def request(
    target: str = "/v1/chat/completions",
    *,
    method: str = "POST",
    body: bytes | None = b"{}",
    headers: tuple[str, ...] = ("Authorization: Bearer sk-client",),
    host: str = "gateway.test",
) -> bytes:
    """A well-formed request, as bytes."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")
