"""A TCP relay that does to the bytes between two ends what bad networks and bad hosts do.

It sits between gateway and upstream, or between client and gateway. Faults are set for connections to come
(`Relay.faults`) or for one that is open (`Relayed.faults`), at any time.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

_READ = 65_536
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Way(Enum):
    """A direction: up = from the end that connected to the one it wanted to reach."""

    UP = "up"
    DOWN = "down"


class End(Enum):
    """How a connection is ended."""

    FIN = "fin"
    RST = "rst"


@dataclass(frozen=True)
class Latency:
    """Bytes arrive so much later, and up to ``jitter_s`` more; their order stays."""

    delay_s: float
    jitter_s: float = 0.0
    way: Way | None = None


@dataclass(frozen=True)
class Bandwidth:
    """No more bytes in a second than this."""

    bytes_per_s: float
    way: Way | None = None


@dataclass(frozen=True)
class Dribble:
    """Segments of ``by`` bytes with a pause behind each."""

    by: int = 1
    pause_s: float = 0.0
    way: Way | None = None


@dataclass(frozen=True)
class Corrupt:
    """The byte at this offset of one direction has the bits of ``mask`` flipped."""

    at: int
    mask: int = 0x80
    way: Way = Way.DOWN


@dataclass(frozen=True)
class Cut:
    """After so many bytes of one direction both sides are ended."""

    after: int
    by: End = End.FIN
    way: Way = Way.DOWN


@dataclass(frozen=True)
class HalfClose:
    """After so many bytes one direction ends, and what follows in it is dropped; the other goes on."""

    after: int
    way: Way = Way.DOWN


@dataclass(frozen=True)
class BlackHole:
    """Nothing passes, ends included."""

    way: Way | None = None


@dataclass(frozen=True)
class StallTLS:
    """The first TLS record (RFC 8446 section 5.1), the ClientHello, passes; nothing behind it and no answer does."""


Fault = Latency | Bandwidth | Dribble | Corrupt | Cut | HalfClose | BlackHole | StallTLS
_F = TypeVar("_F", Latency, Bandwidth, Dribble, Corrupt, Cut, HalfClose, BlackHole, StallTLS)


class _Flow:
    """One direction of a connection: read, wait as long as the latency says, write."""

    def __init__(self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, owner: Relayed) -> None:
        self.way = way
        self.passed = 0
        self._reader = reader
        self._writer = writer
        self._owner = owner
        self._start = b""  # of the first TLS record: its header says how long it is
        self._ended = False
        self._due_s = 0.0
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)

    async def read(self) -> None:
        """Take what comes, and write down when it is due."""
        loop = asyncio.get_running_loop()
        while True:
            data = await self._reader.read(_READ)
            latency = self._owner.fault(Latency, self.way)
            delay_s = latency.delay_s + random.uniform(0, latency.jitter_s) if latency else 0.0
            self._due_s = max(self._due_s, loop.time() + delay_s)
            await self._queue.put((self._due_s, data))
            if not data:
                return

    async def write(self) -> None:
        """Pass on what is due."""
        loop = asyncio.get_running_loop()
        while True:
            due_s, data = await self._queue.get()
            if due_s > loop.time():
                await asyncio.sleep(due_s - loop.time())
            if not data:
                await self._owner.passable(self)
                self._end()
                return
            await self._pass(data)

    async def _pass(self, data: bytes) -> None:
        while data and not self._ended:
            allowed = await self._owner.passable(self)
            step = min(allowed, self._step(len(data)))
            piece, data = data[:step], data[step:]
            end = self.end_within(len(piece))
            if end is not None:
                piece = piece[: end.after - self.passed]
            piece = self._corrupted(piece)
            self._start = (self._start + piece)[:5]
            self.passed += len(piece)
            if piece:
                self._writer.write(piece)
                await self._writer.drain()
            if end is not None:
                self.carry_out(end)
                return
            await self._pause(len(piece))

    def _step(self, size: int) -> int:
        dribble = self._owner.fault(Dribble, self.way)
        bandwidth = self._owner.fault(Bandwidth, self.way)
        step = dribble.by if dribble else size
        return max(1, min(step, int(bandwidth.bytes_per_s / 20))) if bandwidth else step

    async def _pause(self, size: int) -> None:
        dribble = self._owner.fault(Dribble, self.way)
        bandwidth = self._owner.fault(Bandwidth, self.way)
        if dribble or bandwidth:
            await asyncio.sleep(
                (dribble.pause_s if dribble else 0) + (size / bandwidth.bytes_per_s if bandwidth else 0)
            )

    def _corrupted(self, piece: bytes) -> bytes:
        fault = self._owner.fault(Corrupt, self.way)
        if fault is None or not 0 <= (at := fault.at - self.passed) < len(piece):
            return piece
        return piece[:at] + bytes([piece[at] ^ fault.mask]) + piece[at + 1 :]

    def end_within(self, size: int) -> Cut | HalfClose | None:
        """The fault that ends this direction within its next ``size`` bytes."""
        for end in (self._owner.fault(Cut, self.way), self._owner.fault(HalfClose, self.way)):
            if end is not None and end.after <= self.passed + size:
                return end
        return None

    def carry_out(self, end: Cut | HalfClose) -> None:
        """End this direction, or both."""
        if isinstance(end, Cut):
            self._owner.cut(end.by)
        else:
            self._end()

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            if not self._writer.transport.is_closing() and self._writer.can_write_eof():
                self._writer.write_eof()

    def hello_left(self) -> int:
        """How many bytes the first TLS record still lacks; before its header is in, those of the header."""
        if len(self._start) < 5:
            return 5 - len(self._start)
        return max(0, 5 + int.from_bytes(self._start[3:5], "big") - self.passed)


class Relayed:
    """One connection through the relay. ``passed`` counts its bytes."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._changed = asyncio.Event()
        self._flows: list[_Flow] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.is_open = True

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What is done to this connection; may be set at any time."""
        return self._faults

    @faults.setter
    def faults(self, faults: Sequence[Fault]) -> None:
        self._faults = tuple(faults)
        self._changed.set()
        self._changed = asyncio.Event()
        self._end_what_is_due()

    def passed(self, way: Way) -> int:
        """How many bytes went through in one direction."""
        return sum(flow.passed for flow in self._flows if flow.way is way)

    def fault(self, kind: type[_F], way: Way) -> _F | None:
        """The fault of one kind that is set for a direction."""
        for fault in self._faults:
            if isinstance(fault, kind) and getattr(fault, "way", None) in (None, way):
                return fault
        return None

    async def passable(self, flow: _Flow) -> int:
        """Wait until bytes of a direction may pass; how many."""
        while True:
            is_stalled = any(isinstance(fault, StallTLS) for fault in self._faults)
            if is_stalled:
                allowed = flow.hello_left() if flow.way is Way.UP else 0
            else:
                allowed = 0 if self.fault(BlackHole, flow.way) else _READ
            if allowed:
                return allowed
            await self._changed.wait()

    def cut(self, by: End) -> None:
        """End both sides now; what is written already goes out before a FIN, and is lost with a reset."""
        self.is_open = False
        for writer in self._writers:
            if by is End.RST:
                sock = writer.get_extra_info("socket")
                if sock is not None and not writer.transport.is_closing():
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
                writer.transport.abort()
            else:
                writer.close()

    async def run(
        self,
        near: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        far: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Relay until both directions have ended."""
        self._writers = [near[1], far[1]]
        self._flows = [_Flow(Way.UP, near[0], far[1], self), _Flow(Way.DOWN, far[0], near[1], self)]
        tasks = [asyncio.ensure_future(step()) for flow in self._flows for step in (flow.read, flow.write)]
        try:
            self._end_what_is_due()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            if any(task.exception() for task in done):
                # One end was reset: so is the other.
                self.cut(End.RST)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.cut(End.FIN)
            for writer in self._writers:
                with suppress(OSError):
                    await writer.wait_closed()

    def _end_what_is_due(self) -> None:
        for flow in self._flows:
            end = flow.end_within(0)
            if end is not None:
                flow.carry_out(end)


