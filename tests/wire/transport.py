"""A transport without a socket: what a connection does to it is written down, in order."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol


class Fed(Protocol):
    """A protocol that takes bytes; asyncio has two kinds of it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool | None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...


class MockTransport(asyncio.Transport):
    """Keeps what is written. As strict as uvloop: a write after the end is an error, not a warning.

    ``unsent`` = the other side takes nothing: `close` then waits, as a real transport flushes first.
    """

    def __init__(self, protocol: Fed) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self.written = bytearray()
        self.calls: list[str] = []
        self._is_read = True
        self.unsent = False
        self._is_lost = False
        self.eof_written = False
        self._ended = ""
        protocol.connection_made(self)

    # what a connection calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended or self.eof_written:
            raise RuntimeError("a write after the end")
        self.written += data

    def write_eof(self) -> None:
        if self._ended:
            raise RuntimeError("write_eof after the end")
        self.eof_written = True

    def can_write_eof(self) -> bool:
        return True

    def close(self) -> None:
        if not self._ended:
            self._ended = "close"
            if not self.unsent:
                self._lose()

    def abort(self) -> None:
        if self._ended == "abort":
            return
        self._ended = "abort"
        self._lose()

    def _lose(self) -> None:
        """Tell the protocol once that the connection is gone."""
        if not self._is_lost:
            self._is_lost = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        assert isinstance(self._protocol, asyncio.BaseProtocol)
        return self._protocol

    def is_closing(self) -> bool:
        return bool(self._ended)

    def pause_reading(self) -> None:
        self.calls.append("pause_reading")
        self._is_read = False

    def resume_reading(self) -> None:
        self.calls.append("resume_reading")
        self._is_read = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.calls.append(f"limits {high}")

    def get_write_buffer_size(self) -> int:
        return 1 if self.unsent else 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.7", 4711) if name == "peername" else default

    # what a test asks and does

    def ended(self) -> str:
        """How it was ended from this side: "", "close" or "abort"; "lost" if from the other."""
        return self._ended

    def is_read(self) -> bool:
        """Whether bytes may come in."""
        return self._is_read

    def feed(self, *segments: bytes) -> None:
        """Bytes come in, each as a segment of its own; none once the transport is closing, as with a real one."""
        for data in segments:
            if not self._ended:
                assert self._is_read, "fed although reading is paused"
                self._protocol.data_received(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        data = bytes(self.written)
        self.written.clear()
        return data

    def lose(self, error: Exception | None = None) -> None:
        """The other side is gone: a clean end, or a reset with ``error``."""
        if error is None and not self._protocol.eof_received():
            self._ended = "close"
        self._ended = self._ended or "lost"
        self._protocol.connection_lost(error)
