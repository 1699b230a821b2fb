"""A client that writes bytes exactly as told and reads answers just as plainly."""

from __future__ import annotations

import asyncio
import json
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


class RawClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> RawClient:
        """Connect to a port on loopback."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, data: bytes, *, by: int = 0, pause_s: float = 0) -> None:
        """Write bytes, in segments of ``by`` if given."""
        for start in range(0, len(data), by or len(data) or 1):
            self.writer.write(data[start : start + (by or len(data))])
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
        length = answer.get("content-length")
        if method == "HEAD" or answer.status in (204, 304):
            return answer
        if answer.get("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                answer.body += (await self.reader.readexactly(size + 2))[:-2]
            await self.reader.readexactly(2)
        elif length is not None:
            answer.body = await self.reader.readexactly(int(length))
        else:
            answer.body = await self.reader.read()
        return answer

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

    def close(self) -> None:
        """Close."""
        self.writer.close()


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