class Relay:
    """Accepts on a free port of loopback and relays to ``target_port`` there."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self.faults: Sequence[Fault] = ()
        """For connections to come."""
        self.choose: Callable[[int], Sequence[Fault]] | None = None
        """The faults of a connection by its number, from 1, in place of ``faults``."""
        self.accepted = 0
        self.connections: list[Relayed] = []
        """Those that are open."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Bind and accept."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        relayed = Relayed(self.choose(self.accepted) if self.choose else self.faults)
        self.connections.append(relayed)
        try:
            far = await asyncio.open_connection("127.0.0.1", self.target_port)
            await relayed.run((reader, writer), far)
        except OSError:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
            writer.transport.abort()
        except asyncio.CancelledError:
            # Only `stop` cancels; asyncio's streams would report it as a failure of the handler.
            writer.transport.abort()
        finally:
            self.connections.remove(relayed)
            self._tasks.discard(task)

    async def stop(self) -> None:
        """Close everything."""
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # lost connections are reported in the loop's next round


class FullBacklog:
    """A listener whose queue is full: further SYNs get no answer at all, as from a host that is not there."""

    def __init__(self) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(0)
        self.port: int = self._listener.getsockname()[1]
        self._fillers: list[socket.socket] = []

    async def start(self) -> None:
        """Fill the queue. Raises OSError if the kernel goes on answering."""
        loop = asyncio.get_running_loop()
        for _ in range(16):
            filler = socket.socket()
            filler.setblocking(False)
            self._fillers.append(filler)
            try:
                async with asyncio.timeout(0.2):
                    await loop.sock_connect(filler, ("127.0.0.1", self.port))
            except TimeoutError:
                return
        raise OSError("the queue of the listener does not fill up")

    def stop(self) -> None:
        """Close everything."""
        for sock in (*self._fillers, self._listener):
            sock.close()
