"""Both ends of the gateway's wire, one message at a time: its client and its upstream, on blocking sockets.

Nothing is sent before what came before has arrived on the other side. So the gateway finds one message at each
reading, wakes as often for each unit, and takes the same way through its code, however busy the machine is.
"""

from __future__ import annotations

import itertools
import select
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from guard.traffic import (
    ANSWER,
    ASK,
    ASK_STREAM,
    CHUNK,
    LAST_CHUNK,
    LIMITED,
    PIECE,
    PIECES,
    REPLY,
    SERVER_KEY,
    STREAM_HEAD,
    UPLOAD_HEAD,
    ask_traced,
)

TIMEOUT_S = 60.0
_AT_ONCE = 1 << 18
_END = b"\r\n\r\n"


class Lane:
    """One connection, and what has come over it and was not taken yet."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self._data = b""

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.sock.sendall(data)

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes. Raises RuntimeError if they do not come."""
        while len(self._data) < size:
            self._receive()
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    def take_past(self, end: bytes) -> bytes:
        """Everything up to ``end``, and ``end``. Raises RuntimeError if it does not come."""
        while end not in self._data:
            self._receive()
        return self.take(self._data.index(end) + len(end))

    def take_message(self) -> tuple[bytes, bytes]:
        """(head, body) of a message with a Content-Length."""
        head = self.take_past(_END)
        return head, self.take(content_length(head))

    def _receive(self) -> None:
        try:
            data = self.sock.recv(_AT_ONCE)
        except TimeoutError:
            data = b""
        if not data:
            raise RuntimeError(f"the gateway said nothing more after {self._data[-300:]!r}")
        self._data += data


def content_length(head: bytes) -> int:
    """The Content-Length of a head. Raises RuntimeError if it has none."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise RuntimeError(f"no Content-Length in {head!r}")


def expect(head: bytes, wanted: bytes) -> None:
    """Raises RuntimeError unless the head begins so, or has it in a line."""
    if not head.startswith(wanted) and wanted not in head:
        raise RuntimeError(f"{wanted!r} was expected, this came: {head!r}")


class Upstream:
    """The origin: it accepts whenever the gateway dials, and serves the newest connection."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._lane: Lane | None = None

    def lane(self) -> Lane:
        """The connection that has, or will have, the next request."""
        while True:
            watched = [self._listening, *([] if self._lane is None else [self._lane.sock])]
            ready, _, _ = select.select(watched, [], [], TIMEOUT_S)
            if not ready:
                raise RuntimeError("the gateway sends nothing upstream")
            if self._listening in ready:
                self._drop()
                self._lane = Lane(self._listening.accept()[0])
            elif self._lane is not None and self._lane.sock.recv(1, socket.MSG_PEEK):
                return self._lane
            else:
                self._drop()

    def _drop(self) -> None:
        lane, self._lane = self._lane, None
        if lane is not None:
            lane.sock.close()

    def close(self) -> None:
        """Close everything."""
        self._listening.close()
        self._drop()


class Ends:
    """What can be done with the gateway on ``port``, a unit at a time."""

    def __init__(self, upstream: Upstream, port: int) -> None:
        self._upstream = upstream
        self._client = Lane(socket.create_connection(("127.0.0.1", port)))
        self._port = port
        self._limited: Lane | None = None
        self._stream: Lane | None = None
        self._units: dict[str, Callable[[], None]] = {
            "JSON request": self._request,
            "SSE chunk": self._chunk,
            "refusal by the limit": self._refusal,
            "1 MiB upload": self._upload,
            # Last: what the gateway remembers of these heads is nothing the other units are to meet.
            "JSON request, new head": self._traced_request,
        }
        # From 1: a trace of zeros is none.
        self._traces = itertools.count(1)

    @property
    def units(self) -> list[str]:
        """Their names."""
        return list(self._units)

    def do(self, unit: str, times: int) -> None:
        """So many of a unit. Raises RuntimeError if the gateway does not do its part."""
        for _ in range(times):
            self._units[unit]()

    def prepare(self, unit: str) -> None:
        """What has to be before the first of them."""
        if unit == "SSE chunk":
            self._client.send(ASK_STREAM)
            lane = self._stream = self._upstream.lane()
            lane.take_message()
            lane.send(STREAM_HEAD)
            expect(self._client.take_past(_END), b"HTTP/1.1 200 ")
        elif unit == "refusal by the limit":
            # Not sooner: a client that says nothing is closed after some seconds, and all this may take longer.
            sock = socket.create_connection(("127.0.0.1", self._port), source_address=(LIMITED, 0))
            self._limited = Lane(sock)
            self._exchange(self._limited, ASK)

    def finish(self, unit: str) -> None:
        """Leave everything as it was before `prepare`."""
        if self._stream is not None:
            self._stream.send(LAST_CHUNK)
            self._stream = None
            self._client.take_past(LAST_CHUNK)

    def _request(self) -> None:
        self._exchange(self._client, ASK)

    def _traced_request(self) -> None:
        self._exchange(self._client, ask_traced(next(self._traces)))

    def _exchange(self, client: Lane, ask: bytes) -> None:
        client.send(ask)
        lane = self._upstream.lane()
        head, _ = lane.take_message()
        expect(head, b"Bearer " + SERVER_KEY.encode())
        lane.send(REPLY)
        head, body = client.take_message()
        expect(head, b"HTTP/1.1 200 ")
        expect(body, ANSWER)

    def _chunk(self) -> None:
        assert self._stream is not None
        self._stream.send(CHUNK)
        expect(self._client.take(len(CHUNK)), CHUNK)

    def _refusal(self) -> None:
        assert self._limited is not None
        self._limited.send(ASK)
        head, _ = self._limited.take_message()
        expect(head, b"HTTP/1.1 429 ")

    def _upload(self) -> None:
        self._client.send(UPLOAD_HEAD)
        lane: Lane | None = None
        for _ in range(PIECES):
            self._client.send(PIECE)
            if lane is None:
                lane = self._upstream.lane()
                expect(head := lane.take_past(_END), b"Bearer " + SERVER_KEY.encode())
                content_length(head)
            lane.take(len(PIECE))
        assert lane is not None
        lane.send(REPLY)
        expect(self._client.take_message()[0], b"HTTP/1.1 200 ")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._client.sock.close()
        if self._limited is not None:
            self._limited.sock.close()
