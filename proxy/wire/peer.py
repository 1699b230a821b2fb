"""Who is on the other side of a connection, in the words Tornado's own server uses."""

from __future__ import annotations

import asyncio
import socket


class PeerContext:
    """``address``, ``remote_ip`` and ``protocol`` as `tornado.httputil.HTTPServerRequest` reads them.

    ``address`` is a tuple for TCP and something else for a unix socket, whose peer has none. ``protocol`` is
    ``https`` where TLS ends here.
    """

    __slots__ = ("address", "address_family", "peer_ip", "protocol", "remote_ip")

    def __init__(self, transport: asyncio.Transport, protocol: str) -> None:
        sock = transport.get_extra_info("socket")
        self.address = transport.get_extra_info("peername")
        self.address_family = sock.family if sock is not None else None
        inet = self.address_family in (socket.AF_INET, socket.AF_INET6) and bool(self.address)
        self.remote_ip = self.address[0] if inet else "0.0.0.0"
        self.protocol = protocol if transport.get_extra_info("sslcontext") is None else "https"
        self.peer_ip: str | None = None  # the data plane's normalised form, worked out once

    def claim(self, source: tuple[str, int]) -> None:
        """Take the address a trusted proxy gave in its PROXY header for the socket's own."""
        self.address = source
        self.address_family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
        self.remote_ip = source[0]
        self.peer_ip = None

    @property
    def is_known(self) -> bool:
        """Whether it is known who is there: nobody is, on a TCP connection that was reset before it was accepted."""
        return self.address_family is socket.AF_UNIX or bool(self.address)

    def __str__(self) -> str:
        return str(self.remote_ip)
