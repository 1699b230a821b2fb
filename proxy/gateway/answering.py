"""How an exchange is opened, answered by ourselves, and ended: what every delegate of the data plane does."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from http.client import responses as REASONS
from typing import TYPE_CHECKING

from tornado.httputil import HTTPHeaders, RequestStartLine, ResponseStartLine

from proxy.core.errors import GatewayError, Stopping, UpstreamError
from proxy.core.exchange import Exchange, Route
from proxy.core.headers import Field, Headers, field
from proxy.core.messages import INTERNAL_ERROR
from proxy.core.reply import SERVER_ERROR, Reply
from proxy.gateway.downstream import Downstream
from proxy.gateway.envelope import refusal_of
from proxy.wire.framing import BY_LENGTH
from proxy.wire.gate import RequestError, RequestHead, check_request
from proxy.wire.headers import lines_of
from proxy.wire.request_reader import HeadTaker

if TYPE_CHECKING:
    from proxy.gateway.plane import DataPlane

log = logging.getLogger("sluice.gateway")

CLIENT_LEFT = 499
"""What the access log shows when the client left before an answer began."""


class AnsweringDelegate(HeadTaker):
    """An exchange from its head to its end. Subclasses say what happens in between, in `_begin`."""

    route = Route.API
    exchange: Exchange
    _is_http10 = False

    def __init__(self, plane: DataPlane, downstream: Downstream) -> None:
        self._plane = plane
        self._chain = plane.chain
        self._downstream = downstream
        self._answered = False  # an answer of ours is out, or the exchange is over

    # begin

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """The head is in, from another server than ours: it is held to the same strictness."""
        assert isinstance(start_line, RequestStartLine)
        version = start_line.version.removeprefix("HTTP/")
        head = RequestHead(start_line.method, start_line.path.encode("latin-1"), version, lines_of(headers))
        try:
            check_request(head)
        except RequestError as error:
            return self.head_received(head, refusal_of(error))
        return self.head_received(head)

    def head_received(self, head: RequestHead, refusal: Reply | None = None) -> Awaitable[None] | None:
        """The head is in. A future holds the body back until the exchange can take it."""
        downstream = self._downstream
        downstream.set_close_callback(self._client_left)
        self._head = head
        self.exchange = self._plane.open_exchange(head, downstream.context, self.route)
        if head.version == "1.0":
            self._is_http10 = True
        refusal = refusal or self._refusal()
        if refusal is not None:
            self._reply(refusal)
            return None
        return self._begin()

    def _refusal(self) -> Reply | None:
        """What is wrong with the request before any stage is asked."""
        return None

    def _begin(self) -> Awaitable[None] | None:
        """The head is in and in order."""
        return None

    def on_connection_close(self) -> None:
        """The client left before its request was whole."""
        self._client_left()

    # answer

    def refuse(self, error: RequestError) -> None:
        """The wire found fault with the body of the request."""
        if not self._answered:
            self._reply(refusal_of(error))

    def cut(self) -> None:
        """End at once: the time that a stopping gateway gave its exchanges is over."""
        if not self._answered:
            self._fail(Stopping("it did not end before the gateway had to"))

    def _fail(self, error: GatewayError) -> None:
        exchange = self.exchange
        log.warning("exchange %s: %s (%s)", exchange.request_id, error, type(error).__name__)
        if self._downstream.started:
            exchange.aborted = "upstream" if isinstance(error, UpstreamError) else "gateway"
            self._say_why(error)
            self._downstream.abort()
            self._complete()
        else:
            self._reply(error.reply())

    def _say_why(self, error: GatewayError) -> None:
        """Tell the client of an answer that is about to be cut, where its form has room for that."""

    def _crash(self) -> None:
        """A stage or we ourselves failed: the log gets the traceback, the client a request id."""
        exchange = self.exchange
        log.exception("exchange %s failed", exchange.request_id)
        if self._answered:
            return
        if self._downstream.started:
            exchange.aborted = "gateway"
            self._downstream.abort()
            self._complete()
        else:
            self._reply(Reply.of(500, SERVER_ERROR, "internal_error", INTERNAL_ERROR, request_id=exchange.request_id))

    def _reply(self, reply: Reply) -> None:
        """Answer ourselves."""
        exchange = self.exchange
        exchange.status = reply.status
        if exchange.reply is None:
            exchange.refused_with = reply.code or ""
        content_type, body = self._plane.render(reply, exchange)
        self._answer(reply.status, [field(b"Content-Type", content_type), *reply.headers], body)

    def _answer(self, status: int, fields: list[Field], body: bytes) -> None:
        """Send a whole answer of our own; the stages may add to its head."""
        exchange = self.exchange
        self._answered = True
        headers = exchange.response_headers = Headers(
            [
                *fields,
                field(b"Content-Length", b"%d" % len(body)),
                self._request_id_field(),
                self._plane.date_field(),
            ]
        )
        if headers.get(b"x-request-id") is None:
            headers.add(b"x-request-id", exchange.request_id.encode("ascii"))
        if status >= 400:
            headers.add(b"x-sluice-upstream-sent", exchange.upstream_sent.encode("ascii"))
        try:
            self._chain.response_headers(exchange)
        except Exception:
            log.exception("exchange %s: a stage failed on our own answer", exchange.request_id)
        downstream = self._downstream
        sent = b"" if exchange.method == "HEAD" else body
        downstream.start(status, REASONS.get(status, "Error").encode(), headers, BY_LENGTH, sent)
        exchange.bytes_out = len(sent)
        downstream.finish()
        self._complete()

    def _request_id_field(self) -> Field:
        request_id = self.exchange.request_id.encode("ascii")
        return (b"x-sluice-request-id", b"X-Sluice-Request-Id: %b\r\n" % request_id, request_id)

    # end

    def _client_left(self) -> None:
        """The client is gone: stop the upstream from working for nobody."""
        exchange = self.exchange
        if not self._answered:
            exchange.aborted = "client"
            exchange.status = exchange.status or CLIENT_LEFT
        self._complete()

    def _complete(self) -> None:
        """The exchange is over, however it ended. Only the first call counts."""
        exchange = self.exchange
        if exchange.completed:
            return
        self._answered = True
        self._downstream.set_close_callback(None)
        self._let_go()
        self._chain.complete(exchange)
        self._plane.close_exchange(exchange)

    def _let_go(self) -> None:
        """Release what the exchange still holds."""
