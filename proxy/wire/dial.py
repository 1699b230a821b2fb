"""Dialling: name, connection and TLS handshake, raced over an origin's addresses (RFC 8305), all within one limit."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable

import aiohappyeyeballs

from proxy.core.errors import ConnectError, ConnectTimeout, NoCapacity, UpstreamError
from proxy.wire.endpoint import OUT_OF_ROOM
from proxy.wire.resolver import AddrInfo, Resolver

STAGGER_S = 0.25
"""How long one address is tried alone before the next one joins (RFC 8305 section 5)."""
SHUTDOWN_S = 2.0
"""How long a closed TLS connection waits for the other side's close_notify before its socket goes."""

# A dead peer of an idle or waiting connection is found out after about a minute (30 + 3 * 10 s), and address
# translation on the way keeps the connections of long silent answers.
_KEEP_ALIVE = (
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPALIVE", 30),  # the same on macOS
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 3),
)
# What OpenSSL makes of an answer that is no TLS record.
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"})


async def dial(
    resolver: Resolver,
    port: int,
    protocol_for: Callable[[str], asyncio.BaseProtocol],
    *,
    tls: ssl.SSLContext | None,
    timeout_s: float,
) -> None:
    """Open a connection to the resolver's host; ``protocol_for`` is called with the address that won.

    Raises ConnectError (nobody there, no such name, no trusted TLS), ConnectTimeout (not within ``timeout_s``) or
    NoCapacity (this machine has no socket left), and nothing else. If it raises or is cancelled no socket stays; a
    protocol that was given its transport in that very moment should abort it at once, or uvloop logs an error.
    """
    attempt = _Attempt(resolver, port, tls)
    try:
        async with asyncio.timeout(timeout_s):
            await attempt.run(protocol_for, timeout_s)
    except UpstreamError:
        raise
    except Exception as error:
        failure = attempt.explain(error)
        if not isinstance(failure, NoCapacity):
            resolver.failed(attempt.tried)
        raise failure from error
    resolver.failed(attempt.tried - {attempt.won})
    resolver.worked(attempt.won)


class _Attempt:
    """One dial, and how far it has got."""

    def __init__(self, resolver: Resolver, port: int, tls: ssl.SSLContext | None) -> None:
        self._resolver = resolver
        self._port = port
        self._tls = tls
        self._doing = "the name lookup"
        self.tried: set[str] = set()
        self.won = ""

    async def run(self, protocol_for: Callable[[str], asyncio.BaseProtocol], timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        addresses = await self._resolver.addresses()
        self._doing = "the connection"
        sock = await aiohappyeyeballs.start_connection(
            [address.at(self._port) for address in addresses],
            happy_eyeballs_delay=STAGGER_S,
            interleave=1,
            loop=loop,
            socket_factory=self._socket,
        )
        try:
            self.won = sock.getpeername()[0]
        except OSError:  # reset in the meantime
            sock.close()
            raise
        protocol = protocol_for(self.won)
        if self._tls is None:
            await loop.create_connection(lambda: protocol, sock=sock)
            return
        self._doing = "the TLS handshake"
        await loop.create_connection(
            lambda: protocol,
            sock=sock,
            ssl=self._tls,
            server_hostname=_server_name(self._resolver.host),
            # The limit on the whole decides, not the loop's own on this part.
            ssl_handshake_timeout=timeout_s + 1,
            ssl_shutdown_timeout=SHUTDOWN_S,
        )

    def _socket(self, info: AddrInfo) -> socket.socket:
        self.tried.add(info[4][0])
        return upstream_socket(info)

    def explain(self, error: Exception) -> UpstreamError:
        """The error to raise for whatever went wrong."""
        where = f"{self._resolver.host}:{self._port}"
        reason = _reason(error)
        if isinstance(error, TimeoutError):
            return ConnectTimeout(f"{self._doing} for {where} was not done within connect_timeout_s")
        if isinstance(error, ssl.SSLCertVerificationError):
            return ConnectError(f"the certificate of {where} is not accepted: {error.verify_message}")
        if isinstance(error, ssl.SSLError):
            if error.reason in _NO_TLS:
                return ConnectError(f"{where} does not speak TLS: should base_url begin with http:// ?")
            return ConnectError(f"no TLS with {where}: {error.reason or reason}")
        if isinstance(error, OSError) and error.errno in OUT_OF_ROOM:
            return NoCapacity(f"no socket for a connection to {where}: {reason}")
        if self.won and isinstance(error, ConnectionError):
            return ConnectError(f"{where} ended the connection during {self._doing}: {reason}")
        return ConnectError(f"no connection to {where}: {reason}")


def upstream_socket(info: AddrInfo) -> socket.socket:
    """An unconnected TCP socket: no delay, and keep-alive probes."""
    family, kind, protocol, _, _ = info
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEP_ALIVE:
            option = getattr(socket, name, None)
            if option is not None:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError:
        sock.close()
        raise
    return sock


def _reason(error: Exception) -> str:
    """What the log says. The loops' own texts name the call that failed, not why."""
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error) or type(error).__name__


def _server_name(host: str) -> str:
    """The name a certificate must be for: without a zone, and without the dot at a full name's end (RFC 6066)."""
    return host.partition("%")[0].rstrip(".")
