"""The server side of the wire: accepts connections, cuts requests out of them, hands each to a delegate.

One connection goes round: HEAD → BODY → ANSWER → HEAD. While the delegate asks for time the connection is HELD:
bytes that arrive then wait in a small buffer, because a connection that is not read notices neither FIN nor RST.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from asyncio import Future
from collections.abc import Awaitable, Callable
from enum import Enum
from http.client import responses as REASONS
from typing import TYPE_CHECKING, cast

from tornado.httputil import HTTPServerConnectionDelegate, RequestStartLine

from proxy.core.headers import Field, Headers, encode
from proxy.wire.framing import BodyReader, ChunkedReader, Framing, FramingError, LengthReader
from proxy.wire.gate import RequestError, RequestHead
from proxy.wire.head import RequestParser
from proxy.wire.headers import WireHeaders
from proxy.wire.response import ResponseWriter, closed_future, set_reset_on_close, status_line

if TYPE_CHECKING:
    from tornado.httputil import HTTPMessageDelegate

    from proxy.wire.listener import Listener

log = logging.getLogger("sluice.wire")

READ_AHEAD = 65_536
"""Bytes kept of a connection while its delegate or its answer takes time."""
DISCARD_AT_MOST = 262_144
"""Bytes of an unwanted body that are read and thrown away to keep the connection."""
LINGER_S = 1.0
"""How long a closing connection is still read, so that the client gets our answer and not a reset."""
_NEVER = float("inf")
_TCP_CLOSED_STATES = (7, 8)  # TCP_CLOSE, TCP_CLOSE_WAIT of <netinet/tcp.h>


class State(Enum):
    """Where a connection stands."""

    HEAD = "head"
    BODY = "body"
    HELD = "held"
    ANSWER = "answer"
    DISCARD = "discard"
    LINGER = "linger"
    CLOSED = "closed"


class PeerContext:
    """Who is on the other side of a connection, in the words Tornado's own server uses."""

    __slots__ = ("address", "address_family", "peer_ip", "protocol", "remote_ip")

    def __init__(self, transport: asyncio.Transport, protocol: str) -> None:
        sock = transport.get_extra_info("socket")
        self.address = transport.get_extra_info("peername")
        self.address_family = sock.family if sock is not None else None
        inet = self.address_family in (socket.AF_INET, socket.AF_INET6) and bool(self.address)
        self.remote_ip = self.address[0] if inet else "0.0.0.0"
        self.protocol = protocol
        self.peer_ip: str | None = None  # the data plane's normalised form, worked out once

    def __str__(self) -> str:
        return self.remote_ip


