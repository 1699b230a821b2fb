"""The upstream of the curves: it keeps nothing of the bodies it gets, and answers with many header lines if asked.

    python -m bench.curves.upstream

It prints its port. A request for ``/v1/lines/N`` is answered with N header lines, any other with a few.
"""

from __future__ import annotations

import asyncio
import re
from typing import cast

import uvloop

from bench.request import ANSWER, SERVER_KEY

FEWEST_LINES = 2
"""What every answer has: its type and its length."""

_KEY = f"Bearer {SERVER_KEY}".encode()
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_LINES = re.compile(rb"[A-Z]+ /v1/lines/(\d+) ")


def answer(lines: int = FEWEST_LINES) -> bytes:
    """A whole answer with so many header lines, two at least."""
    fields = [b"Content-Type: application/json", b"Content-Length: %d" % len(ANSWER)]
    fields += [b"X-Line-%d: a value of some length" % number for number in range(lines - len(fields))]
    return b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(fields) + b"\r\n\r\n" + ANSWER


_WHOLE = answer()
_REFUSAL = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"


class Answerer(asyncio.Protocol):
    """One connection of a gateway: one request at a time, its body counted and forgotten."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        # uvloop's transports have the methods, but are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        if self._left:
            self._left -= len(data)
        else:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._head = b""
            length = _LENGTH.search(data, 0, end + 2)
            self._left = end + 4 + (int(length[1]) if length else 0) - len(data)
            self._answer = self._answer_to(data[:end])
        if not self._left:
            self._transport.write(self._answer)

    def _answer_to(self, head: bytes) -> bytes:
        if _KEY not in head:
            return _REFUSAL
        lines = _LINES.match(head)
        return _WHOLE if lines is None else answer(int(lines[1]))


async def start() -> asyncio.Server:
    """Listen on any free port of 127.0.0.1."""
    return await asyncio.get_running_loop().create_server(Answerer, "127.0.0.1", 0, backlog=1024)


async def serve() -> None:
    """Serve until the process is ended."""
    server = await start()
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
