"""The reading half of a server connection: cuts requests out of its bytes and hands each to a delegate.

How it goes round is told by `proxy.wire.state`.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from tornado.httputil import HTTPMessageDelegate, RequestStartLine

from proxy.wire.connection import Connection
from proxy.wire.framing import FramingError
from proxy.wire.gate import RequestError, RequestHead
from proxy.wire.head import RequestParser
from proxy.wire.headers import WireHeaders
from proxy.wire.hold import Hold
from proxy.wire.read_ahead import ReadAhead
from proxy.wire.request_body import RequestBody
from proxy.wire.response import ResponseWriter
from proxy.wire.state import ANSWER, BODY, BUSY, HEAD, HELD

if TYPE_CHECKING:
    from proxy.wire.listener import Listener

log = logging.getLogger("sluice.wire")

HEADS_AT_ONCE = 16
"""Requests of one connection begun before the loop sees to others: a pipeline must not hold everybody else up."""
HEAD_SLICE = 8192
"""Bytes looked at in search of heads at a time: what is behind a head is copied for each."""


class HeadTaker(HTTPMessageDelegate):
    """A delegate that takes the head as it is, not only in Tornado's objects, which cost 2 µs to make."""

    def head_received(self, head: RequestHead) -> Awaitable[None] | None:
        """The head is in. What is answered holds the body back, as with ``headers_received``."""
        raise NotImplementedError


class RequestReader(Connection, asyncio.Protocol):
    """A connection from downstream, as far as it reads. Who answers is said by `ServerConnection`."""

    __slots__ = (
        "_ahead",
        "_app",
        "_delegate",
        "_hold",
        "_is_consuming",
        "_listener",
        "_parser",
        "_state",
        "_writer",
        "body",
        "is_reading_on",
        "keeps_alive",
    )
    _ahead: ReadAhead

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.loop)
        self._listener = listener
        self._app = listener.app
        self.body = RequestBody(listener.timeouts.body_s)
        self.keeps_alive = True
        self._state = HEAD
        self._parser: RequestParser | None = None
        self._delegate: HTTPMessageDelegate | None = None
        self._writer: ResponseWriter | None = None
        self._is_consuming = False
        self.is_reading_on = False  # what has come is being worked off, and the loop has its turn in between
        self._hold = Hold(self._release, self.abort)

    def data_received(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._ahead.waiting or self._is_consuming:
            self._ahead.keep(data)
        elif self._state is HEAD and len(data) > HEAD_SLICE:
            self._ahead.keep(data)
            self._consume_ahead()
        else:
            self._consume(data)

    def _consume(self, data: bytes) -> None:
        """Work through bytes as far as the state allows, and keep the rest."""
        self._is_consuming = True
        heads = 0
        try:
            while data and not self._transport.is_closing():
                state = self._state
                if state is HEAD:
                    if heads == HEADS_AT_ONCE:
                        self._ahead.put_back(data)
                        self.is_reading_on = True
                        self._loop.call_soon(self._read_on)
                        return
                    heads += 1
                    data = self._read_head(data)
                elif state is BODY:
                    data = self._read_body(data)
                elif state in BUSY:
                    self._ahead.keep(data)
                    return
                else:
                    return
                if not data:
                    data = self._take_ahead()
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
        known = self._listener.known_heads.find(data) if self._parser is None else None
        if known is not None:
            head, end = known
        else:
            parser, is_begun = self._parser, self._parser is not None
            if parser is None:
                parser = self._parser = RequestParser(self._listener.max_header_bytes)
                self.deadline_s = self._loop.time() + self._listener.timeouts.header_s
            end = parser.feed(data)
            if end < 0:
                return b""
            head = parser.head()
            self._parser = None
            if not is_begun:
                self._listener.known_heads.remember(data, head)
        # Bytes behind the head wait while the delegate sees the head.
        self._ahead.put_back(data[end:])
        self._begin(head)
        return self._take_ahead()

    def _begin(self, head: RequestHead) -> None:
        """Hand a new request to a new delegate."""
        self.keeps_alive = head.keep_alive
        self.body.begin(head)
        self._state = BODY
        self.deadline_s = self._loop.time() + self.body.timeout_s
        writer = self._writer = self._answer(head)
        delegate = self._delegate = self._app.start_request(self, writer)
        if isinstance(delegate, HeadTaker):
            held = delegate.head_received(head)
        else:
            start_line = RequestStartLine(head.method, head.target.decode("latin-1"), f"HTTP/{head.version}")
            held = delegate.headers_received(start_line, WireHeaders(head.headers))
        if self._delegate is not delegate:
            # It has answered already: nothing waits for it.
            return
        if held is not None:
            self._hold_for(held)
        else:
            self._go_on()

    def _go_on(self) -> None:
        """The delegate is ready for what comes next: the body, or its end."""
        if self._delegate is None or self._state is not BODY:
            return
        if self.body.has_ended:
            self._state = ANSWER
            self._watch_stall()
            self._delegate.finish()
        elif self._writer is not None:
            if self.body.max_bytes:
                self.body.check_announcement()
            if self.body.is_asked_for:
                self.body.is_asked_for = False
                if not self._ahead.waiting and not self._writer.started:
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _read_body(self, data: bytes) -> bytes:
        delegate = self._delegate
        assert delegate is not None
        payload, rest = self.body.take(data)
        if not self.body.has_ended:
            self.deadline_s = self._loop.time() + self.body.timeout_s
        held = delegate.data_received(payload) if payload else None
        if self._state is not BODY or self._delegate is not delegate:
            # The delegate has answered: what is left of the body is nobody's.
            return rest
        if held is not None and not (isinstance(held, Future) and held.done()):
            self._ahead.put_back(rest)
            self._hold_for(held)
            return b""
        if self.body.has_ended:
            self._go_on()
        return rest

    def _hold_for(self, held: Awaitable[None]) -> None:
        self._state = HELD
        self._watch_stall()
        self._hold.wait(held)

    def _release(self) -> None:
        """The delegate has had its time."""
        if self._state is not HELD:
            return
        self._state = BODY
        self.deadline_s = self._loop.time() + self.body.timeout_s
        try:
            self._go_on()
        except RequestError as error:
            self._refuse(error)
            return
        except Exception:
            log.exception("a delegate failed")
            self.abort()
            return
        self._consume_ahead()

    def _read_on(self) -> None:
        self.is_reading_on = False
        self._consume_ahead()

    def _consume_ahead(self) -> None:
        self._ahead.resume()
        if self._ahead.waiting and not self._is_consuming:
            self._consume(self._take_ahead())

    def _take_ahead(self) -> bytes:
        return self._ahead.take(HEAD_SLICE) if self._state is HEAD else self._ahead.take()

    # the other half's

    def _answer(self, head: RequestHead) -> ResponseWriter:
        """What a new request is answered through."""
        raise NotImplementedError

    def _refuse(self, error: RequestError) -> None:
        """Answer a request that never became one, or broke off in its body, and close."""
        raise NotImplementedError

    def _watch_stall(self) -> None:
        """From here on it is the client who can keep an answer waiting."""
        raise NotImplementedError
