"""Who is on the other side of a connection, in the words Tornado's own server uses."""

from __future__ import annotations

import asyncio
import socket


class PeerContext:
    """``address``, ``remote_ip`` and ``protocol`` as `tornado.httputil.HTTPServerRequest` reads them."""

    __slots__ = ("address", "address_family", "peer_ip", "protocol", "remote_ip")

    def __init__(self, transport: asyncio.Transport, protocol: str) -> None:
        sock = transport.get_extra_info("socket")
        self.address = transport.get_extra_info("peername")
        self.address_family = sock.family if sock is not None else None
        inet = self.address_family in (socket.AF_INET, socket.AF_INET6) and bool(self.address)
        self.remote_ip = self.address[0] if inet else "0.0.0.0"
        self.protocol = protocol
        self.peer_ip: str | None = None  # the data plane's normalised form, worked out once

    def __str__(self) -> str:
        return str(self.remote_ip)
