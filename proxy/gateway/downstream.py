"""The client's side of an exchange, whichever server it came in through.

`proxy.wire.response.ResponseWriter` has this interface itself; `StockDownstream` gives it to the connections of
Tornado's own server, which frames bodies by itself and normalises the case of header names.
"""

from __future__ import annotations

import socket
from asyncio import Future
from collections.abc import Callable
from typing import Any, Protocol

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPConnection, HTTPHeaders, ResponseStartLine

from proxy.core.headers import Headers
from proxy.wire.connection import Connection, set_reset_on_close
from proxy.wire.framing import BY_CLOSE, Framing


class Downstream(Protocol):
    """What the delegate does to the client."""

    can_splice: bool
    started: bool

    context: Any
    """Who is there: ``address``."""
    wants_websocket: bool
    """Whether the client asked to go over to WebSocket, and could."""

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves while its answer is not whole."""
        ...

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
        """Write the head and perhaps the first piece of the body."""
        ...

    def write(self, chunk: bytes) -> Future[None]:
        """Write a piece of the body; the future says when more is welcome."""
        ...

    def finish(self) -> None:
        """End the answer."""
        ...

    def splice(self, data: bytes) -> Future[None]:
        """Write bytes of the body that are framed already."""
        ...

    def splice_end(self) -> None:
        """End an answer that was framed already."""
        ...

    def inform(self, status: int, reason: bytes, headers: Headers) -> None:
        """Write a 1xx answer before the real one, where that is possible."""
        ...

    def switch(self, headers: Headers) -> tuple[Connection, bytes]:
        """Answer 101 and give the connection away, with what has come behind the request."""
        ...

    def abort(self) -> None:
        """Break off so that the client sees a cut."""
        ...


class StockDownstream:
    """A connection of Tornado's own server."""

    can_splice = False

    # Never: Tornado's server cannot give its connection away, so an Upgrade is ignored there.
    wants_websocket = False

    def __init__(self, connection: HTTP1Connection) -> None:
        self._connection = connection
        self.context: Any = connection.context
        self._ends_by_close = False
        self.started = False

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Call back when the client leaves while its answer is not whole."""
        self._connection.set_close_callback(callback)

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
        """Write the head; Tornado frames the body by its Content-Length, else in chunks."""
        assert not splice
        self.started = True
        self._ends_by_close = framing is BY_CLOSE
        lines = HTTPHeaders()
        for name, value in headers.pairs():
            lines.add(name, value)
        line = ResponseStartLine("HTTP/1.1", status, reason.decode("latin-1"))
        return self._connection.write_headers(line, lines, chunk or None)

    def write(self, chunk: bytes) -> Future[None]:
        """Write a piece of the body."""
        return self._connection.write(chunk)

    def finish(self) -> None:
        """End the answer."""
        self._connection.finish()

    def splice(self, data: bytes) -> Future[None]:
        """Never called: this server frames bodies by itself."""
        raise TypeError("Tornado's server cannot splice")

    def splice_end(self) -> None:
        """Never called: this server frames bodies by itself."""
        raise TypeError("Tornado's server cannot splice")

    def inform(self, status: int, reason: bytes, headers: Headers) -> None:
        """Drop it: Tornado's connections write one head per request."""

    def switch(self, headers: Headers) -> tuple[Connection, bytes]:
        """Never called: an Upgrade is ignored on this server."""
        raise TypeError("Tornado's server cannot give its connection away")

    def abort(self) -> None:
        """Break off; a body that would end with the connection is ended by a reset instead."""
        stream = self._connection.stream
        if stream is None or stream.closed():
            return
        if self._ends_by_close and isinstance(stream.socket, socket.socket):
            set_reset_on_close(stream.socket)
        self._connection.close()


def stock_downstream(connection: HTTPConnection) -> Downstream:
    """The client's side behind a connection that is not of our own wire. Raises TypeError for unknown ones."""
    if isinstance(connection, HTTP1Connection):
        return StockDownstream(connection)
    raise TypeError(f"cannot answer through a {type(connection).__name__}")
