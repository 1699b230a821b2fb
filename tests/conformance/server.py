"""Tornado's `HTTPServer`, served by our wire.

It takes every argument the original takes. What our wire has a word for is passed on to it; what it has none for is
ignored, and the tests that then fail are listed in ``differences.py``. Nothing is emulated here: what a test sees is
the wire.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable
from typing import Any

from tornado.httpserver import HTTPServer, _CallableAdapter
from tornado.httputil import HTTPConnection, HTTPMessageDelegate, HTTPServerConnectionDelegate, HTTPServerRequest
from tornado.ioloop import IOLoop

from proxy.core.headers import Field, Headers
from proxy.wire.endpoint import Endpoint
from proxy.wire.gate import RequestError
from proxy.wire.listener import Listener, Timeouts
from proxy.wire.response import ResponseWriter
from proxy.wire.tls import ServerTls

WAITS_S = 3600.0
"""How long Tornado's server waits where it is not told otherwise."""
MAX_BODY_BYTES = 104_857_600
"""The longest body Tornado's server takes where it is not told otherwise."""


class WireServer(HTTPServer):
    """`HTTPServer` on our wire; ``HTTPServer.configure(WireServer)`` puts it in the original's place.

    Raises as `ServerTls` does for a certificate that cannot be used, and KeyError if none is named.
    """

    connections_served = 0
    """By all servers of this kind."""

    def initialize(
        self,
        request_callback: HTTPServerConnectionDelegate | Callable[[HTTPServerRequest], None],
        no_keep_alive: bool = False,
        xheaders: bool = False,
        ssl_options: dict[str, Any] | ssl.SSLContext | None = None,
        protocol: str | None = None,
        decompress_request: bool = False,
        chunk_size: int | None = None,
        max_header_size: int | None = None,
        idle_connection_timeout: float | None = None,
        body_timeout: float | None = None,
        max_body_size: int | None = None,
        max_buffer_size: int | None = None,
        trusted_downstream: list[str] | None = None,
    ) -> None:
        """Take the arguments of `HTTPServer`."""
        self.request_callback = request_callback
        self._max_body_bytes = max_body_size or MAX_BODY_BYTES
        self._max_header_bytes = max_header_size or 65_536
        self._timeouts = Timeouts(
            header_s=idle_connection_timeout or WAITS_S,
            body_s=body_timeout or WAITS_S,
            keep_alive_s=idle_connection_timeout or WAITS_S,
        )
        self._ends_connections = no_keep_alive
        self._protocol = protocol
        self._endpoint = Endpoint(tls=_tls_of(ssl_options))
        self._listener: Listener | None = None

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        """Accept on sockets that are bound already: now, or as soon as the running loop comes to it."""
        loop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]
        opening = self._open(list(sockets))
        if loop.is_running():
            self._opening = loop.create_task(opening)
        else:
            loop.run_until_complete(opening)

    async def _open(self, sockets: list[socket.socket]) -> None:
        if self._listener is None:
            self._listener = Listener(
                self, timeouts=self._timeouts, max_header_bytes=self._max_header_bytes, on_error=_nothing_to_say
            )
            self._listener.is_shedding = self._ends_connections
            if self._protocol is not None:
                self._listener.protocol = self._protocol
        for sock in sockets:
            await self._listener.listen_on(sock, self._endpoint)

    def stop(self) -> None:
        """Accept no more."""
        if self._listener is not None:
            # A listener of ours stops accepting in order to drain; Tornado's may go on serving who is there.
            for sock in self._listener._stop_accepting():
                sock.close()

    async def close_all_connections(self) -> None:
        """Close what is open."""
        if self._listener is not None:
            await self._listener.close()
            self._listener.ticker.close()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Hand a request to the application, or to a plain callback in Tornado's own adapter for one."""
        assert isinstance(request_conn, ResponseWriter)
        request_conn.set_max_body_size(self._max_body_bytes)
        if isinstance(self.request_callback, HTTPServerConnectionDelegate):
            return self.request_callback.start_request(server_conn, request_conn)
        return _CallableAdapter(self.request_callback, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Count a connection that is gone."""
        WireServer.connections_served += 1


def _nothing_to_say(error: RequestError, target: bytes, headers: Headers) -> tuple[list[Field], bytes]:
    """Refuse with a status alone, as Tornado's server does."""
    return [], b""


def _tls_of(ssl_options: dict[str, Any] | ssl.SSLContext | None) -> ServerTls | None:
    """Our TLS for a certificate and its key; a ready-made context is nothing our wire could be given."""
    if ssl_options is None:
        return None
    assert isinstance(ssl_options, dict)
    certificate = ssl_options["certfile"]
    return ServerTls(certificate, ssl_options.get("keyfile") or certificate)
