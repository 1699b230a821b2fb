"""A delegate that writes down what happens to it, on a server connection without a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from proxy.core.headers import Field, Headers
from proxy.wire.framing import Framing
from proxy.wire.linger import Linger
from proxy.wire.listener import Listener, Timeouts
from proxy.wire.response import ResponseWriter
from proxy.wire.server import ServerConnection
from proxy.wire.ticker import Watched
from tests.wire.transport import MockTransport

Held = Awaitable[None] | None
TIMEOUTS = Timeouts(header_s=11, body_s=22, keep_alive_s=33)


class Delegate(HTTPMessageDelegate):
    """One request; ``events`` tells its life, ``body`` what was received."""

    def __init__(self, app: App, connection: HTTPConnection) -> None:
        assert isinstance(connection, ResponseWriter)
        self.app = app
        self.writer = connection
        self.events: list[str] = []
        self.target = ""
        self.body = b""
        self.headers = HTTPHeaders()

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> Held:
        assert isinstance(start_line, RequestStartLine)
        self.target, self.headers = start_line.path, headers
        self.events.append("headers")
        self.writer.set_close_callback(lambda: self.events.append("close callback"))
        return self.app.on_headers(self)

    def data_received(self, chunk: bytes) -> Held:
        assert chunk
        self.body += chunk
        if self.events[-1] != "data":
            self.events.append("data")
        return self.app.on_data(self)

    def finish(self) -> None:
        self.events.append("finish")
        self.app.on_finish(self)

    def on_connection_close(self) -> None:
        self.events.append("gone")
        self.app.on_gone(self)

    def answer(self, status: int = 200, body: bytes = b"", *, headers: dict[str, str] | None = None) -> None:
        """Answer in Tornado's way, with a Content-Length."""
        lines = HTTPHeaders({"Content-Length": str(len(body))} if headers is None else headers)
        self.writer.write_headers(ResponseStartLine("HTTP/1.1", status, "Fine"), lines, body)
        self.writer.finish()

    def start(self, framing: Framing, *fields: Field, splice: bool = False) -> None:
        """Begin an answer in the data plane's way."""
        self.writer.start(200, b"OK", Headers(list(fields)), framing, splice=splice)


def echo(delegate: Delegate) -> None:
    """Answer with the target and the body."""
    delegate.answer(body=delegate.target.encode() + b" " + delegate.body)


class App(HTTPServerConnectionDelegate):
    """Makes the delegates; what they do is set by a test."""

    def __init__(self) -> None:
        self.delegates: list[Delegate] = []
        self.closed = 0
        self.on_headers: Callable[[Delegate], Held] = lambda delegate: None
        self.on_data: Callable[[Delegate], Held] = lambda delegate: None
        self.on_finish: Callable[[Delegate], None] = echo
        self.on_gone: Callable[[Delegate], None] = lambda delegate: None

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self.delegates.append(Delegate(self, request_conn))
        return self.delegates[-1]

    def on_close(self, server_conn: object) -> None:
        self.closed += 1

    @property
    def events(self) -> list[list[str]]:
        """The life of each delegate so far."""
        return [delegate.events for delegate in self.delegates]


class Scene:
    """A listener's connection on a `MockTransport`. Make it inside a running loop, and `end` it."""

    def __init__(self, max_header_bytes: int = 65_536) -> None:
        self.app = App()
        self.loop = asyncio.get_running_loop()
        self.listener = Listener(self.app, timeouts=TIMEOUTS, max_header_bytes=max_header_bytes)
        self.connection = ServerConnection(self.listener)
        self.transport = MockTransport(self.connection)

    async def __aenter__(self) -> Scene:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await turns()
        self.transport.unsent = False
        self.listener.abort()
        await turns()
        assert len(self.listener) == 0
        assert self.app.closed == 1
        for events in self.app.events:
            # Whatever happened: the request is whole exactly once, or its client is gone exactly once.
            assert events.count("finish") + events.count("gone") <= 1
            assert events.count("close callback") <= 1
        self.listener.ticker.close()

    def feed(self, *segments: bytes) -> bytes:
        """Bytes come in; what went out since the last look."""
        self.transport.feed(*segments)
        return self.transport.take()

    @property
    def watched(self) -> Watched:
        """Whoever has the transport now: the connection, or what it has left it to."""
        found = self.transport.get_protocol()
        assert isinstance(found, ServerConnection | Linger)
        return found

    @property
    def wait_s(self) -> float:
        """How long the connection may still stay as it is."""
        return self.watched.deadline_s - self.loop.time()

    @property
    def is_open(self) -> bool:
        """Whether another request could come."""
        return not self.transport.ended() and not self.transport.eof_written


async def turns(count: int = 5) -> None:
    """Let the loop go round."""
    for _ in range(count):
        await asyncio.sleep(0)


def answer_of(body: bytes, status: bytes = b"200 Fine") -> bytes:
    """The bytes of `Delegate.answer`."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def post(body: bytes, *lines: bytes, target: bytes = b"/", version: bytes = b"1.1") -> bytes:
    """A request with a Content-Length."""
    head = b"\r\n".join(
        [b"POST %b HTTP/%b" % (target, version), b"Host: a", b"Content-Length: %d" % len(body), *lines]
    )
    return head + b"\r\n\r\n" + body


def get(target: bytes = b"/", *lines: bytes, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    """A request without a body."""
    return b"\r\n".join([b"%b %b HTTP/%b" % (method, target, version), b"Host: a", *lines, b"", b""])
