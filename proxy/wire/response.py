"""The writing half of one server exchange: Tornado's `HTTPConnection`, and a way to pass bytes on as they came."""

from __future__ import annotations

import re
from asyncio import Future
from collections.abc import Callable
from http.client import responses as REASONS
from typing import TYPE_CHECKING, Any

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPOutputError, RequestStartLine, ResponseStartLine

from proxy.core.headers import Field, Headers, encode
from proxy.wire.framing import BY_CHUNKS, BY_CLOSE, BY_LENGTH, NO_BODY, Framing
from proxy.wire.headers import lines_of

if TYPE_CHECKING:
    from proxy.wire.gate import RequestHead
    from proxy.wire.peer import PeerContext
    from proxy.wire.server import ServerConnection

_STATUS_LINES = {status: b"HTTP/1.1 %d %b\r\n" % (status, text.encode()) for status, text in REASONS.items()}
_BODYLESS = (204, 304)
_LINE_BREAKER = re.compile(rb"[\r\n\0]")


class ResponseWriter(HTTPConnection):
    """Answers one request. ``write_headers``, ``write`` and ``finish`` are Tornado's contract.

    ``start`` and ``splice`` are the data plane's: header lines and body bytes go out as they came in.
    """

    __slots__ = (
        "_close_callback",
        "_connection",
        "_corked",
        "_finished",
        "_forsaken",
        "_framing",
        "_remaining",
        "context",
        "head",
        "started",
        "wants_websocket",
    )

    can_splice = True

    def __init__(self, connection: ServerConnection, head: RequestHead) -> None:
        self._connection = connection
        self.context: PeerContext = connection.context
        """Who is on the other side: ``address``, ``remote_ip``, ``protocol``."""
        self.head = head
        self.wants_websocket = head.wants_websocket
        """Whether the client asked to go over to WebSocket, and could."""
        self.started = False
        self._finished = False
        self._forsaken = False
        self._corked = b""  # a head that waits for the first bytes of its body: one system call for both
        self._framing = NO_BODY
        self._remaining = -1  # bytes the announced Content-Length still owes; -1 = none was announced
        self._close_callback: Callable[[], None] | None = None

    # Tornado's contract

    @property
    def no_keep_alive(self) -> bool:
        """Whether the connection ends with this response."""
        return not self._connection.keeps_alive

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves after its request was whole and before the answer is."""
        self._close_callback = callback

    def set_max_body_size(self, max_body_size: int) -> None:
        """Set how many bytes this request's body may have."""
        self._connection.body.max_bytes = max_body_size

    def set_body_timeout(self, timeout: float) -> None:
        """Set the longest gap in seconds between two pieces of this request's body."""
        self._connection.body.timeout_s = timeout

    def detach(self) -> Any:
        """Not offered: the wire has no stream to give away."""
        raise NotImplementedError("this server cannot detach its stream")

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        """Write the head; the body is framed by its Content-Length, else in chunks, else by the end.

        Raises ValueError for a head that a client could read in more than one way.
        """
        assert isinstance(start_line, ResponseStartLine)
        lines = lines_of(headers)
        if _announces_length(lines):
            framing = BY_LENGTH
        elif self.head.version == "1.1":
            framing = BY_CHUNKS
        else:
            framing = BY_CLOSE
        reason = start_line.reason.encode("latin-1")
        if _LINE_BREAKER.search(reason) or any(_LINE_BREAKER.search(line[:-2]) for _, line, _ in lines.fields):
            raise ValueError("a header holds a line feed, carriage return or NUL")
        return self.start(start_line.code, reason, lines, framing, chunk or b"")

    def write(self, chunk: bytes) -> Future[None]:
        """Write a piece of the body in the framing of the head. Raises HTTPOutputError if there is no head yet."""
        if self._finished:
            return self._connection.refused()
        if not self.started:
            raise HTTPOutputError("a body was written before its head")
        if not chunk:
            return self._connection.writable()
        return self.splice(self._framed(chunk))

    def finish(self) -> None:
        """End the response. Raises HTTPOutputError if there is none, or fewer bytes of it than announced."""
        if self._finished:
            return
        self._finished = True
        if not self.started and not self._connection.is_closing:
            # The next answer on this connection would be taken for this one.
            self._connection.abort()
            raise HTTPOutputError("the response ended before it began")
        if self._remaining > 0 and not self._connection.is_closing:
            self._connection.abort()
            raise HTTPOutputError(f"{self._remaining} bytes fewer were written than Content-Length announced")
        tail = b"0\r\n\r\n" if self._framing is BY_CHUNKS else b""
        if tail or self._corked:
            self.splice(tail)
        self._connection.response_finished(self, self._framing is BY_CLOSE)

    # the data plane's

    def start(
        self,
        status: int,
        reason: bytes,
        headers: Headers,
        framing: Framing,
        chunk: bytes = b"",
        *,
        splice: bool = False,
        body_follows: bool = False,
    ) -> Future[None]:
        """Write the head; with ``splice`` the body comes framed already, through `splice`.

        With ``body_follows`` the head goes out together with the first bytes of the body.
        """
        if self._finished:
            return self._connection.refused()
        self.started = True
        if self.head.method == "HEAD" or status in _BODYLESS or status < 200:
            framing = NO_BODY
            if status == 204 or status < 200:
                headers = Headers([field for field in headers.fields if field[0] != b"content-length"])
        lines = [status_line(status, reason), headers.encode()]
        if framing is BY_CHUNKS:
            lines.append(b"Transfer-Encoding: chunked\r\n")
        elif framing is BY_LENGTH and not splice:
            self._remaining = int(headers.get(b"content-length") or 0)
        self._framing = NO_BODY if splice and framing is not BY_CLOSE else framing
        if framing is BY_CLOSE or not self._connection.settle_persistence():
            lines.append(b"Connection: close\r\n")
        elif self.head.version == "1.0":
            lines.append(b"Connection: keep-alive\r\n")
        lines.append(b"\r\n")
        if chunk:
            lines.append(self._framed(chunk))
        if body_follows:
            self._corked = b"".join(lines)
            return self._connection.writable()
        return self._connection.write(b"".join(lines))

    def splice(self, data: bytes) -> Future[None]:
        """Write bytes of the body that are framed already."""
        if self._forsaken:
            return self._connection.refused()
        if self._corked:
            data, self._corked = self._corked + data, b""
        return self._connection.write(data)

    def splice_end(self) -> None:
        """End a response whose body was framed already."""
        if not self._finished:
            self._finished = True
            if self._corked:
                self.splice(b"")
            self._connection.response_finished(self, False)

    def inform(self, status: int, reason: bytes, headers: Headers) -> None:
        """Write a 1xx answer before the real one; HTTP/1.0 knows none (RFC 9110 section 15.2)."""
        if not self.started and not self._forsaken and self.head.version == "1.1":
            self._connection.write(status_line(status, reason) + headers.encode() + b"\r\n")

    def switch(self, headers: Headers) -> tuple[ServerConnection, bytes]:
        """Answer 101 and give the connection away, with the bytes that have come behind the request."""
        self.started = self._finished = True
        self._connection.write(status_line(101, b"Switching Protocols") + headers.encode() + b"\r\n")
        return self._connection, self._connection.hand_over()

    @property
    def ends_by_close(self) -> bool:
        """Whether the end of the connection would be taken for the end of what has begun."""
        return self.started and not self._finished and self._framing is BY_CLOSE

    def abort(self) -> None:
        """Break the connection off so that the client cannot take what it has for the whole answer."""
        ends_by_close = self.ends_by_close
        self._finished = True
        if self._corked:
            self.splice(b"")
        if ends_by_close:
            # Here a clean end would be the end of the body: only a reset tells.
            self._connection.reset()
        else:
            self._connection.close()

    # the connection's

    def forsake(self) -> None:
        """The connection has answered in the delegate's place: whatever it still writes goes nowhere."""
        self._finished = self._forsaken = True

    def client_left(self) -> None:
        """The connection is gone before the answer was whole."""
        callback = self._close_callback
        self._close_callback = None
        if callback is not None and not self._finished:
            callback()

    def _framed(self, chunk: bytes) -> bytes:
        if self._framing is BY_CHUNKS:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        if self._framing is NO_BODY:
            return b""
        if self._remaining >= 0:
            self._remaining -= len(chunk)
            if self._remaining < 0:
                self._connection.abort()
                raise HTTPOutputError("more bytes were written than Content-Length announced")
        return chunk


def _announces_length(lines: Headers) -> bool:
    """Whether a head of a delegate's making has a Content-Length.

    Raises ValueError if that is not one decimal number, and for a Transfer-Encoding, which is the wire's to choose
    (RFC 9112 sections 6.1 and 6.2).
    """
    lengths = lines.get_all(b"content-length")
    if len(lengths) > 1 or (lengths and not lengths[0].isdigit()):
        raise ValueError("Content-Length is not one decimal number")
    if lines.get(b"transfer-encoding") is not None:
        raise ValueError("Transfer-Encoding is not for a delegate to set")
    return bool(lengths)


def status_line(status: int, reason: bytes) -> bytes:
    """The status line, ready for the wire."""
    line = _STATUS_LINES.get(status)
    if line is not None and line[13:-2] == reason:
        return line
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def error_response(status: int, fields: list[Field], body: bytes) -> bytes:
    """A whole response that ends its connection."""
    reason = REASONS.get(status, "Error").encode()
    tail = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return status_line(status, reason) + encode(fields) + tail + body
