"""One request on its way upstream: takes a connection, sends, and hands the answer to the delegate.

A connection that turns out dead before a byte was written to it is replaced once; after the first byte nothing
is ever sent again, because the upstream may have begun to work, and to bill.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from typing import Protocol

from proxy.core.errors import ProtocolError, UpstreamError
from proxy.core.exchange import MAYBE_SENT, NOT_SENT, SENT, Exchange
from proxy.wire.client import UpstreamConnection
from proxy.wire.gate import ResponseHead
from proxy.wire.pool import Pool


class AnswerTaker(Protocol):
    """Takes the upstream's answer; after ``on_answer_end`` or ``on_answer_error`` nothing more comes."""

    def on_answer_informational(self, head: ResponseHead) -> None:
        """A 1xx answer before the real one."""
        ...

    def on_answer_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """101: the connection is the taker's. Raises ResponseError if it did not ask for that."""
        ...

    def on_answer_headers(self, head: ResponseHead) -> bool:
        """The head is in. True = give the body as it stands on the wire, framing included."""
        ...

    def on_answer_data(self, data: bytes) -> None:
        """The next bytes of the body."""
        ...

    def on_answer_end(self) -> None:
        """The answer is whole."""
        ...

    def on_answer_error(self, error: UpstreamError) -> None:
        """There will be no (whole) answer."""
        ...


class Forward:
    """One forwarded request. ``head`` is its ready head; ``chunked`` says how its body is framed."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_dial",
        "_ended",
        "_exchange",
        "_has_body",
        "_is_retry",
        "_pool",
        "_queue",
        "_taker",
        "_waiting",
        "on_upstream_data",
    )

    def __init__(self, exchange: Exchange, pool: Pool, taker: AnswerTaker, head: bytes, *, chunked: bool) -> None:
        self._exchange = exchange
        self._pool = pool
        self._taker: AnswerTaker | None = taker
        self._chunked = chunked
        self._queue = head  # bytes that are not written yet
        self._has_body = False
        self._ended = False
        self._is_retry = False
        self._connection: UpstreamConnection | None = None
        self._dial: asyncio.Task[None] | None = None
        self._waiting: Future[None] | None = None
        # Straight to whoever takes it: of nothing else do so many come.
        self.on_upstream_data = taker.on_answer_data

    # sending

    def start(self) -> Future[None] | None:
        """Take a connection. None = ready; else a future that is done when one stands, or when it failed."""
        connection = self._pool.acquire()
        if connection is not None:
            self._connection = connection
            connection.begin(self, self._exchange.method)
            return None
        return self._dial_one()

    def _dial_one(self) -> Future[None]:
        self._waiting = self._pool.loop.create_future()
        self._dial = self._pool.dial(self._on_connected, self.on_upstream_error)
        return self._waiting

    def write(self, data: bytes) -> Future[None] | None:
        """Send a piece of the body; None = more is welcome, else a future that says when."""
        self._has_body = True
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if self._queue:
            data, self._queue = self._queue + data, b""
        return self._send(data)

    def end(self) -> None:
        """The body is whole."""
        self._ended = True
        tail = b"0\r\n\r\n" if self._chunked else b""
        if self._queue or tail:
            data, self._queue = self._queue + tail, b""
            self._send(data)
        connection = self._connection
        if connection is not None:
            connection.request_ended()

    def _send(self, data: bytes) -> Future[None] | None:
        connection = self._connection
        if connection is None:
            # Dialling, or failed: then nobody will ever ask for it.
            self._queue += data
            return self._waiting
        if self._exchange.upstream_sent is NOT_SENT:
            if connection.is_closing:
                self._queue += data
                connection.abandon()
                self.on_upstream_error(ProtocolError("the connection ended before the request was sent"))
                return self._waiting
            self._exchange.upstream_sent = MAYBE_SENT
        writable = connection.write(data)
        return None if writable.done() else writable

    def _on_connected(self, connection: UpstreamConnection) -> None:
        self._dial = None
        if self._taker is None:
            connection.close()
            return
        self._connection = connection
        connection.begin(self, self._exchange.method)
        if self._ended or self._has_body:
            data, self._queue = self._queue, b""
            self._send(data)
        if self._ended:
            connection.request_ended()
        self._release()

    def _release(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def cancel(self) -> None:
        """Nobody wants the answer any more."""
        self._taker = None
        self.on_upstream_data = _drop
        self._release()
        if self._dial is not None:
            self._dial.cancel()
            self._dial = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()

    def give_to(self, taker: AnswerTaker) -> None:
        """Let somebody else take the rest of the answer."""
        self._taker = taker
        self.on_upstream_data = taker.on_answer_data

    # flow control of the answer

    def pause(self) -> None:
        """The client is slow: take no more of the answer for now."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        """The client has caught up."""
        if self._connection is not None:
            self._connection.resume_reading()

    # the connection's callbacks

    def on_upstream_informational(self, head: ResponseHead) -> None:
        """Pass it on, and note that the upstream has the request."""
        self._exchange.upstream_sent = SENT
        if self._taker is not None:
            self._taker.on_answer_informational(head)

    def on_upstream_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """Give the connection away; from here on this object has nothing to do with it."""
        self._exchange.upstream_sent = SENT
        if self._taker is not None:
            self._taker.on_answer_switch(head, connection, data)
            self._connection = self._taker = None

    def on_upstream_headers(self, head: ResponseHead) -> bool:
        """Pass the head on, and note that the upstream has the request."""
        self._exchange.upstream_sent = SENT
        taker = self._taker
        return taker is not None and taker.on_answer_headers(head)

    def on_upstream_end(self) -> None:
        """Pass the end on."""
        self._connection = None
        if self._waiting is not None:
            self._release()
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.on_answer_end()

    def on_upstream_error(self, error: UpstreamError) -> None:
        """Dial anew if nothing was written to a connection from the pool, else pass the failure on."""
        was_connected, self._connection = self._connection is not None, None
        if was_connected and not self._is_retry and self._exchange.upstream_sent is NOT_SENT:
            self._is_retry = True
            self._dial_one()
            return
        self._dial = None
        taker, self._taker = self._taker, None
        if taker is not None:
            taker.on_answer_error(error)
        self._release()


def _drop(data: bytes) -> None:
    """Take bytes that nobody wants any more."""
