"""The reading half of an upstream connection: cuts answers out of its bytes and gives each to its receiver."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from proxy.core.errors import ProtocolError, UpstreamError
from proxy.core.sse import EventWatch
from proxy.wire.client_tls import release_write_buffer
from proxy.wire.connection import Connection
from proxy.wire.framing import BY_LENGTH, BodyReader, ChunkedReader, FramingError, reader_for
from proxy.wire.gate import ResponseError, ResponseHead
from proxy.wire.head import ResponseParser, read_response_head
from proxy.wire.receiver import Receiver

if TYPE_CHECKING:
    from proxy.wire.pool import Pool

READ_AT_ONCE = 65_536
"""Bytes of an answer taken in one go: what a slow client has not taken of them has to be kept."""
MAX_INFORMATIONAL = 10
"""1xx answers before the real one."""


class AnswerReader(Connection, asyncio.BufferedProtocol):
    """A connection to an origin, as far as it reads. What is asked there is said by `UpstreamConnection`."""

    __slots__ = (
        "_asked",
        "_head",
        "_informational",
        "_method",
        "_parser",
        "_pool",
        "_reader",
        "_receiver",
        "_saw_eof",
        "_splices",
    )

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool.loop)
        self._pool = pool
        self._receiver: Receiver | None = None
        self._method = ""
        self._parser: ResponseParser | None = None  # of a head that comes in pieces
        self._reader: BodyReader | None = None
        self._head: ResponseHead | None = None
        self._splices = False
        self._informational = 0
        self._asked = False  # a byte of the current request has been written
        self._saw_eof = False

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go: one place for all connections of a loop, since each empties it at once.

        A view: asyncio's TLS reads record after record into slices of it, and those of a bytearray are copies.
        """
        return self._pool.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take as many bytes out of it as have come."""
        self.data_received(bytes(self._pool.read_buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        """Take the next bytes of an answer."""
        if self._receiver is None or not self._asked:
            # Nobody asked: whatever this is, it must not become the answer of the exchange that comes next.
            self._fail(ProtocolError("it spoke before it was asked"))
            return
        self.deadline_s = self._loop.time() + self._pool.timeouts.idle_s
        try:
            while data and self._receiver is not None:
                data = self._read_head(data) if self._head is None else self._read_body(data)
        except (ResponseError, FramingError) as error:
            self._fail(ProtocolError(str(error)))

    def _read_head(self, data: bytes) -> bytes:
        receiver = self._receiver
        assert receiver is not None
        head = read_response_head(data, self._method) if self._parser is None else None
        if head is not None:
            end = head.size
        else:
            parser = self._parser = self._parser or ResponseParser()
            end = parser.feed(data)
            if end < 0:
                return b""
            head = parser.head(self._method)
            self._parser = None
        rest = data[end:] if end < len(data) else b""
        if rest:
            head.body_follows = True
        if head.status < 200:
            return self._read_informational(head, rest)
        self._head = head
        if len(rest) == head.content_length and head.framing is BY_LENGTH and rest:
            return self._read_at_once(head, rest)
        self._reader = reader_for(head.framing, head.content_length)
        self._splices = receiver.on_upstream_headers(head)
        if head.events is not None:
            # A stream may be long, and has as a rule had the whole of its request.
            head.forget_lines()
            release_write_buffer(self._transport)
        if self._reader is None and self._receiver is not None:
            self._end(has_extra=bool(rest))
            return b""
        return rest

    def _read_at_once(self, head: ResponseHead, body: bytes) -> bytes:
        """Pass on an answer that came in one piece."""
        receiver = self._receiver
        assert receiver is not None
        receiver.on_upstream_headers(head)
        if self._receiver is not None:
            if head.events is not None:
                head.events.feed(body)
            receiver.on_upstream_data(body)
            if self._receiver is not None:
                self._end()
        return b""

    def _read_informational(self, head: ResponseHead, rest: bytes) -> bytes:
        receiver = self._receiver
        assert receiver is not None
        if head.status == 101:
            if self._saw_eof:
                raise ResponseError("it switched protocols and was gone")
            self._switch(head, rest)
            return b""
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise ResponseError("too many 1xx answers")
        receiver.on_upstream_informational(head)
        return rest

    def _read_body(self, data: bytes) -> bytes:
        reader, receiver, head = self._reader, self._receiver, self._head
        assert reader is not None
        assert receiver is not None
        assert head is not None
        if self._splices:
            end = reader.read(data, None) if head.events is None else _watch_events(reader, head.events, data)
            receiver.on_upstream_data(data if end < 0 or end == len(data) else data[:end])
        else:
            pieces: list[bytes] = []
            end = reader.read(data, pieces)
            if pieces:
                piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                if head.events is not None:
                    head.events.feed(piece)
                receiver.on_upstream_data(piece)
        if end >= 0 and self._receiver is not None:
            self._end(has_extra=end < len(data))
        return b""

    # the other half's

    def _end(self, *, has_extra: bool = False) -> None:
        """The answer is whole; ``has_extra``: bytes came behind it that nobody asked for."""
        raise NotImplementedError

    def _switch(self, head: ResponseHead, data: bytes) -> None:
        """It goes over to another protocol; ``data`` is of that already. Raises ResponseError if nobody asked."""
        raise NotImplementedError

    def _fail(self, error: UpstreamError) -> None:
        """There will be no whole answer."""
        raise NotImplementedError


def _watch_events(reader: BodyReader, events: EventWatch, data: bytes) -> int:
    """Read a body that is passed on as it stands, and let its payload be watched; the offset behind its end."""
    if type(reader) is ChunkedReader:
        payload = reader.whole_chunk(data)
        if payload is not None:
            events.feed(payload)
            events.is_between_chunks = True
            return -1
    pieces: list[bytes] = []
    end = reader.read(data, pieces)
    for piece in pieces:
        events.feed(piece)
    events.is_between_chunks = reader.is_between_chunks
    return end
