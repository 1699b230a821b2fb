"""The load: keep-alive connections, each with one request under way, and every answer checked.

Each connection has a source address of its own in 127.0.0.0/8. A gateway counts its limits by client address and
admits at most 10,000 requests an hour from each, so one address for all would be refused within a second.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import cast

from bench.request import ANSWER, EVENTS_PER_STREAM, JSON_TARGET, SSE_TARGET, request

GRACE_S = 10.0
"""How long the last answers may take after the time is up."""

_OK = b"HTTP/1.1 200"
_END_OF_EVENT = b"\n\n"
_END_OF_STREAM = b"\r\n0\r\n\r\n"


@dataclass
class Tally:
    """What came back: whole answers, events in streams, reads that brought events, and what went wrong."""

    answers: int = 0
    events: int = 0
    reads: int = 0
    seconds: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)


class Client(asyncio.Protocol, ABC):
    """One connection. It asks again after each whole answer, until it is told to stop."""

    target: str

    def __init__(self, tally: Tally, host: str) -> None:
        self.tally = tally
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_stopping = False
        self._request = request(self.target, host)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for `ask`."""
        # uvloop's transports have the methods, but are no subclass.
        self.transport = cast(asyncio.Transport, transport)

    def ask(self) -> None:
        """Send the request."""
        self.transport.write(self._request)

    def answered(self) -> None:
        """Ask again, unless the time is up."""
        self.tally.answers += 1
        if self.is_stopping:
            self.done.set_result(None)
        else:
            self.transport.write(self._request)

    def fail(self, what: str) -> None:
        """Give this connection up."""
        if not self.done.done():
            self.tally.failures[what] += 1
            self.done.set_result(None)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Before its end, that is a failure."""
        self.fail("connection closed")

    @abstractmethod
    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""


class JSONClient(Client):
    """Asks for plain answers; each must be 200 and have the upstream's very body."""

    target = JSON_TARGET
    _buffer = b""

    def data_received(self, data: bytes) -> None:
        """Look for the end of the answer."""
        if self._buffer:
            data = self._buffer + data
        if not _OK.startswith(data[: len(_OK)]):
            self.fail(status_of(data))
        elif data.endswith(ANSWER):
            self._buffer = b""
            self.answered()
        else:
            self._buffer = data


class SSEClient(Client):
    """Asks for streams; each must be 200 and have every event."""

    target = SSE_TARGET

    def __init__(self, tally: Tally, host: str) -> None:
        super().__init__(tally, host)
        self._scanner = StreamScanner()

    def data_received(self, data: bytes) -> None:
        """Count the events that end here."""
        scanner = self._scanner
        if scanner.is_at_start and not data.startswith(_OK):
            self.fail(status_of(data))
            return
        events = scanner.feed(data)
        if events:
            self.tally.events += events
            self.tally.reads += 1
        if not scanner.is_at_end:
            return
        if scanner.events != EVENTS_PER_STREAM:
            self.fail(f"stream of {scanner.events} events")
            return
        self._scanner = StreamScanner()
        self.answered()


class StreamScanner:
    """Counts the events of one chunked event stream, however its bytes are cut into pieces."""

    def __init__(self) -> None:
        self.events = 0
        self.is_at_start = True
        self.is_at_end = False
        self._tail = b""

    def feed(self, data: bytes) -> int:
        """Take the next piece; how many events ended in it."""
        self.is_at_start = False
        split = self._tail.endswith(b"\n") and not self._tail.endswith(_END_OF_EVENT) and data.startswith(b"\n")
        events = data.count(_END_OF_EVENT) + split
        self.events += events
        self._tail = (self._tail + data[-len(_END_OF_STREAM) :])[-len(_END_OF_STREAM) :]
        self.is_at_end = self._tail == _END_OF_STREAM
        return events


def status_of(data: bytes) -> str:
    """How a failure is named: by its status line."""
    return data.split(b"\r\n", 1)[0][:80].decode("latin-1") or "empty answer"


def source(round_number: int, connection: int) -> str:
    """The address a connection comes from: another one in every round."""
    return f"127.{1 + round_number % 250}.{connection // 250}.{1 + connection % 250}"


class Load:
    """Connections that are open and wait for `run`."""

    def __init__(self, clients: list[Client], tally: Tally) -> None:
        self._clients = clients
        self._tally = tally

    @classmethod
    async def connect(cls, kind: type[Client], port: int, connections: int, round_number: int) -> Load:
        """Open the connections to 127.0.0.1. Raises OSError."""
        loop = asyncio.get_running_loop()
        tally = Tally()
        clients: list[Client] = []
        for number in range(connections):
            _, client = await loop.create_connection(
                lambda: kind(tally, f"127.0.0.1:{port}"),
                "127.0.0.1",
                port,
                local_addr=(source(round_number, number), 0),
            )
            clients.append(client)
        return cls(clients, tally)

    async def run(self, seconds: float) -> Tally:
        """Keep asking for so long, then wait until every answer under way is whole."""
        loop = asyncio.get_running_loop()
        started = perf_counter()
        for client in self._clients:
            client.ask()
        loop.call_later(seconds, self._stop)
        outstanding = [client.done for client in self._clients]
        _, pending = await asyncio.wait(outstanding, timeout=seconds + GRACE_S)
        self._tally.seconds = perf_counter() - started
        if pending:
            self._tally.failures["no whole answer in time"] += len(pending)
        return self._tally

    def _stop(self) -> None:
        for client in self._clients:
            client.is_stopping = True

    def close(self) -> None:
        """Close every connection."""
        for client in self._clients:
            if not client.done.done():
                client.done.cancel()
            client.transport.abort()
