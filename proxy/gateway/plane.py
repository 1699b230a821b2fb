"""The data plane: what all exchanges share, and the way in for each of them."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable
from email.utils import formatdate
from functools import cached_property
from time import time_ns
from typing import TYPE_CHECKING, Any

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from proxy.core.address import UNIX, TrustedProxies, client_finder, normalise_peer
from proxy.core.catalogue import Catalogue, find_locales, negotiate
from proxy.core.chain import Chain
from proxy.core.exchange import Exchange, Route
from proxy.core.headers import Field, Headers, field
from proxy.core.reply import Reply
from proxy.gateway.access_log import AccessLog
from proxy.gateway.chat_contract import Defaults
from proxy.gateway.downstream import Downstream, stock_downstream
from proxy.gateway.envelope import JSON_TYPE, chat_error, openai_error, refusal_of
from proxy.gateway.hidden_clients import HIDDEN_CLIENTS_AFTER, HiddenClients
from proxy.gateway.limit_store import open_store
from proxy.gateway.local import HealthDelegate, NowhereDelegate
from proxy.gateway.openai_api import ApiDelegate
from proxy.gateway.overload import BusyDelegate
from proxy.gateway.routes import TO_API, Destination, Routes, speaks_openai
from proxy.gateway.simple_chat import ChatDelegate
from proxy.limits.store import Clock, LimitStore
from proxy.stages import Services, build
from proxy.stages.upstream import Upstream
from proxy.wire.client_tls import client_context
from proxy.wire.gate import RequestError, RequestHead
from proxy.wire.pool import Pool, UpstreamTimeouts
from proxy.wire.response import ResponseWriter
from proxy.wire.ticker import Ticker

if TYPE_CHECKING:
    from proxy.settings.model import Settings


_REMEMBERED_REFUSALS = 256


class DataPlane(HTTPServerConnectionDelegate):
    """Every exchange goes through here: a delegate for our own listener, and for any Tornado application.

    It may be built before the loop runs; connections upstream are made when the first request comes.
    """

    def __init__(
        self,
        settings: Settings,
        access_log: AccessLog | None = None,
        clock: Clock = time.monotonic,
        store: LimitStore | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.access_log = access_log
        self.store = open_store(settings, clock) if store is None else store
        services = Services(clock=clock, store=self.store, hop_id=os.urandom(8).hex().encode("ascii"))
        self.chain = Chain(build(name, settings.stages[name], services) for name in settings.chain)
        upstream = self.chain.stages[-1]
        assert isinstance(upstream, Upstream)
        self.upstream = upstream
        # Made here, not with the first connection: a bad ca_file must not wait for the first request.
        self._tls = client_context(upstream.config.ca_file) if upstream.origin.tls else None
        self.catalogue = Catalogue.load(find_locales())
        self.max_body_bytes = settings.downstream.max_body_bytes
        self.max_held_bytes = settings.simple_chat.max_body_bytes
        self.chat_defaults = chat_defaults(settings)
        self.is_ready = True
        self._routes = Routes(settings.simple_chat.route)
        self.trusted = TrustedProxies.parse(settings.trusted_proxies)
        self._find_client = client_finder(settings.client_ip_header, self.trusted)
        self._hidden_clients = HiddenClients(self.chain, trusts_proxies=bool(self.trusted))
        self.heartbeat_s = upstream.config.heartbeat_s
        self._most_in_flight = self._room = settings.overload.max_in_flight or sys.maxsize
        self._sequence = 0
        self._id_prefix = f"req_{os.urandom(6).hex()}"
        self._date = (0.0, b"")
        self._refusals: dict[object, bytes] = {}
        self._in_flight = 0

    # the way in

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Take a request of our own listener, or of Tornado's server."""
        if type(request_conn) is ResponseWriter:
            return self.delegate_for(request_conn.head.target, request_conn)
        return _StockRouter(self, stock_downstream(request_conn))

    def delegate_for(self, target: bytes, downstream: Downstream, *, has_room: bool = True) -> HTTPMessageDelegate:
        """The delegate for a target: the chain's, or a local answer; without room the chain's is a refusal."""
        destination = self._routes.destination(target)
        is_api = destination is TO_API
        if is_api or destination is Destination.CHAT:
            if self._in_flight >= self._room or not has_room:
                return BusyDelegate(self, downstream, Route.API if is_api else Route.CHAT)
            return ApiDelegate(self, downstream) if is_api else ChatDelegate(self, downstream)
        if destination is Destination.NOWHERE:
            return NowhereDelegate(self, downstream)
        return HealthDelegate(downstream, ok=destination is Destination.HEALTHZ or self.is_ready)

    def open_exchange(self, head: RequestHead, context: Any, route: Route) -> Exchange:
        """A new exchange, with its client's address resolved."""
        peer_ip = getattr(context, "peer_ip", None) or _peer_ip(context)
        headers = head.headers
        client_ip, forwarded = self._find_client(peer_ip, headers)
        self._sequence = sequence = self._sequence + 1
        self._in_flight += 1
        if sequence <= HIDDEN_CLIENTS_AFTER:
            self._hidden_clients.see(peer_ip, sequence)
        return Exchange(
            head.method,
            head.target,
            headers,
            peer_ip,
            client_ip,
            route,
            f"{self._id_prefix}{sequence:08x}",
            sequence,
            time_ns(),
            self.clock(),
            forwarded,
        )

    @property
    def begun(self) -> int:
        """Requests that were given an id so far."""
        return self._sequence

    @property
    def in_flight(self) -> int:
        """Exchanges under way."""
        return self._in_flight

    def refuse_new_work(self, refuse: bool) -> None:
        """Take no more exchanges, or take them again; those under way are not touched."""
        self._room = 0 if refuse else self._most_in_flight

    def close_exchange(self, exchange: Exchange) -> None:
        """An exchange has ended."""
        self._in_flight -= 1
        if self.access_log is not None:
            self.access_log.add(exchange, self.chain, self.clock())

    # what exchanges need

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop the plane runs on."""
        return self.ticker.loop

    @cached_property
    def ticker(self) -> Ticker:
        """The timer of all connections, made when first needed."""
        return Ticker(asyncio.get_running_loop())

    @cached_property
    def pool(self) -> Pool:
        """The connections upstream, made when first needed."""
        config = self.upstream.config
        timeouts = UpstreamTimeouts(
            connect_s=config.connect_timeout_s,
            first_byte_s=config.first_byte_timeout_s,
            idle_s=config.idle_timeout_s,
            pool_idle_s=config.pool_idle_timeout_s,
        )
        return Pool(self.upstream.origin, self.ticker, timeouts, self._tls, max_connections=config.max_connections)

    def language_of(self, exchange: Exchange) -> str:
        """The language to answer an exchange in."""
        return self._language(exchange.headers)

    def _language(self, headers: Headers) -> str:
        accepted = headers.get_all(b"accept-language")
        value = b",".join(accepted).decode("latin-1") if accepted else None
        return negotiate(value, self.settings.language)

    def words_for(self, exchange: Exchange) -> tuple[Catalogue, str]:
        """The catalogue, and the language to answer an exchange in."""
        return self.catalogue, self.language_of(exchange)

    def render(self, reply: Reply, exchange: Exchange) -> tuple[bytes, bytes]:
        """(content type, body) of a reply, in the exchange's language and the shape of its route."""
        render = openai_error if exchange.route is Route.API else chat_error
        language = self.language_of(exchange)
        if reply.status != 429:
            return JSON_TYPE, render(reply, self.catalogue, language)
        # Whoever floods a limit gets the same words many times a second; finding them was a fifth of a refusal.
        said = tuple([(sentence.message, *sentence.params.values()) for sentence in reply.sentences])
        key = (render, language, reply.code, said)
        body = self._refusals.get(key)
        if body is None:
            if len(self._refusals) >= _REMEMBERED_REFUSALS:
                self._refusals.clear()
            body = self._refusals[key] = render(reply, self.catalogue, language)
        return JSON_TYPE, body

    def render_refusal(self, error: RequestError, target: bytes, headers: Headers) -> tuple[list[Field], bytes]:
        """The answer to a request that the wire refused: (header lines, body)."""
        reply = refusal_of(error)
        render = openai_error if speaks_openai(target) else chat_error
        body = render(reply, self.catalogue, self._language(headers))
        self._sequence += 1
        request_id = f"{self._id_prefix}{self._sequence:08x}".encode("ascii")
        fields = [
            field(b"Content-Type", JSON_TYPE),
            *reply.headers,
            field(b"X-Sluice-Request-Id", request_id),
            field(b"X-Request-Id", request_id),
            field(b"X-Sluice-Upstream-Sent", b"no"),
            self.date_field(),
        ]
        return fields, body

    def date_field(self) -> Field:
        """The Date line for answers of our own (RFC 9110 section 6.6.1), made once a second."""
        now = self.clock()
        made_s, value = self._date
        if now - made_s >= 1 or not value:
            value = formatdate(usegmt=True).encode("ascii")
            self._date = (now, value)
        return field(b"Date", value)

    async def close(self) -> None:
        """Let go of every connection upstream. Running exchanges are cut."""
        if "pool" in vars(self):
            await self.pool.close()
        await self.store.close()
        if "ticker" in vars(self):
            self.ticker.close()

    def __repr__(self) -> str:
        return f"<DataPlane {self.chain!r} [{self._in_flight} in flight]>"


