"""What is answered without any chain: health, and paths that lead nowhere."""

from __future__ import annotations

from collections.abc import Awaitable

from tornado.httputil import HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine

from proxy.core.exchange import Route
from proxy.core.headers import Headers, field
from proxy.core.messages import NOT_FOUND
from proxy.core.reply import INVALID_REQUEST, Reply
from proxy.gateway.answering import AnsweringDelegate
from proxy.gateway.downstream import Downstream
from proxy.wire.framing import BY_LENGTH

_SHOWN_PATH = 200
_TEXT = field(b"Content-Type", b"text/plain; charset=utf-8")
_NO_STORE = field(b"Cache-Control", b"no-store")


class NowhereDelegate(AnsweringDelegate):
    """404 for every path that is neither OpenAI's nor the chat contract's; it is logged like any exchange."""

    route = Route.CHAT

    def _refusal(self) -> Reply | None:
        exchange = self.exchange
        path = exchange.path.decode("latin-1")[:_SHOWN_PATH]
        return Reply.of(404, INVALID_REQUEST, "not_found", NOT_FOUND, method=exchange.method, path=path)


class HealthDelegate(HTTPMessageDelegate):
    """``/healthz`` (alive) and ``/readyz`` (takes new work): outside the chain, the limits and the access log."""

    def __init__(self, downstream: Downstream, *, ok: bool) -> None:
        self._downstream = downstream
        self._ok = ok

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Answer at once."""
        body = b"ok\n" if self._ok else b"not ready\n"
        length = field(b"Content-Length", b"%d" % len(body))
        status, reason = (200, b"OK") if self._ok else (503, b"Service Unavailable")
        is_head = isinstance(start_line, RequestStartLine) and start_line.method == "HEAD"
        lines = Headers([_TEXT, _NO_STORE, length])
        self._downstream.start(status, reason, lines, BY_LENGTH, b"" if is_head else body)
        self._downstream.finish()
        return None
