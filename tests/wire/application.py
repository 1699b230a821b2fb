"""A Tornado application with a handler for each thing that Tornado's contract promises."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.http1connection import HTTP1Connection
from tornado.web import Application, HTTPError, RequestHandler, stream_request_body

from proxy.wire.response import ResponseWriter

BINARY = bytes(range(256)) * 40
LARGE = 3_000_000


class Echo(RequestHandler):
    """Says what it received."""

    def _answer(self) -> None:
        request = self.request
        self.set_header("X-Method", str(request.method))
        self.set_header("X-Remote", request.remote_ip or "")
        self.set_header("X-Protocol", request.protocol)
        self.set_header("X-Host", request.host)
        self.set_header("X-Seen", "|".join(f"{k}={v}" for k, v in request.headers.get_all() if k.startswith("X-In")))
        self.set_header("X-Cookie", ",".join(f"{k}={v.value}" for k, v in sorted(request.cookies.items())))
        self.set_header("X-Arguments", repr(sorted(request.arguments.items())))
        self.set_header("Content-Type", "application/octet-stream")
        self.write(request.body or request.path)

    get = head = post = put = patch = delete = options = _answer


class Stream(RequestHandler):
    """Pieces, flushed one by one."""

    async def get(self) -> None:
        self.set_header("Content-Type", "text/event-stream")
        for number in range(5):
            self.write(f"data: {number}\n\n")
            await self.flush()
            await asyncio.sleep(0)

    async def post(self) -> None:
        for _ in range(30):
            self.write(bytes(100_000))
            await self.flush()


class Statuses(RequestHandler):
    """A status as asked for."""

    def get(self, status: str) -> None:
        self.set_status(int(status))
        if status not in ("204", "304"):
            self.write(f"status {status}")

    def post(self, status: str) -> None:
        self.set_status(int(status), "A Reason Of Its Own")


class Fixed(RequestHandler):
    """Headers worth looking at."""

    def get(self) -> None:
        self.set_cookie("a", "1")
        self.set_cookie("b", "2", httponly=True)
        self.add_header("X-Twice", "one")
        self.add_header("X-Twice", "two")
        self.set_header("X-Latin", "\xe4")
        self.set_header("Content-Length", "5")
        self.write("hello")

    def post(self) -> None:
        self.write(BINARY)

    def put(self) -> None:
        self.write(bytes(LARGE))


class Fails(RequestHandler):
    """Goes wrong, before and after its head is out."""

    def get(self) -> None:
        raise ValueError("on purpose")

    def put(self) -> None:
        raise HTTPError(418)

    async def post(self) -> None:
        self.write("begun")
        await self.flush()
        raise ValueError("on purpose")

    async def patch(self) -> None:
        self.set_header("Content-Length", "10")
        self.write("short")
        await self.flush()


class Redirects(RequestHandler):
    """Elsewhere."""

    def get(self) -> None:
        self.redirect("/echo?x=1", permanent=True)


@stream_request_body
class Upload(RequestHandler):
    """Takes its body piece by piece; denies by header."""

    def initialize(self, gone: list[str]) -> None:
        self.size = 0
        self.gone = gone

    async def prepare(self) -> None:
        await asyncio.sleep(0)
        if self.request.headers.get("X-Deny"):
            self.set_status(403)
            self.finish("denied")
        limit = self.request.headers.get("X-Limit")
        if limit:
            assert isinstance(self.request.connection, HTTP1Connection | ResponseWriter)
            self.request.connection.set_max_body_size(int(limit))

    async def data_received(self, chunk: bytes) -> None:
        self.size += len(chunk)
        await asyncio.sleep(0)

    def post(self) -> None:
        self.write(f"{self.size} bytes")

    def on_connection_close(self) -> None:
        self.gone.append("upload")


class Waits(RequestHandler):
    """Waits until its client leaves."""

    def initialize(self, gone: list[str]) -> None:
        self.gone = gone
        self.left = asyncio.Event()

    async def get(self) -> None:
        await self.left.wait()

    def on_connection_close(self) -> None:
        self.gone.append("waits")
        self.left.set()


def application(gone: list[str]) -> Application:
    """The application both servers serve; ``gone`` collects the clients that left."""
    rules: list[Any] = [
        ("/echo.*", Echo),
        ("/stream", Stream),
        ("/status/([0-9]+)", Statuses),
        ("/fixed", Fixed),
        ("/fails", Fails),
        ("/redirects", Redirects),
        ("/upload", Upload, {"gone": gone}),
        ("/waits", Waits, {"gone": gone}),
    ]
    return Application(rules)
