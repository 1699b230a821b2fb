"""G8: when its client is gone, in whatever phase, its upstream connection is closed at once and nothing is left."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import cycle, islice, product
from typing import ClassVar

from soak import kernel
from soak.answers import stream
from soak.book import Book
from soak.caller import Leave, question
from soak.figure import Figure, Row, Size, ms, percentile
from soak.origin import Asked, Origin
from soak.process import Gateway, config
from tests.support.raw import RawClient, request
from tests.support.upstream import Wire

GOAL_S = 0.25
_LIMIT_S = 3.0
_PIECE = b"." * 32_768
_SMALL_BUFFER = 16_384
_POOL_IDLE_S = 0.5


class Phase(Enum):
    """Where the exchange stands when its client goes."""

    UPLOADING = "uploading"
    WAITING = "waiting for the head"
    HEAD = "after the head"
    STREAM = "mid-stream"
    BODY = "in a plain body"


class Stall(Enum):
    """Why the gateway does not read from the client, or write to it, at that moment."""

    NONE = "none"
    BEHIND = "client sends on"
    """Bytes behind the request, more than the gateway keeps; or more of an upload than the upstream takes."""
    UNREAD = "client does not read"


@dataclass
class Abort:
    """One client that leaves. ``took_s`` = until the upstream's connection was closed."""

    phase: Phase
    stall: Stall
    how: Leave
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    wire: Wire | None = None
    took_s: float = float("inf")


CASES = [
    (phase, stall, how)
    for phase, stall, how in product(Phase, Stall, Leave)
    if stall is not Stall.UNREAD or phase in (Phase.STREAM, Phase.BODY)
]


@dataclass(frozen=True)
class Plan:
    """``aborts`` in all cases in turns, by ``clients`` at once.

    ``goal_s`` is wider where the tests of a busy machine run beside it: of so few aborts the p99 is the slowest.
    """

    aborts: int
    clients: int
    goal_s: float = GOAL_S


class Aborts(Figure[Plan]):
    """Each abort is one request on a connection of its own."""

    name = "G8"
    about = "a client that is gone stops its upstream, and leaves nothing behind"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(10_000, 16),
        "quick": Plan(240, 12),
        "test": Plan(48, 12, 1.0),
    }

    async def run(self) -> list[Row]:
        """All aborts, in an order of chance."""
        aborts = [Abort(*case) for case in islice(cycle(CASES), self.plan.aborts)]
        random.Random(self.seed).shuffle(aborts)
        book: Book[Abort] = Book(self.seed)
        buffers = {"receive_buffer": _SMALL_BUFFER, "send_buffer": _SMALL_BUFFER}
        origin = Origin(book, _whole, _head, seed=self.seed, **buffers)
        await origin.start()
        self._sockets = kernel.Sockets()
        try:
            upstream = {"pool_idle_timeout_s": _POOL_IDLE_S}
            async with Gateway(config(origin.port, upstream=upstream)) as gateway:
                self._ports = gateway.port, origin.port
                await self._some(book, [Abort(*case) for case in CASES])  # what is made once and kept is made now
                await asyncio.sleep(_POOL_IDLE_S + 0.5)
                before = await gateway.state(count_objects=True)
                await self._some(book, aborts)
                after = await gateway.settled(before, within_s=5.0)
                after_objects = (await gateway.state(count_objects=True)).objects - before.objects
        finally:
            self._sockets.close()
            await origin.stop()
        return self._rows(aborts, after.leaked(before), after_objects)

    async def _some(self, book: Book[Abort], aborts: list[Abort]) -> None:
        left = iter(aborts)

        async def work() -> None:
            for abort in left:
                await self._one(book, abort)

        await asyncio.gather(*(work() for _ in range(self.plan.clients)))

    async def _one(self, book: Book[Abort], abort: Abort) -> None:
        nonce = book.issue(abort)
        small = 4096 if abort.stall is Stall.UNREAD else 0
        client = await RawClient.connect(self._ports[0], receive_buffer=small)
        try:
            async with asyncio.timeout(_LIMIT_S + 3):
                await self._reach(client, nonce, abort)
                left_s = time.perf_counter()
                leave(client, abort)
                if await self._until_closed(abort):
                    abort.took_s = time.perf_counter() - left_s
        except TimeoutError:
            self.say(f"  {abort.phase.value}, {abort.stall.value}: the phase was not reached")
        finally:
            client.close()
            abort.closed.set()
            if abort.wire is not None:
                abort.wire.reset()

    async def _reach(self, client: RawClient, nonce: str, abort: Abort) -> None:
        """Bring the exchange into its phase, and then the stall about."""
        if abort.stall is Stall.UNREAD:
            client.stop_reading()
        if abort.phase is Phase.UPLOADING:
            await client.send(upload(nonce))
        else:
            await client.send(question(nonce))
        await abort.reached.wait()
        if abort.phase in (Phase.HEAD, Phase.STREAM, Phase.BODY) and abort.stall is not Stall.UNREAD:
            await client.head()
            if abort.phase is not Phase.HEAD:
                await client.reader.readexactly(20)
        if abort.stall is Stall.BEHIND:
            await self._fill(client, abort)

    async def _fill(self, client: RawClient, abort: Abort) -> None:
        """Send until the gateway stops reading. Its kernel must have taken all of it, or no FIN could reach it."""
        if abort.phase is not Phase.UPLOADING:
            await client.send(upload(""))
        stood = 0
        while stood < 3:
            entry = self._sockets.find(self._ports[0], client.port)
            if entry is not None and entry.unread:
                stood += 1
                await asyncio.sleep(0.002)
            else:
                stood = 0
                await client.send(_PIECE)
                await asyncio.sleep(0)
        while kernel.unacknowledged(client.socket):  # noqa: ASYNC110 - the kernel tells nobody
            await asyncio.sleep(0.001)

    async def _until_closed(self, abort: Abort) -> bool:
        end = time.perf_counter() + _LIMIT_S
        if abort.phase is Phase.UPLOADING and abort.stall is Stall.BEHIND:
            # An upstream that reads nothing sees no end either: only the kernel knows that the gateway has closed.
            assert abort.wire is not None
            local, remote = abort.wire.peer_port, self._ports[1]
            while time.perf_counter() < end:
                entry = self._sockets.find(local, remote)
                if entry is None or entry.state != kernel.ESTABLISHED:
                    return True
                await asyncio.sleep(0.005)
            return False
        try:
            await asyncio.wait_for(abort.closed.wait(), _LIMIT_S)
        except TimeoutError:
            return False
        return True

    def _rows(self, aborts: list[Abort], leaked: dict[str, int], objects: int) -> list[Row]:
        evidence = []
        worst_s = 0.0
        for case in CASES:
            took = [abort.took_s for abort in aborts if (abort.phase, abort.stall, abort.how) == case]
            if took:
                p99_s = percentile(took, 0.99)
                line = f"{case[0].value}, stall: {case[1].value}, {case[2].value}: p99 {ms(p99_s)} of {len(took)}"
                self.say(f"  {line}")
                worst_s = max(worst_s, p99_s)
                if p99_s > self.plan.goal_s:
                    evidence.append(line)
        p99_s = percentile([abort.took_s for abort in aborts], 0.99)
        never = sum(abort.took_s == float("inf") for abort in aborts)
        counts = f"{len(aborts)} aborts, {len(CASES)} cases"
        measured = f"{ms(p99_s)} (worst case {ms(worst_s)}), {never} not within {_LIMIT_S:g} s"
        shown = ", ".join(f"{count} {name}" for name, count in leaked.items()) or "0"
        is_soon = p99_s <= self.plan.goal_s and not never
        return [
            Row(
                self.name,
                f"upstream closed p99 <= {ms(self.plan.goal_s)}",
                measured,
                counts,
                is_soon,
                tuple(evidence),
            ),
            Row(self.name, "0 fds, tasks, exchanges left over", shown, f"{counts}; {objects:+d} objects", not leaked),
        ]


