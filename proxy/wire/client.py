"""The client side of the wire: one connection to an origin, and the answers that come over it."""

from __future__ import annotations

import asyncio
import os
import select
from asyncio import Future
from contextlib import suppress
from typing import TYPE_CHECKING

from proxy.core.errors import ProtocolError, ReadTimeout, UpstreamError
from proxy.wire.answer_reader import AnswerReader
from proxy.wire.client_tls import ended_properly, forget_certificate
from proxy.wire.connection import NEVER
from proxy.wire.framing import BY_CLOSE, CloseReader
from proxy.wire.gate import ResponseHead
from proxy.wire.receiver import Receiver

if TYPE_CHECKING:
    import socket

    from proxy.wire.pool import Pool


class UpstreamConnection(AnswerReader):
    """One connection to an origin; carries one request at a time."""

    __slots__ = ("_ended_properly", "_is_paused", "_request_ended", "_unread")

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self._request_ended = False
        self._is_paused = False
        self._ended_properly = False  # and not by whoever could end a connection on the way

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection, TLS handshake included, stands."""
        super().connection_made(transport)
        self._unread = _watch_unread(self._socket)
        forget_certificate(transport)
        self._pool.opened(self)

    def eof_received(self) -> bool:
        """The origin has closed its half."""
        self._saw_eof = True
        self._ended_properly = ended_properly(self._transport)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone: the end of a close-delimited body, or a failure."""
        self._pool.closed(self)
        super().connection_lost(exc)
        if exc is not None and self._receiver is not None and self._asked:
            self._read_last_words()
        if self._receiver is None:
            return
        if exc is None and self._ended_properly and isinstance(self._reader, CloseReader):
            self._end()
        else:
            self._fail(ProtocolError(f"the connection ended early: {exc or 'closed by the upstream'}"))

    def _read_last_words(self) -> None:
        """Take what the origin had sent before the connection broke.

        Who refuses an upload answers and closes, and that close is a reset because of what it has not read. Our next
        write then fails, and the transport drops the answer that waits in the kernel (RFC 9112 section 9.6).
        """
        self._saw_eof = True  # it is of no use to the next exchange
        if self._socket is None or self._transport.get_extra_info("ssl_object") is not None:
            return
        with suppress(OSError):
            while self._receiver is not None and (data := os.read(self._socket.fileno(), 65_536)):
                self.data_received(data)

    # one exchange

    def begin(self, receiver: Receiver, method: str) -> None:
        """Give the next answer to ``receiver``; ``method`` decides whether it has a body."""
        self._receiver = receiver
        self._method = method
        self._parser = None
        self._reader = None
        self._head = None
        self._informational = 0
        self._request_ended = False
        self._asked = False
        self.deadline_s = NEVER

    def write(self, data: bytes) -> Future[None]:
        """Send bytes of the request; the future is done when more is welcome."""
        self._asked = True
        transport = self._transport
        if transport.is_closing():
            return self.refused()
        transport.write(data)
        return self._drained or self._ready

    def pause_writing(self) -> None:
        """The upstream takes the request slowly: it has ``idle_s`` to take some of it."""
        super().pause_writing()
        if self._receiver is not None and self._head is None:
            self.deadline_s = self._loop.time() + self._pool.timeouts.idle_s

    def resume_writing(self) -> None:
        """The upstream has caught up; what comes next is the client's to send."""
        super().resume_writing()
        if self._receiver is not None and self._head is None and not self._request_ended:
            self.deadline_s = NEVER

    def request_ended(self) -> None:
        """The whole request is written: the wait for its answer begins."""
        self._request_ended = True
        if self._head is None and self._receiver is not None:
            self.deadline_s = self._loop.time() + self._pool.timeouts.first_byte_s

    def pause_reading(self) -> None:
        """Take no more of the answer until `resume_reading`."""
        if not self._is_paused and not self._transport.is_closing():
            self._is_paused = True
            # A slow client is not a silent upstream.
            self.deadline_s = NEVER
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking the answer."""
        if self._is_paused:
            self._is_paused = False
            if not self._transport.is_closing():
                self._transport.resume_reading()
                if self._receiver is not None:
                    self.deadline_s = self._loop.time() + self._pool.timeouts.idle_s

    def abandon(self) -> None:
        """Nobody wants the answer any more: close at once, so that the upstream stops working on it."""
        self._receiver = None
        self.abort()

    def on_deadline(self) -> None:
        """No first byte, or no next byte, in time; or unused for too long."""
        if self.is_closing:
            self.abort()
        elif self._receiver is None:
            self.close()
        elif not self._request_ended:
            self._fail(ReadTimeout("nothing more of the request was taken within idle_timeout_s"))
        elif self._head is None:
            self._fail(ReadTimeout("no answer within first_byte_timeout_s"))
        else:
            self._fail(ReadTimeout("no more of the answer within idle_timeout_s"))

    @property
    def is_alive(self) -> bool:
        """Whether a request may be sent over it: it is open, and nothing waits to be read, neither end nor bytes."""
        if self._transport.is_closing() or self._saw_eof:
            return False
        return self._unread is None or not self._unread.poll(0)

    # the end of an exchange

    def _end(self, *, has_extra: bool = False) -> None:
        receiver, self._receiver = self._receiver, None
        assert receiver is not None
        self.deadline_s = NEVER
        head = self._head
        reusable = head is not None and head.keep_alive and head.framing is not BY_CLOSE
        if self._request_ended and self._transport.get_write_buffer_size():
            # The answer did not wait for the whole request: what is left of it must not delay another one.
            self.abort()
        elif reusable and self._request_ended and not has_extra and not self._saw_eof:
            if self._is_paused:
                self.resume_reading()
                self.deadline_s = NEVER
            self._pool.release(self)
        else:
            self.close()
        receiver.on_upstream_end()

    def _switch(self, head: ResponseHead, data: bytes) -> None:
        assert self._receiver is not None
        self._receiver.on_upstream_switch(head, self, data)

    def hand_over(self) -> None:
        """The connection is no longer HTTP: whoever asked for that takes it from here."""
        self._receiver = None
        self.deadline_s = NEVER

    def _fail(self, error: UpstreamError) -> None:
        receiver, self._receiver = self._receiver, None
        self.abort()
        if receiver is not None:
            receiver.on_upstream_error(error)

    def __repr__(self) -> str:
        state = "idle" if self._receiver is None else "busy"
        return f"<UpstreamConnection {self._pool.origin.host}:{self._pool.origin.port} {state}>"


def _watch_unread(sock: socket.socket | None) -> select.poll | None:
    """What tells, by one cheap call, whether a socket has anything to read; None where there is no poll."""
    if sock is None or not hasattr(select, "poll"):
        return None
    watch = select.poll()
    watch.register(sock.fileno(), select.POLLIN | getattr(select, "POLLRDHUP", 0))
    return watch
