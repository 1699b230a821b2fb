"""Clients: keep-alive connections that ask a gateway and look at every answer.

What happens next is a `Driver`'s to say: ask again at once, at a planned time, or hold the stream open.
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, cast

import httptools

from bench.request import (
    ANSWER,
    EVENTS_PER_STREAM,
    FILE_ANSWER,
    JSON_TARGET,
    SSE_TARGET,
    UPLOAD_TARGET,
    request,
    says_the_same,
)

_OK = b"HTTP/1.1 200"
_END_OF_EVENT = b"\n\n"
_TRACE_BYTES, _SPAN_BYTES = 16, 8
_END_MARK = b"data: [DONE]\n\n"


@dataclass
class Tally:
    """What came back: whole answers, events in streams, reads that brought events, and what went wrong."""

    answers: int = 0
    events: int = 0
    reads: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


class Gateway(NamedTuple):
    """What a client has to know of whom it asks, a gateway or the upstream itself."""

    port: int
    fields: Mapping[str, str] = {}
    """Header fields it wants besides those of the SDK."""
    is_faithful: bool = True
    """Whether answers arrive byte for byte; else it is enough that they say the same."""


class Driver(Protocol):
    """Who decides what the clients do."""

    tally: Tally

    def first(self, client: Client) -> None:
        """The first event of a stream has come."""

    def whole(self, client: Client) -> None:
        """An answer has come in full, and was right."""

    def failed(self, client: Client, what: str) -> None:
        """There will be no answer, or it was wrong. The connection is closed."""


class Client(asyncio.Protocol, ABC):
    """One connection, with one request under way at most."""

    target: str

    def __init__(self, driver: Driver, gateway: Gateway) -> None:
        self.driver = driver
        self.planned_s = 0.0
        self.is_closed = False
        self._gateway = gateway
        self._request = request(self.target, f"127.0.0.1:{gateway.port}", gateway.fields)
        self._parser = httptools.HttpResponseParser(self)
        self._is_whole = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for `ask`."""
        # uvloop's transports have the methods, but are no subclass.
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, planned_s: float = 0.0) -> None:
        """Send the request, which was planned for that time."""
        self.planned_s = planned_s
        if not self.is_closed:
            self.transport.write(self.next_request())

    def next_request(self) -> bytes:
        """What to send: the same each time, unless a kind of client has it otherwise."""
        return self._request

    def close(self) -> None:
        """Leave."""
        self.is_closed = True
        self.transport.abort()

    def fail(self, what: str) -> None:
        """Give this connection up."""
        if not self.is_closed:
            self.close()
            self.driver.failed(self, what)

    def connection_lost(self, exc: Exception | None) -> None:
        """Unless it is ours, that is a failure."""
        self.fail("connection closed")

    def read(self, data: bytes) -> bool:
        """Feed the parser; whether that was the end of the answer."""
        self._is_whole = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(f"unreadable answer: {error}")
            return False
        if not self._is_whole:
            return False
        status = self._parser.get_status_code()
        if status != 200:
            self.fail(f"status {status}")
            return False
        return True

    def on_message_complete(self) -> None:
        """The parser saw the end."""
        self._is_whole = True

    @abstractmethod
    def on_body(self, body: bytes) -> None:
        """The parser saw a piece of the body."""

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""


class JSONClient(Client):
    """Asks for plain answers; each must be 200 and have the upstream's very body, or say the same."""

    target = JSON_TARGET
    expected = ANSWER
    _is_amid = False
    _body = b""

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        # The parser is for what comes in pieces, in chunks, or written anew.
        if not self._is_amid and data.endswith(self.expected) and data.startswith(_OK):
            self._answered()
            return
        self._is_amid = True
        if not self.read(data):
            return
        body, self._body, self._is_amid = self._body, b"", False
        if body == self.expected or (not self._gateway.is_faithful and says_the_same(body, self.expected)):
            self._answered()
        else:
            self.fail("another answer than the upstream's")

    def on_body(self, body: bytes) -> None:
        """Keep it."""
        self._body += body

    def _answered(self) -> None:
        self.driver.tally.answers += 1
        self.driver.whole(self)


