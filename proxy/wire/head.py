"""Message heads: httptools reads them, however their bytes are cut; then they pass the gate."""

from __future__ import annotations

from contextlib import suppress

from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

from proxy.core.headers import Field, Headers
from proxy.wire.framing import Framing
from proxy.wire.gate import RequestError, RequestHead, ResponseError, ResponseHead, check_request, check_response

MAX_FIELDS = 100
"""Header lines of one message."""

_HEAD_END = b"\r\n\r\n"


class _Collector:
    """Receives httptools' callbacks for one head."""

    __slots__ = ("complete", "fields", "reason", "target")

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.target = b""
        self.reason = b""
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_status(self, status: bytes) -> None:
        self.reason += status

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), name, value))

    def on_headers_complete(self) -> None:
        self.complete = True


class _Cutter:
    """Feeds exactly one head to httptools, however its bytes are cut."""

    __slots__ = ("_feed_parser", "_max_bytes", "_size", "_tail")

    def __init__(self, parser: HttpRequestParser | HttpResponseParser, max_bytes: int) -> None:
        self._feed_parser = parser.feed_data
        self._max_bytes = max_bytes
        self._size = 0
        self._tail = b""  # the last bytes seen, in case the end of the head is cut in two

    def cut(self, data: bytes) -> int:
        """The offset behind the head's end, or -1. Raises httptools' errors, and OverflowError if too long."""
        tail = self._tail
        found = (tail + data if tail else data).find(_HEAD_END)
        if found < 0:
            self._size += len(data)
            if self._size > self._max_bytes:
                raise OverflowError
            self._feed_parser(data)
            self._tail = (tail + data)[-3:]
            return -1
        end = found + 4 - len(tail)
        if self._size + end > self._max_bytes:
            raise OverflowError
        # At an upgrade the parser stops behind the head, which is where this one stops anyway.
        with suppress(HttpParserUpgrade):
            self._feed_parser(data if end == len(data) else data[:end])
        return end


class RequestParser:
    """Reads one request head, from the first byte to the gate."""

    __slots__ = ("_collector", "_cutter", "_parser")

    def __init__(self, max_bytes: int) -> None:
        self._collector = _Collector()
        self._parser = HttpRequestParser(self._collector)
        self._cutter = _Cutter(self._parser, max_bytes)

    @property
    def target(self) -> bytes:
        """What is known of the target so far, for an error answer in the right shape."""
        return self._collector.target

    @property
    def headers(self) -> Headers:
        """What is known of the headers so far, for an error answer in the right language."""
        return Headers(self._collector.fields)

    def feed(self, data: bytes) -> int:
        """Take the next bytes; the offset behind the head's end, or -1. Raises RequestError."""
        try:
            end = self._cutter.cut(data)
        except OverflowError:
            raise RequestError(431, "the headers are too large") from None
        except HttpParserInvalidMethodError:
            raise RequestError(405, "the method is unknown") from None
        except HttpParserError as error:
            raise RequestError(400, _plain(error)) from None
        if len(self._collector.fields) > MAX_FIELDS:
            raise RequestError(431, f"there are more than {MAX_FIELDS} header lines")
        if self._collector.complete != (end >= 0):
            raise RequestError(400, "the request line is missing or malformed")
        return end

    def head(self) -> RequestHead:
        """The whole head, checked. Raises RequestError."""
        method = self._parser.get_method().decode("ascii")
        version = self._parser.get_http_version()
        head = RequestHead(method, self._collector.target, version, Headers(self._collector.fields))
        check_request(head)
        return head


class ResponseParser:
    """Reads one response head, from the first byte to the gate."""

    __slots__ = ("_collector", "_cutter", "_parser")

    def __init__(self, max_bytes: int = 262_144) -> None:
        self._collector = _Collector()
        self._parser = HttpResponseParser(self._collector)
        self._cutter = _Cutter(self._parser, max_bytes)

    def feed(self, data: bytes) -> int:
        """Take the next bytes; the offset behind the head's end, or -1. Raises ResponseError."""
        try:
            end = self._cutter.cut(data)
        except OverflowError:
            raise ResponseError("the head is too large") from None
        except HttpParserError as error:
            raise ResponseError(_plain(error)) from None
        if self._collector.complete != (end >= 0):
            raise ResponseError("the status line is malformed")
        return end

    def head(self, request_method: str) -> ResponseHead:
        """The whole head, checked; the request's method decides if there is a body. Raises ResponseError."""
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        head = ResponseHead(status, self._collector.reason, version, Headers(self._collector.fields))
        check_response(head)
        if request_method == "HEAD" or status in (204, 304) or status < 200:
            head.framing = Framing.NONE
        return head


def _plain(error: HttpParserError) -> str:
    """httptools' reason as part of a sentence."""
    text = str(error).strip() or "it is not HTTP"
    return text[0].lower() + text[1:].replace("`", "'")