def chat_defaults(settings: Settings) -> Defaults:
    """What the settings say about the simple chat contract."""
    simple_chat = settings.simple_chat
    return Defaults(
        model=simple_chat.default_model,
        max_tokens=simple_chat.max_tokens.default,
        most_tokens=simple_chat.max_tokens.maximum,
        token_field=simple_chat.token_field,
        aliases=settings.model_aliases,
    )


class _StockRouter(HTTPMessageDelegate):
    """Chooses the delegate once the target is known, which Tornado's server tells only with the head."""

    def __init__(self, plane: DataPlane, downstream: Downstream) -> None:
        self._plane = plane
        self._downstream = downstream
        self._delegate: HTTPMessageDelegate | None = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        self._delegate = self._plane.delegate_for(start_line.path.encode("latin-1"), self._downstream)
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        assert self._delegate is not None
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        assert self._delegate is not None
        self._delegate.finish()

    def on_connection_close(self) -> None:
        if self._delegate is not None:
            self._delegate.on_connection_close()


def _peer_ip(context: Any) -> str:
    """The normalised address of a connection's peer, kept where the connection lets us, to be worked out once."""
    address = context.address
    peer_ip = normalise_peer(address[0]) if isinstance(address, tuple) and address else UNIX
    if hasattr(context, "peer_ip"):
        context.peer_ip = peer_ip
    return peer_ip