class NewHeadClient(JSONClient):
    """Asks for plain answers, with the trace context (W3C Trace Context, 3.2) of a new request each time.

    So no request has a head the gateway has seen before; all are of the same length.
    """

    def __init__(self, driver: Driver, gateway: Gateway) -> None:
        super().__init__(driver, gateway)
        head, self._end, body = self._request.partition(b"\r\n\r\n")
        self._head, self._body_sent = head + b"\r\ntraceparent: 00-", body

    def next_request(self) -> bytes:
        """The same question under a new head."""
        fresh = os.urandom(_TRACE_BYTES + _SPAN_BYTES).hex().encode()
        trace, span = fresh[: 2 * _TRACE_BYTES], fresh[2 * _TRACE_BYTES :]
        return b"%b%b-%b-01%b%b" % (self._head, trace, span, self._end, self._body_sent)


class UploadClient(JSONClient):
    """Sends a file each time."""

    target = UPLOAD_TARGET
    expected = FILE_ANSWER


class EventCounter:
    """Counts the events of one stream, however its body is cut into pieces, less the mark some put at the end."""

    def __init__(self) -> None:
        self.events = 0
        self._tail = b""

    def feed(self, body: bytes) -> int:
        """Take the next piece; how many events ended in it."""
        tail = self._tail
        is_split = tail.endswith(b"\n") and not tail.endswith(_END_OF_EVENT) and body.startswith(b"\n")
        events = body.count(_END_OF_EVENT) + is_split
        whole = tail + body
        if whole.endswith(_END_MARK):
            events -= 1
        self._tail = whole[-len(_END_MARK) :]
        self.events += events
        return events


class SSEClient(Client):
    """Asks for streams; each must be 200 and have every event. ``expected`` None: as many as there may be."""

    target = SSE_TARGET
    expected: int | None = EVENTS_PER_STREAM

    def __init__(self, driver: Driver, gateway: Gateway) -> None:
        super().__init__(driver, gateway)
        self._counter = EventCounter()
        self._ended_now = 0

    def data_received(self, data: bytes) -> None:
        """Count the events that end here."""
        is_first = not self._counter.events
        self._ended_now = 0
        is_whole = self.read(data)
        if self._ended_now:
            self.driver.tally.events += self._ended_now
            self.driver.tally.reads += 1
            if is_first:
                self.driver.first(self)
        if not is_whole:
            return
        events, self._counter = self._counter.events, EventCounter()
        if self.expected is not None and events != self.expected:
            self.fail(f"stream of {events} events")
            return
        self.driver.tally.answers += 1
        self.driver.whole(self)

    def on_body(self, body: bytes) -> None:
        """Count."""
        if self._parser.get_status_code() == 200:
            self._ended_now += self._counter.feed(body)


class HeldClient(SSEClient):
    """Asks for one stream, which ends when the upstream is told to."""

    expected = None


async def connect(
    kind: type[Client], driver: Driver, gateway: Gateway, count: int, round_number: int, first: int = 0
) -> list[Client]:
    """Open so many connections to 127.0.0.1, each from an address of its own. Raises OSError.

    ``first`` is how many the round has already.
    """
    loop = asyncio.get_running_loop()
    clients: list[Client] = []
    for number in range(first, first + count):
        _, client = await loop.create_connection(
            lambda: kind(driver, gateway),
            "127.0.0.1",
            gateway.port,
            local_addr=(source(round_number, number), 0),
        )
        clients.append(client)
    return clients


def source(round_number: int, connection: int) -> str:
    """The address a connection comes from: another one in every round.

    A gateway counts its limits by client address and admits at most 10,000 requests an hour from each, so one
    address for all would be refused within a second.
    """
    return f"127.{1 + round_number % 250}.{connection // 250}.{1 + connection % 250}"