class ServerConnection(asyncio.Protocol):
    """One connection from downstream."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._loop = listener.loop
        self._app: HTTPServerConnectionDelegate = listener.app
        self.max_body_bytes = 0
        self.body_timeout_s = listener.timeouts.body_s
        self.deadline_s = _NEVER
        self.keeps_alive = True
        self._state = State.HEAD
        self._parser: RequestParser | None = None
        self._reader: BodyReader | None = None
        self._delegate: HTTPMessageDelegate | None = None
        self._writer: ResponseWriter | None = None
        self._pending = b""
        self._body_ended = False
        self._body_bytes = 0
        self._discarded = 0
        self._is_consuming = False
        self._is_paused = False
        self._drained: Future[None] | None = None

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=READ_AHEAD)
        self._ready: Future[None] = self._loop.create_future()
        self._ready.set_result(None)
        self.context = PeerContext(self._transport, self._listener.protocol)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.deadline_s = self._loop.time() + self._listener.timeouts.header_s
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._pending or self._is_consuming:
            self._hold(data)
        else:
            self._consume(data)

    def eof_received(self) -> bool:
        """A client that closes its half is gone: it could not be told from one that left."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still works on an answer."""
        state, self._state = self._state, State.CLOSED
        self._listener.closed(self)
        self._pending = b""
        if self._drained is not None:
            drained, self._drained = self._drained, None
            if not drained.done():
                drained.set_result(None)
        delegate, writer = self._delegate, self._writer
        self._delegate = self._writer = None
        try:
            if delegate is not None and state in (State.BODY, State.HELD):
                delegate.on_connection_close()
            elif writer is not None:
                writer.client_left()
        except Exception:
            log.exception("a delegate failed when its client left")
        self._app.on_close(self)

    def pause_writing(self) -> None:
        """The client reads slowly: writes now answer a future that waits."""
        if self._drained is None:
            self._drained = self._loop.create_future()

    def resume_writing(self) -> None:
        """The client has caught up."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # the reading half

    def _consume(self, data: bytes) -> None:
        """Work through bytes as far as the state allows, and keep the rest."""
        self._is_consuming = True
        try:
            while data:
                state = self._state
                if state is State.HEAD:
                    data = self._read_head(data)
                elif state is State.BODY:
                    data = self._read_body(data)
                elif state is State.DISCARD:
                    data = self._discard(data)
                elif state in (State.HELD, State.ANSWER):
                    self._hold(data)
                    return
                else:
                    return
                if not data and self._pending:
                    data, self._pending = self._pending, b""
        except RequestError as error:
            self._refuse(error)
        except FramingError as error:
            self._refuse(RequestError(400, str(error)))
        except Exception:
            log.exception("a delegate failed")
            self.abort()
        finally:
            self._is_consuming = False

    def _read_head(self, data: bytes) -> bytes:
        parser = self._parser
        if parser is None:
            parser = self._parser = RequestParser(self._listener.max_header_bytes)
            self.deadline_s = self._loop.time() + self._listener.timeouts.header_s
        end = parser.feed(data)
        if end < 0:
            return b""
        head = parser.head()
        self._parser = None
        # Bytes behind the head wait in _pending while the delegate sees the head.
        self._pending = data[end:] + self._pending if end < len(data) else self._pending
        self._begin(head)
        data, self._pending = self._pending, b""
        return data

    def _begin(self, head: RequestHead) -> None:
        """Hand a new request to a new delegate."""
        self.keeps_alive = head.keep_alive and not self._listener.is_draining
        self.max_body_bytes = 0
        self._body_bytes = 0
        self._body_ended = False
        if head.framing is Framing.CHUNKED:
            self._reader = ChunkedReader()
        elif head.content_length:
            self._reader = LengthReader(head.content_length)
        else:
            self._reader = None
        self._state = State.BODY if self._reader is not None else State.ANSWER
        self.deadline_s = self._loop.time() + self.body_timeout_s if self._reader is not None else _NEVER
        writer = self._writer = ResponseWriter(self, head)
        delegate = self._delegate = self._app.start_request(self, writer)
        start_line = RequestStartLine(head.method, head.target.decode("latin-1"), f"HTTP/{head.version}")
        held = delegate.headers_received(start_line, WireHeaders(head.headers))
        self._body_ended = self._reader is None
        if held is not None:
            self._hold_for(held)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The delegate is ready for what comes next: the body, or its end."""
        if self._delegate is None or self._state not in (State.BODY, State.ANSWER):
            return
        if self._body_ended:
            self._state = State.ANSWER
            self.deadline_s = _NEVER
            self._delegate.finish()
        elif self._writer is not None and self._writer.head.expects_continue:
            self._writer.head.expects_continue = False
            if not self._pending and not self._writer.started:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, data: bytes) -> bytes:
        reader, delegate = self._reader, self._delegate
        assert reader is not None
        assert delegate is not None
        pieces: list[bytes] = []
        end = reader.read(data, pieces)
        rest = data[end:] if 0 <= end < len(data) else b""
        held: Awaitable[None] | None = None
        if pieces:
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._body_bytes += len(piece)
            if self.max_body_bytes and self._body_bytes > self.max_body_bytes:
                raise RequestError(413, "the body is too large")
            held = delegate.data_received(piece)
        if self._state is not State.BODY:
            # The answer is already out; what is left of the body is nobody's.
            if end < 0 or self._state is not State.DISCARD:
                return rest
            self._body_is_discarded()
            return rest
        self.deadline_s = self._loop.time() + self.body_timeout_s
        self._body_ended = end >= 0
        if held is not None and not (isinstance(held, Future) and held.done()):
            self._pending = rest + self._pending
            self._hold_for(held)
            return b""
        if end >= 0:
            self._go_on()
        return rest

    def _hold(self, data: bytes) -> None:
        """Keep bytes for later; past a bound stop reading, and poll instead whether the client is there."""
        self._pending += data
        if len(self._pending) > READ_AHEAD and not self._is_paused and self._state is not State.CLOSED:
            self._is_paused = True
            self._transport.pause_reading()
            self._listener.ticker.poll(self)

    def _hold_for(self, held: Awaitable[None]) -> None:
        self._state = State.HELD
        self.deadline_s = _NEVER
        future = asyncio.ensure_future(held)
        future.add_done_callback(self._release)

    def _release(self, future: Future[None]) -> None:
        """The delegate has had its time."""
        if future.cancelled() or future.exception() is not None:
            if self._state is not State.CLOSED:
                log.error("a delegate failed", exc_info=None if future.cancelled() else future.exception())
                self.abort()
            return
        if self._state is not State.HELD:
            return
        self._state = State.BODY
        self.deadline_s = self._loop.time() + self.body_timeout_s
        try:
            self._go_on()
        except Exception:
            log.exception("a delegate failed")
            self.abort()
            return
        self._consume_pending()

    def _consume_pending(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._listener.ticker.stop_polling(self)
            if not self._transport.is_closing():
                self._transport.resume_reading()
        if self._pending and not self._is_consuming:
            data, self._pending = self._pending, b""
            self._consume(data)

    def poll(self) -> None:
        """While nothing is read: has the client left? Only the kernel's state of the socket can tell."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or self._state is State.CLOSED:
            return
        try:
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        except (OSError, AttributeError):
            return
        if state in _TCP_CLOSED_STATES:
            self.abort()

    # the writing half

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._state is State.CLOSED or self._transport.is_closing()

    def write(self, data: bytes) -> Future[None]:
        """Write bytes; the future is done when more may be written."""
        transport = self._transport
        if transport.is_closing():
            return closed_future(self._loop)
        transport.write(data)
        return self._drained or self._ready

    def writable(self) -> Future[None]:
        """The future that is done when more may be written."""
        return self._drained or self._ready

    def settle_persistence(self) -> bool:
        """Decide, while the head is written, whether the connection will outlive the response."""
        if self._state in (State.BODY, State.HELD) and not self._body_ended and not self._is_small_rest():
            self.keeps_alive = False
        return self.keeps_alive

    def _is_small_rest(self) -> bool:
        reader, writer = self._reader, self._writer
        if writer is None or writer.head.expects_continue:
            return False  # such a client may send the body or not: the next bytes could be either
        return isinstance(reader, LengthReader) and reader.remaining <= DISCARD_AT_MOST

    def response_finished(self, writer: ResponseWriter, closes: bool) -> None:
        """The answer is whole: go round to the next request, or close."""
        if writer is not self._writer or self._state is State.CLOSED:
            return
        whole = self._body_ended or self._state is State.ANSWER
        self._delegate = self._writer = None
        if closes or not self.keeps_alive:
            if whole:
                self.close()
            else:
                self._linger()
        elif whole:
            self._next_request()
        else:
            self._state = State.DISCARD
            self._discarded = 0
            self.deadline_s = self._loop.time() + self.body_timeout_s
        if not self._is_consuming:
            self._consume_pending()

    def _next_request(self) -> None:
        self._state = State.HEAD
        self._reader = None
        self.body_timeout_s = self._listener.timeouts.body_s
        self.deadline_s = self._loop.time() + self._listener.timeouts.keep_alive_s
        if self._listener.is_draining:
            self.close()

    def _discard(self, data: bytes) -> bytes:
        """Throw away the rest of a body nobody waits for."""
        assert self._reader is not None
        self._discarded += len(data)
        if self._discarded > 2 * DISCARD_AT_MOST:
            self.close()
            return b""
        end = self._reader.read(data, None)
        if end < 0:
            return b""
        self._body_is_discarded()
        return data[end:]

    def _body_is_discarded(self) -> None:
        self._next_request()

    def _linger(self) -> None:
        """Say that nothing more comes, and read on for a moment so that the client is not reset."""
        self._state = State.LINGER
        self.deadline_s = self._loop.time() + LINGER_S
        if not self._transport.is_closing() and self._transport.can_write_eof():
            self._transport.write_eof()

    def _refuse(self, error: RequestError) -> None:
        """Answer a request that never became one, or broke off in its body, and close."""
        delegate, writer = self._delegate, self._writer
        self._delegate = self._writer = None
        parser, self._parser = self._parser, None
        if delegate is not None:
            delegate.on_connection_close()
        if writer is not None and writer.started:
            self.abort()
            return
        target = parser.target if parser is not None else b""
        headers = parser.headers if parser is not None else Headers()
        if writer is not None:
            target, headers = writer.head.target, writer.head.headers
        fields, body = self._listener.on_error(error, target, headers)
        self._transport.write(error_response(error.status, fields, body))
        self._linger()

    def on_deadline(self) -> None:
        """Something took too long: an idle connection, a slow head, a slow body, a client that does not close."""
        if (self._state is State.HEAD and self._parser is not None) or self._state is State.BODY:
            self._refuse(RequestError(408, "the request did not arrive in time"))
        elif self._state is State.LINGER:
            self.abort()
        else:
            self.close()

    def close(self) -> None:
        """Close when everything written has gone out."""
        self.deadline_s = _NEVER
        if not self._transport.is_closing():
            self._transport.close()

    def abort(self) -> None:
        """Close now, whatever has not gone out."""
        self.deadline_s = _NEVER
        self._transport.abort()

    def reset(self) -> None:
        """Close now with a reset, so that the end cannot be taken for the end of a body."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            set_reset_on_close(sock)
        self.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._state is State.HEAD and self._parser is None

    def __repr__(self) -> str:
        return f"<ServerConnection {self.context} {self._state.value}>"


def error_response(status: int, fields: list[Field], body: bytes) -> bytes:
    """A whole response that ends its connection."""
    reason = REASONS.get(status, "Error").encode()
    tail = b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body)
    return status_line(status, reason) + encode(fields) + tail + body


ErrorAnswer = Callable[[RequestError, bytes, Headers], tuple[list[Field], bytes]]
"""(error, target as far as known, headers as far as known) → (header lines, body)."""
