"""The server side of the wire: one connection, from its first request to its end.

How it goes round is told by `proxy.wire.state`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from proxy.core.headers import Headers
from proxy.wire.connection import NEVER, unsent_bytes
from proxy.wire.gate import RequestError, RequestHead
from proxy.wire.linger import Linger
from proxy.wire.peer import PeerContext
from proxy.wire.read_ahead import ReadAhead
from proxy.wire.request_body import Nobody
from proxy.wire.request_reader import RequestReader
from proxy.wire.response import ResponseWriter, error_response
from proxy.wire.state import BODY, BUSY, CLOSED, FLUSH, HEAD, HELD, LINGER, TUNNEL, UNDER_WAY

if TYPE_CHECKING:
    from proxy.wire.listener import Listener

log = logging.getLogger("sluice.wire")


class ServerConnection(RequestReader):
    """One connection from downstream: what `RequestReader` reads it answers, and watches its time."""

    __slots__ = ("_unsent", "context")

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._unsent = 0

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._ahead = ReadAhead(self._transport, self._listener.ticker, self.abort)
        self.context = PeerContext(self._transport, self._listener.protocol)
        self.deadline_s = self._loop.time() + self._listener.timeouts.header_s
        self._app = self._listener.opened(self)
        if not self.context.is_known:
            # It was reset before it was accepted, and yet its bytes are there to be read.
            self.abort()

    def eof_received(self) -> bool:
        """A client that closes its half is gone: it could not be told from one that left."""
        if self._writer is not None and self._transport.get_write_buffer_size():
            # What the client does not take would keep a closing transport, and its upstream, open.
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever still works on an answer."""
        state, self._state = self._state, CLOSED
        self._listener.closed(self)
        self._ahead.close()
        self._hold.forget()
        super().connection_lost(exc)
        delegate, writer = self._delegate, self._writer
        self._delegate = self._writer = None
        try:
            if delegate is not None and state in (BODY, HELD):
                delegate.on_connection_close()
            elif writer is not None:
                writer.client_left()
        except Exception:
            log.exception("a delegate failed when its client left")
        self._app.on_close(self)

    # the writing half

    def _answer(self, head: RequestHead) -> ResponseWriter:
        return ResponseWriter(self, head)

    def settle_persistence(self) -> bool:
        """Decide, while the head is written, whether the connection will outlive the response."""
        if not self._listener.keeps_connections or self._app is not self._listener.app:
            self.keeps_alive = False
        if self._state in (BODY, HELD) and not self.body.has_ended:
            # A client that waits to be told to go on may send the body or not: the next bytes could be either.
            is_waiting = self._writer is None or self.body.is_asked_for
            self.keeps_alive = self.keeps_alive and self.body.is_soon_over and not is_waiting
        return self.keeps_alive

    def response_finished(self, writer: ResponseWriter, closes: bool) -> None:
        """The answer is whole: go round to the next request, or close."""
        if writer is not self._writer or self._state is CLOSED:
            return
        whole = self.body.has_ended
        self._hold.forget()
        self._delegate = self._writer = None
        if closes or not self.keeps_alive:
            if whole:
                self._state = LINGER
                self.close()
            else:
                self._linger()
        elif whole:
            self.next_request()
        else:
            self._state = BODY
            self.body.max_bytes = 0
            self._delegate = Nobody(self.next_request)
            self.deadline_s = self._loop.time() + self.body.timeout_s
        if not self._is_consuming and (self._ahead.waiting or self._ahead.is_paused):
            self._consume_ahead()

    def next_request(self) -> None:
        """Wait for the next request on this connection, once the client has caught up with its answers."""
        if self._drained is not None:
            self._state = FLUSH
            self._allow_stall()
            return
        self._state = HEAD
        self.deadline_s = self._loop.time() + self._listener.timeouts.keep_alive_s
        if self._listener.is_draining:
            self.close()

    def _linger(self) -> None:
        self._state = LINGER
        self._ahead.take()
        self._ahead.resume()
        Linger(self, self._listener.ticker)

    def hand_over(self) -> bytes:
        """The client's next protocol is not HTTP: leave the transport to whoever asked; what had come already."""
        self._state = TUNNEL
        self._delegate = self._writer = None
        data = self._ahead.take()
        self._ahead.resume()
        return data

    # the clock

    def pause_writing(self) -> None:
        """The client takes its answer slowly: it has ``write_s`` to take some of it."""
        super().pause_writing()
        if self._state in BUSY:
            self._allow_stall()

    def resume_writing(self) -> None:
        """The client has caught up."""
        super().resume_writing()
        if self._state is FLUSH:
            self.next_request()
            if not self._is_consuming:
                self._consume_ahead()
        elif self._state in BUSY and not self.is_closing:
            self.deadline_s = NEVER

    def _watch_stall(self) -> None:
        """An answer may have begun before its request was whole: then its client may be slow already."""
        if self._drained is None:
            self.deadline_s = NEVER
        else:
            self._allow_stall()

    def _allow_stall(self) -> None:
        self._unsent = unsent_bytes(self._transport)
        self.deadline_s = self._loop.time() + self._listener.timeouts.write_s

    def _refuse(self, error: RequestError) -> None:
        """Answer a request that never became one, or broke off in its body, and close."""
        delegate, writer = self._delegate, self._writer
        if writer is not None and writer.started:
            self.abort()
            return
        refuse = getattr(delegate, "refuse", None)
        if refuse is not None:
            # It knows what the upstream has had of it, and keeps the log.
            self.keeps_alive = False
            refuse(error)
            return
        self._delegate = self._writer = None
        parser, self._parser = self._parser, None
        if delegate is not None:
            delegate.on_connection_close()
        if writer is not None:
            writer.forsake()
        target = parser.target if parser is not None else b""
        headers = parser.headers if parser is not None else Headers()
        if writer is not None:
            target, headers = writer.head.target, writer.head.headers
        fields, body = self._listener.on_error(error, target, headers)
        self._transport.write(error_response(error.status, fields, body))
        self._linger()

    def on_deadline(self) -> None:
        """Something took too long: an idle connection, a slow head, a slow body, a client that takes no answer."""
        if self.is_closing:
            self.abort()
        elif (self._state is HEAD and self._parser is not None) or (self._state is BODY and self._writer is not None):
            self._refuse(RequestError(408, "the request did not arrive in time"))
        elif self._state in BUSY:
            before = self._unsent
            self._allow_stall()
            if self._unsent >= before:
                log.info("%s has taken nothing of its answer for write_timeout_s", self.context)
                self.abort()
        else:
            self.close()

    def abort(self) -> None:
        """Close now, so that an answer which the close itself would end is not taken for whole."""
        writer = self._writer
        if writer is not None and writer.ends_by_close:
            self.reset()
        else:
            super().abort()

    def cut(self) -> None:
        """End at once what is under way; a delegate that knows how tells the client why."""
        cut = getattr(self._delegate, "cut", None)
        if cut is None:
            self.abort()
        else:
            cut()

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._state is HEAD and self._parser is None

    @property
    def is_under_way(self) -> bool:
        """Whether somebody would miss something if it were cut."""
        return self._state in UNDER_WAY

    def __repr__(self) -> str:
        return f"<ServerConnection {self.context} {self._state.value}>"
