"""The upstream of the bench: as little as can answer, so that the load finds no limit here.

    python -m bench.upstream CERTIFICATE KEY

It prints its two ports of 127.0.0.1, in the clear and with TLS. A POST to ``/v1/responses`` is answered with a stream
of events, one write each; one to ``/v1/files`` with the answer to an upload, if all of the file came; any other with
one fixed JSON body. The bench steers it, and is answered with what was sent so far, by kind:

    GET /counters
    GET /mode/EVENTS/SECONDS/AT_ONCE   how the streams that begin from now on are to be
    GET /beat/SECONDS                  send each open stream an event so often, one after another
    GET /finish                        end the streams that are open
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import NamedTuple, cast

import httptools
import uvloop

from bench.request import (
    ANSWER,
    EVENT,
    EVENTS_PER_STREAM,
    FILE_ANSWER,
    FILE_BYTES,
    LAST_EVENT,
    SERVER_KEY,
    SSE_TARGET,
    UPLOAD_TARGET,
)

EVENT_INTERVAL_S = 0.004
"""Between two events of a stream: long enough that a gateway has passed on one before the next comes."""

_STAGGER = 4
_KEY = f"Bearer {SERVER_KEY}".encode()
_HEAD = (
    b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    b"x-request-id: req_00000000000000000000000000000000\r\nopenai-processing-ms: 1\r\n\r\n"
)
_WHOLE = _HEAD % (b"200 OK", len(ANSWER)) + ANSWER
_FILED = _HEAD % (b"200 OK", len(FILE_ANSWER)) + FILE_ANSWER
_REFUSAL = _HEAD % (b"401 Unauthorized", 2) + b"{}"
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n"
    b"x-request-id: req_00000000000000000000000000000000\r\n\r\n"
)
_CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
_END = b"%x\r\n%b\r\n0\r\n\r\n" % (len(LAST_EVENT), LAST_EVENT)


class Mode(NamedTuple):
    """How a stream is: so many events (two or more; 0 = until told to finish), ``interval_s`` apart (0 = silence).

    ``at_once`` says whether the first event comes together with the head.
    """

    events: int = EVENTS_PER_STREAM
    interval_s: float = EVENT_INTERVAL_S
    at_once: bool = False

    @property
    def path(self) -> str:
        """What to ask for to have streams so."""
        return f"/mode/{self.events}/{self.interval_s}/{self.at_once:d}"

    @classmethod
    def parse(cls, path: str) -> Mode:
        """The mode of such a path. Raises ValueError."""
        events, interval_s, at_once = path.removeprefix("/mode/").split("/")
        return cls(int(events), float(interval_s), at_once == "1")


class State:
    """What all connections share: counts by kind, and the streams under way."""

    def __init__(self) -> None:
        self.counters = dict.fromkeys(("answers", "streams", "events", "uploads", "refusals"), 0)
        self.mode = Mode()
        self.streaming: set[Answerer] = set()

    def steer(self, path: str) -> None:
        """Do what the bench asks. Raises ValueError."""
        if path.startswith("/mode/"):
            self.mode = Mode.parse(path)
        elif path.startswith("/beat/"):
            interval_s = float(path.removeprefix("/beat/"))
            for number, answerer in enumerate(self.streaming):
                answerer.beat(interval_s, interval_s * number / len(self.streaming))
        elif path == "/finish":
            for answerer in list(self.streaming):
                answerer.finish()
        elif path != "/counters":
            raise ValueError(path)


class Answerer(asyncio.Protocol):
    """One connection of a gateway; a gateway has one request under way on it at a time."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._counters = state.counters
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._head = b""
        self._is_in_body = False
        self._body_bytes = 0
        self._mode = state.mode
        self._left = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        # uvloop's transports have the methods, but are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        if not self._is_in_body:
            self._head += data
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target."""
        self._url += url

    def on_headers_complete(self) -> None:
        """From here on nothing is kept."""
        self._is_in_body = True

    def on_body(self, body: bytes) -> None:
        """Count it."""
        self._body_bytes += len(body)

    def on_message_complete(self) -> None:
        """Answer, and be ready for the next."""
        target, head, body_bytes = self._url.decode("latin-1"), self._head, self._body_bytes
        self._url = self._head = b""
        self._is_in_body = False
        self._body_bytes = 0
        if self._parser.get_method() == b"GET":
            self._steer(target)
        elif _KEY not in head:
            self._counters["refusals"] += 1
            self._write(_REFUSAL)
        elif target.startswith(SSE_TARGET):
            self._begin_stream()
        elif target.startswith(UPLOAD_TARGET):
            self._counters["uploads" if body_bytes >= FILE_BYTES else "refusals"] += 1
            self._write(_FILED if body_bytes >= FILE_BYTES else _REFUSAL)
        else:
            self._counters["answers"] += 1
            self._write(_WHOLE)

    def _steer(self, path: str) -> None:
        try:
            self._state.steer(path)
        except ValueError:
            self._write(_HEAD % (b"404 Not Found", 2) + b"{}")
            return
        body = json.dumps(self._counters).encode()
        self._write(_HEAD % (b"200 OK", len(body)) + body)

    def _write(self, answer: bytes) -> None:
        self._transport.write(answer)
        if not self._parser.should_keep_alive():
            self._transport.close()

    def _begin_stream(self) -> None:
        self._mode = mode = self._state.mode
        self._left = mode.events
        self._state.streaming.add(self)
        # Streams that begin together would otherwise keep step to their end.
        offset = self._counters["streams"] % _STAGGER / _STAGGER
        self._counters["streams"] += 1
        if not mode.at_once:
            self._transport.write(_STREAM_HEAD)
            self._timer = self._loop.call_later(mode.interval_s * (1 + offset), self._next_event)
            return
        self._left -= 1
        self._counters["events"] += 1
        self._transport.write(_STREAM_HEAD + _CHUNK)
        if mode.interval_s:
            self._timer = self._loop.call_later(mode.interval_s * (1 + offset), self._next_event)

    def _next_event(self) -> None:
        self._left -= 1
        if self._left:
            self._counters["events"] += 1
            self._transport.write(_CHUNK)
            self._timer = self._loop.call_later(self._mode.interval_s, self._next_event)
        else:
            self.finish()

    def beat(self, interval_s: float, delay_s: float) -> None:
        """Send an event so often from then on, until told to finish."""
        self._mode = Mode(0, interval_s, True)
        self._left = 0
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, self._next_event)

    def finish(self) -> None:
        """End the stream that is under way with its last event."""
        self._forget()
        self._counters["events"] += 1
        self._write(_END)

    def _forget(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._state.streaming.discard(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is left to stream to."""
        self._forget()


async def serve(certificate: Path, key: Path) -> None:
    """Serve on any two free ports of 127.0.0.1 until the process is ended."""
    state = State()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.get_running_loop()
    servers = [
        await loop.create_server(lambda: Answerer(state), "127.0.0.1", 0, backlog=4096, ssl=tls)
        for tls in (None, context)
    ]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1]), Path(sys.argv[2])))
