"""Requests made beforehand, sent on connections that stay, at next to no cost for each."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import cast

_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: *(\d+)\r\n")
_LOST = 0
"""The status of a call that was never answered."""

Seen = Callable[[int, bytes], None]
"""Called with the status and the whole answer; 0 and nothing if the connection ended first."""


def message_end(data: bytes, begin: int) -> int:
    """Where the HTTP message that begins there ends, body included; 0 if it is not whole yet.

    Raises ValueError for one without a Content-Length: nobody sends such a thing here.
    """
    head = data.find(b"\r\n\r\n", begin)
    if head < 0:
        return 0
    found = _LENGTH.search(data, begin, head + 2)
    if found is None:
        raise ValueError(f"no length in {data[begin:head]!r}")
    end = head + 4 + int(found[1])
    return end if end <= len(data) else 0


def post(client_ip: str, body: bytes) -> bytes:
    """A request on behalf of a client, by a proxy that is trusted to say so."""
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\n"
        b"Authorization: Bearer sk-client\r\nX-Forwarded-For: %b\r\nContent-Length: %d\r\n\r\n%b"
    ) % (client_ip.encode(), len(body), body)


class Lane(asyncio.Protocol):
    """One connection. Answers come in the order of the requests (RFC 9112 section 9.3.2), and so are told."""

    def __init__(self) -> None:
        self._rest = b""
        self._waiting: list[Seen] = []
        self._answered = 0
        self._is_lost = False

    @classmethod
    async def connect(cls, address: str, port: int, *, own: str | None = None) -> Lane:
        """A lane to a gateway, from an address of our own. Raises OSError."""
        local = None if own is None else (own, 0)
        _, lane = await asyncio.get_running_loop().create_connection(cls, address, port, local_addr=local)
        return lane

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection stands."""
        # uvloop's transports have the methods, but are no subclass.
        self._transport = cast(asyncio.Transport, transport)

    @property
    def is_open(self) -> bool:
        """Whether it can be written to."""
        return not self._transport.is_closing()

    @property
    def is_idle(self) -> bool:
        """Whether every request was answered."""
        return self._answered == len(self._waiting)

    def send(self, requests: Iterable[bytes], seen: Iterable[Seen]) -> None:
        """Write requests, all at once; each of ``seen`` is told the answer to its own."""
        if self.is_idle:
            self._waiting.clear()
            self._answered = 0
        told = list(seen)
        self._waiting += told
        if self._is_lost:
            self._give_up()
        elif self.is_open:
            self._transport.write(b"".join(requests))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """One request; its status and answer."""
        future: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self.send([request], [lambda status, answer: future.set_result((status, answer))])
        return await future

    def data_received(self, data: bytes) -> None:
        """Tell every whole answer."""
        if self._rest:
            data = self._rest + data
        begin = 0
        while end := message_end(data, begin):
            seen = self._waiting[self._answered]
            self._answered += 1
            seen(int(data[begin + 9 : begin + 12]), data[begin:end])
            begin = end
        self._rest = data[begin:]

    def connection_lost(self, exc: Exception | None) -> None:
        """What was not answered is lost."""
        self._is_lost = True
        self._give_up()

    def _give_up(self) -> None:
        while self._answered < len(self._waiting):
            seen = self._waiting[self._answered]
            self._answered += 1
            seen(_LOST, b"")

    def close(self) -> None:
        """Hang up."""
        self._transport.abort()
