"""Other programs' readings of the same bytes: h11, Tornado's own server, nginx and HAProxy.

h11 and Tornado say themselves what they read; of the two proxies a ledger behind them does.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from string import Template
from typing import Protocol

import h11
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.netutil import bind_sockets

from tests.support.corpus import IDLE_S, PATIENCE_S, Lane, LedgerUpstream, Reading, answer_with_target, read_until
from tests.support.redis import free_port

_START_S = 10.0
_NGINX = """
daemon off; master_process off; worker_processes 1; pid $directory/pid; error_log $directory/error.log crit;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path $directory/body; proxy_temp_path $directory/proxy; fastcgi_temp_path $directory/fastcgi;
    uwsgi_temp_path $directory/uwsgi; scgi_temp_path $directory/scgi;
    large_client_header_buffers 4 64k;
    client_max_body_size 0;
    upstream behind { server 127.0.0.1:$upstream_port; keepalive 8; }
    server {
        listen 127.0.0.1:$port;
        location / { proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; }
    }
}
"""
_HAPROXY = """
global
    maxconn 256
    tune.bufsize 131072
defaults
    mode http
    timeout client 10s
    timeout server 10s
    timeout connect 5s
    option http-keep-alive
    http-reuse always
frontend front
    bind 127.0.0.1:$port
    default_backend behind
backend behind
    server only 127.0.0.1:$upstream_port
"""


class Peer(Protocol):
    """Somebody else who reads requests."""

    name: str

    async def read(self, data: bytes, wanted: int) -> list[Reading]:
        """The requests it makes of these bytes, up to where it refuses them or they end.

        It is given time until there are ``wanted`` of them.
        """
        ...


class H11Peer:
    """h11 as a server that answers everything."""

    name = "h11"

    async def read(self, data: bytes, wanted: int) -> list[Reading]:
        """See `Peer`."""
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=131_072)
        connection.receive_data(data)
        connection.receive_data(b"")
        readings: list[Reading] = []
        request: h11.Request | None = None
        body = b""
        with contextlib.suppress(h11.RemoteProtocolError):
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Request):
                    request, body = event, b""
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    assert request is not None
                    readings.append(Reading(request.method.decode("ascii"), request.target.decode("latin-1"), body))
                    connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                    connection.send(h11.EndOfMessage())
                    if connection.our_state is not h11.DONE:
                        break
                    connection.start_next_cycle()
                else:
                    break
        return readings


class _Recorder(HTTPMessageDelegate):
    def __init__(self, connection: HTTPConnection, readings: list[Reading]) -> None:
        self._connection = connection
        self._readings = readings
        self._body = b""
        self._start: RequestStartLine | None = None

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        assert isinstance(start_line, RequestStartLine)
        self._start = start_line

    def data_received(self, chunk: bytes) -> None:
        self._body += chunk

    def finish(self) -> None:
        assert self._start is not None
        self._readings.append(Reading(self._start.method, self._start.path, self._body))
        self._connection.write_headers(
            ResponseStartLine("HTTP/1.1", 200, "OK"), HTTPHeaders({"Content-Length": "0"}), b""
        )
        self._connection.finish()


class TornadoPeer(HTTPServerConnectionDelegate):
    """Tornado's own `HTTPServer`."""

    name = "tornado"

    def __init__(self) -> None:
        self._readings: list[Reading] = []
        self._server = HTTPServer(self, max_header_size=131_072)
        (sock,) = bind_sockets(0, "127.0.0.1")
        self._port: int = sock.getsockname()[1]
        self._server.add_socket(sock)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return _Recorder(request_conn, self._readings)

    async def read(self, data: bytes, wanted: int) -> list[Reading]:
        """See `Peer`."""
        self._readings = []
        await exchange(self._port, data, lambda got: len(self._readings) >= wanted)
        return self._readings

    async def close(self) -> None:
        """Stop."""
        self._server.stop()
        await self._server.close_all_connections()


class ProxyPeer:
    """A proxy of its own process in front of a ledger, or of a gateway."""

    def __init__(self, name: str, port: int, upstream: LedgerUpstream) -> None:
        self.name = name
        self.port = port
        self._upstream = upstream

    async def read(self, data: bytes, wanted: int) -> list[Reading]:
        """See `Peer`."""
        before = len(self._upstream.ledger)
        await exchange(self.port, data, lambda got: len(self._upstream.ledger) - before >= wanted)
        self._upstream.faults.clear()  # what the proxy passes on is its affair
        return [Reading(entry.method, entry.target, entry.body) for entry in self._upstream.ledger[before:]]


async def exchange(port: int, data: bytes, enough: Callable[[bytes], bool], patience_s: float = PATIENCE_S) -> bytes:
    """Send bytes and read all that comes, until the end, or until there is enough and nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    got = bytearray()
    deadline_s = asyncio.get_running_loop().time() + patience_s
    try:
        writer.write(data)
        while not await read_until(reader, got, lambda: False, IDLE_S):
            if enough(bytes(got)) or asyncio.get_running_loop().time() > deadline_s:
                break
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return bytes(got)


@contextlib.asynccontextmanager
async def proxy_process(name: str, upstream_port: int) -> AsyncIterator[int]:
    """nginx or HAProxy in front of a port; its own port. Raises RuntimeError if it does not start."""
    port = free_port()
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "config"
        template = Template(_NGINX if name == "nginx" else _HAPROXY)
        config.write_text(template.substitute(directory=directory, port=port, upstream_port=upstream_port))
        # Debian keeps both where only root's PATH leads.
        command = shutil.which(name) or f"/usr/sbin/{name}"
        argv = (
            [command, "-p", directory, "-c", str(config)] if name == "nginx" else [command, "-db", "-f", str(config)]
        )
        process = await asyncio.create_subprocess_exec(*argv, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
        try:
            await _listening(port, process)
            yield port
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.communicate()


async def _listening(port: int, process: Process) -> None:
    deadline = asyncio.get_running_loop().time() + _START_S
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            if process.returncode is not None or asyncio.get_running_loop().time() > deadline:
                said = await process.stderr.read(4000) if process.stderr is not None else b""
                raise RuntimeError(f"it does not listen; it said:\n{said.decode(errors='replace')}") from None
            await asyncio.sleep(0.02)
        else:
            writer.close()
            await writer.wait_closed()
            return


@contextlib.asynccontextmanager
async def peers(*proxies: str) -> AsyncIterator[list[Peer]]:
    """h11, Tornado's server, and these proxies in front of ledgers."""
    async with contextlib.AsyncExitStack() as stack:
        tornado = TornadoPeer()
        stack.push_async_callback(tornado.close)
        found: list[Peer] = [H11Peer(), tornado]
        for name in proxies:
            upstream = LedgerUpstream()
            upstream.script = answer_with_target
            await upstream.start()
            stack.push_async_callback(upstream.stop)
            port = await stack.enter_async_context(proxy_process(name, upstream.port))
            found.append(ProxyPeer(name, port, upstream))
        yield found


@contextlib.asynccontextmanager
async def in_front_of(lane: Lane, name: str) -> AsyncIterator[int]:
    """nginx or HAProxy in front of a gateway; its port."""
    async with proxy_process(name, lane.port) as port:
        yield port