def upload(nonce: str) -> bytes:
    """The start of an upload that never ends."""
    headers = ("Authorization: Bearer sk-client", f"X-Nonce: {nonce}", "Content-Length: 1000000000")
    return request(body=None, headers=headers) + b"." * 1000


def leave(client: RawClient, abort: Abort) -> None:
    """Go. With bytes unread a close is a reset (RFC 1122 section 4.2.2.13), so there the FIN is a half close."""
    if abort.how is Leave.RST:
        client.reset()
    elif abort.stall is Stall.UNREAD:
        client.half_close()
    else:
        client.close()


async def _gone(wire: Wire, abort: Abort) -> None:
    try:
        while not await wire.gone():
            pass
    except ConnectionError:
        pass
    abort.closed.set()


async def _head(asked: Asked[Abort], wire: Wire) -> None:
    abort = asked.purpose
    abort.wire = wire
    if abort.phase is not Phase.UPLOADING:
        return
    if abort.stall is Stall.BEHIND:
        wire.stop_reading()
    abort.reached.set()
    if abort.stall is Stall.BEHIND:
        await abort.closed.wait()
    else:
        await _gone(wire, abort)
    wire.close()


async def _whole(asked: Asked[Abort], wire: Wire) -> None:
    abort = asked.purpose
    if abort.phase is not Phase.WAITING:
        head, first, *_ = stream(asked.nonce, "chunked")
        if abort.phase is Phase.BODY:
            head, first = b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", b"." * 100
        await wire.send(head)
        if abort.phase is not Phase.HEAD:
            await wire.send(first)
        if abort.stall is Stall.UNREAD:
            await fill(wire, first)
    abort.reached.set()
    await _gone(wire, abort)


async def fill(wire: Wire, piece: bytes) -> None:
    """Write until the gateway takes no more."""
    many = piece * (len(_PIECE) // len(piece))
    while True:
        try:
            await asyncio.wait_for(wire.send(many), 0.1)
        except TimeoutError:
            return
