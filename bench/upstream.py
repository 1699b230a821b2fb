"""The upstream of the bench: as little as can answer, so that the load finds no limit here.

    python -m bench.upstream

It prints its port. A request to ``/v1/responses`` is answered with a stream of events, one write each; any other
POST with one fixed JSON body; ``GET /counters`` with how many of each were sent.
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

import uvloop

from bench.request import ANSWER, EVENT, EVENTS_PER_STREAM, SERVER_KEY, SSE_TARGET

EVENT_INTERVAL_S = 0.004
"""Between two events of a stream: long enough that a gateway has passed on one before the next comes."""

_STAGGER = 4
_KEY = f"Bearer {SERVER_KEY}".encode()
_STREAMED = SSE_TARGET.encode()
_HEAD = (
    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"x-request-id: req_00000000000000000000000000000000\r\nopenai-processing-ms: 1\r\n\r\n"
)
_WHOLE = _HEAD % (b"200 OK", len(ANSWER)) + ANSWER
_REFUSAL = _HEAD % (b"401 Unauthorized", 2) + b"{}"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"x-request-id: req_00000000000000000000000000000000\r\n\r\n"
)
_CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
_LAST_CHUNK = b"0\r\n\r\n"


class Counters:
    """What was sent so far, by kind."""

    def __init__(self) -> None:
        self.answers = 0
        self.streams = 0
        self.events = 0
        self.refusals = 0

    def as_json(self) -> bytes:
        """The same, for ``GET /counters``."""
        return json.dumps(vars(self)).encode()


def missing(buffer: bytes) -> int | None:
    """How many bytes of the first request in ``buffer`` are still to come; None while its head is not whole."""
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = buffer[:end].lower()
    found = head.find(b"\r\ncontent-length:")
    length = int(head[found + 17 :].split(b"\r\n", 1)[0]) if found >= 0 else 0
    return end + 4 + length - len(buffer)


class Answerer(asyncio.Protocol):
    """One connection of a gateway; a gateway has one request under way on it at a time."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        # uvloop's transports have the methods, but are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        if self._buffer:
            data = self._buffer + data
        if missing(data) != 0:
            self._buffer = data
            return
        self._buffer = b""
        self._answer(data)

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET /counters "):
            body = self._counters.as_json()
            self._transport.write(_HEAD % (b"200 OK", len(body)) + body)
        elif _KEY not in request:
            self._counters.refusals += 1
            self._transport.write(_REFUSAL)
        elif request.startswith(_STREAMED, request.index(b" ") + 1):
            self._left = EVENTS_PER_STREAM
            self._transport.write(_STREAM_HEAD)
            # Streams that begin together would otherwise keep step to their end.
            offset = self._counters.streams % _STAGGER / _STAGGER
            self._counters.streams += 1
            self._timer = self._loop.call_later(EVENT_INTERVAL_S * (1 + offset), self._next_event)
        else:
            self._counters.answers += 1
            self._transport.write(_WHOLE)

    def _next_event(self) -> None:
        self._left -= 1
        self._counters.events += 1
        if self._left:
            self._transport.write(_CHUNK)
            self._timer = self._loop.call_later(EVENT_INTERVAL_S, self._next_event)
        else:
            self._timer = None
            self._transport.write(_CHUNK + _LAST_CHUNK)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is left to stream to."""
        if self._timer is not None:
            self._timer.cancel()


async def serve() -> None:
    """Serve on any free port of 127.0.0.1 until the process is ended."""
    counters = Counters()
    server = await asyncio.get_running_loop().create_server(lambda: Answerer(counters), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve())
