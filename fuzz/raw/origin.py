"""The upstream of the attack: answers every request well, and notes each in the book."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from fuzz.raw.book import Book

_BODY = b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}'
_EVENT = b'data: {"id":"c"}\n\n'
_JSON = b"Content-Type: application/json\r\n"
_ANSWERS = (
    b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (_JSON, len(_BODY), _BODY),
    b"HTTP/1.1 200 OK\r\n%bTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (_JSON, len(_BODY), _BODY),
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"%x\r\n%b\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n" % (len(_EVENT), _EVENT),
    b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\n%bContent-Length: 2\r\n\r\n{}" % _JSON,
    b"HTTP/1.1 200 OK\r\n%bConnection: close\r\n\r\n%b" % (_JSON, _BODY),
)
_NEVER = frozenset(
    {
        b"x-forwarded-for",
        b"forwarded",
        b"x-real-ip",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"keep-alive",
        b"expect",
    }
)
"""Fields that must not come through."""


class Origin(asyncio.Protocol):
    """One connection of the gateway. ``found(rule, detail)`` is told what no gateway may send."""

    def __init__(self, book: Book, found: Callable[[str, object], None]) -> None:
        self._book = book
        self._found = found
        self._parser = httptools.HttpRequestParser(self)
        self._begin()

    def _begin(self) -> None:
        self._target = b""
        self._fields: list[tuple[bytes, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to answer."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # refused already, and the parser is of no more use
        except httptools.HttpParserError as error:
            self._found("what went upstream is not HTTP", f"{error}: {data[:200]!r}")
            self._transport.abort()

    def on_url(self, part: bytes) -> None:
        """The target, or a part of it."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """One line."""
        self._fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """A request has begun to arrive."""
        names = [name for name, _ in self._fields]
        values = dict(self._fields)
        method = self._parser.get_method().decode()
        self._book.arrive(method, self._target, values.get(b"authorization", b""))
        if names.count(b"host") != 1 or not values[b"host"].startswith(b"127.0.0.1:"):
            self._found("another host went upstream", values.get(b"host"))
        if names.count(b"authorization") != 1:
            self._found("not exactly one credential went upstream", self._fields)
        if _NEVER & set(names):
            self._found("a field crossed that must not", self._fields)
        if names.count(b"content-length") + names.count(b"transfer-encoding") > 1:
            self._found("a body went upstream that is framed twice", self._fields)
        if not self._target.startswith(b"/v1"):
            self._found("a path outside of the API went upstream", self._target)

    def on_message_complete(self) -> None:
        """It is whole: answer."""
        if self._parser.should_upgrade():
            # The one answer to it: a second one could be taken for that of the request that comes next.
            answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        elif self._parser.get_method() == b"HEAD":
            answer = _ANSWERS[0].partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        else:
            answer = _ANSWERS[self._book.arrived % len(_ANSWERS)]
        self._begin()
        if not self._transport.is_closing():
            self._transport.write(answer)
            if b"Connection: close" in answer:
                self._transport.close()
