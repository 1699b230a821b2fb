"""The body of a request as it comes in: where it ends, and how much of it and how slowly it may come."""

from __future__ import annotations

from collections.abc import Callable

from tornado.httputil import HTTPMessageDelegate

from proxy.wire.framing import BY_CHUNKS, BY_LENGTH, NO_BODY, BodyReader, reader_for
from proxy.wire.gate import RequestError, RequestHead

DISCARD_AT_MOST = 262_144
"""Bytes of an unwanted body that are read and thrown away to keep the connection."""


class RequestBody:
    """The body that a connection is reading, one after the other.

    ``max_bytes`` (0 = no cap) and ``timeout_s`` (the longest gap between two pieces) are the current request's.
    """

    __slots__ = (
        "_announced",
        "_framing",
        "_reader",
        "_received",
        "_usual_timeout_s",
        "has_ended",
        "is_asked_for",
        "max_bytes",
        "timeout_s",
    )

    def __init__(self, timeout_s: float) -> None:
        self._usual_timeout_s = timeout_s
        self._reader: BodyReader | None = None
        self._framing = NO_BODY
        self._announced = 0
        self._received = 0
        self.has_ended = False
        self.is_asked_for = False  # the client waits to be told to go on (RFC 9110 section 10.1.1)
        self.max_bytes = 0
        self.timeout_s = timeout_s

    def begin(self, head: RequestHead) -> None:
        """Expect the body that this head announces; there may be none."""
        self._reader = None
        self._framing = head.framing
        self._announced = head.content_length
        self._received = 0
        self.has_ended = not (head.content_length or head.framing is BY_CHUNKS)
        self.is_asked_for = head.expects_continue
        self.max_bytes = 0
        self.timeout_s = self._usual_timeout_s

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """(payload, what is behind the body) of the next bytes. Raises FramingError; RequestError if too large."""
        if len(data) == self._announced and not self._received and not self.max_bytes:
            # The whole of a body of known length, as nearly all are.
            self._received = len(data)
            self.has_ended = True
            return data, b""
        reader = self._reader = self._reader or reader_for(self._framing, self._announced)
        assert reader is not None
        pieces: list[bytes] = []
        end = reader.read(data, pieces)
        self.has_ended = end >= 0
        rest = data[end:] if 0 <= end < len(data) else b""
        if not pieces:
            return b"", rest
        payload = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._received += len(payload)
        if self.max_bytes and self._received > self.max_bytes:
            raise _too_large()
        return payload, rest

    def check_announcement(self) -> None:
        """Raises RequestError if more is announced than welcome: then it need not come at all."""
        if 0 < self.max_bytes < self._announced:
            raise _too_large()

    @property
    def is_soon_over(self) -> bool:
        """Whether little enough is left that reading it costs less than another connection."""
        return self._framing is BY_LENGTH and self._announced - self._received <= DISCARD_AT_MOST


class Nobody(HTTPMessageDelegate):
    """Takes the rest of a body whose request is answered already; then the connection goes on."""

    def __init__(self, go_on: Callable[[], None]) -> None:
        self._go_on = go_on

    def finish(self) -> None:
        """The rest has come."""
        self._go_on()


def _too_large() -> RequestError:
    return RequestError(413, "the body is too large")
