"""One connection that sends one input: patient, brisk or rude."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from enum import Enum
from typing import cast

from fuzz.raw.gateway import TIMEOUT_S

BRISK_S = 0.1
"""How long a brisk client waits for a first byte."""
HANG_S = 1.0
"""More than this beyond the gateway's own timeouts is a hang."""
NEVER_S = 10.0
"""After so much more it will never answer: every timeout of the gateway is long over."""
_SWEEP_S = 0.2  # timeouts fire up to this much late
_LINGER_ZERO = struct.pack("ii", 1, 0)
_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ")


class Manner(Enum):
    """How a client behaves once it has sent its input."""

    PATIENT = "waits for the gateway to close"
    BRISK = "closes its half when an answer begins, or none does"
    RUDE = "resets at once"


class Client(asyncio.Protocol):
    """``done`` gives the bytes that came, and None for a gateway that neither answers nor closes at all.

    ``was_slow`` tells of one that did so after more than a second.
    """

    def __init__(self, parts: list[bytes], manner: Manner) -> None:
        self._loop = asyncio.get_running_loop()
        self._parts = parts
        self._manner = manner
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self.was_slow = False
        self.done: asyncio.Future[bytes | None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def _send(self) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(self._parts.pop(0))
        if self._parts:
            self._loop.call_later(0.002, self._send)
        elif self._manner is Manner.RUDE:
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            self._loop.call_later(0.003, self._transport.abort)
        elif self._manner is Manner.BRISK:
            self._wait(BRISK_S, self._leave)
        else:
            self._wait(TIMEOUT_S + _SWEEP_S + HANG_S, self._is_slow)

    def _wait(self, seconds: float, then: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then)  # type: ignore[arg-type]

    def _leave(self) -> None:
        if not self._transport.is_closing() and not self._parts:
            self._manner = Manner.PATIENT
            self._transport.write_eof()
            self._wait(HANG_S, self._is_slow)

    def _is_slow(self) -> None:
        self.was_slow = True
        self._wait(NEVER_S, self._give_up)

    def _give_up(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """An answer begins, or goes on."""
        self._received += data
        if self._manner is Manner.BRISK:
            self._leave()
        elif self._manner is Manner.PATIENT and not self.was_slow:
            self._wait(TIMEOUT_S + _SWEEP_S + HANG_S, self._is_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        if self._timer is not None:
            self._timer.cancel()
        if not self.done.done():
            self.done.set_result(bytes(self._received))


def status_of(received: bytes) -> int:
    """The status of the first answer; 0 if nothing came, -1 if it is no answer."""
    if not received:
        return 0
    match = _STATUS.match(received)
    return int(match[1]) if match else -1
