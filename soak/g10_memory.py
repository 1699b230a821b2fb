"""G10: whoever is slow, and however large the body, the gateway's memory stays where it was."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from soak import kernel
from soak.answers import answer
from soak.book import Book
from soak.caller import Caller, plainly, question
from soak.figure import Figure, Row, Size, mib
from soak.origin import Asked, Origin
from soak.process import Gateway, config
from tests.support.raw import RawClient, request
from tests.support.upstream import Wire

MIB = 1 << 20
SLOW_BODY = 80 * MIB
SLOW_GOAL = 1 * MIB
MANY = 1000
MANY_GOAL = 256 * MIB
TRANSFER_GOAL = 16 * MIB
_PIECE = b"." * 65_536
_BUFFER = 65_536
"""Of the upstream's sockets: they stand for a network, and a thousand must fit into the kernel's memory."""
_WARM_UP = 200


@dataclass(frozen=True)
class Plan:
    """Slow peers are held for ``hold_s``; ``readers`` of them at once; ``transfer_bytes`` go up and down."""

    readers: int
    transfer_bytes: int
    hold_s: float


@dataclass(frozen=True)
class Load:
    """What a request is answered with, or brings; 0 = the small answer. ``wait_s`` = before its body is read."""

    down: int = 0
    up: int = 0
    wait_s: float = 0.0


class Memory(Figure[Plan]):
    """Each measurement has a gateway of its own, warmed up by small requests and one fast large answer."""

    name = "G10"
    about = "memory stays where it was under slow peers and large bodies"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(MANY, 1024 * MIB, 5.0),
        "quick": Plan(MANY, 128 * MIB, 2.0),
        "test": Plan(50, 24 * MIB, 0.5),
    }

    async def run(self) -> list[Row]:
        """The four measurements, one after the other."""
        kernel.raise_fd_limit()
        rows = []
        for measure in (self._slow_reader, self._slow_readers, self._upload, self._download):
            self._book: Book[Load] = Book(self.seed)
            origin = Origin(self._book, _whole, _head, receive_buffer=_BUFFER, send_buffer=_BUFFER)
            await origin.start()
            try:
                async with Gateway(config(origin.port)) as gateway:
                    await self._warm_up(gateway)
                    row = await measure(gateway)
                    await gateway.state()
            finally:
                await origin.stop()
            self.say(f"  {row.goal}: {row.measured}")
            rows.append(row)
        return rows

    async def _warm_up(self, gateway: Gateway) -> None:
        caller = Caller(gateway.port, self.seed)
        for _ in range(_WARM_UP):
            await caller.ask(self._book, self._book.issue(Load()), plainly)
        caller.close()
        await self._take(gateway.port, 8 * MIB)

    async def _grown(self, gateway: Gateway, during: Callable[[], Awaitable[None]]) -> int:
        """By how much the peak of resident memory exceeds what was resident before, in bytes."""
        before = gateway.rss_bytes()
        kernel.forget_peak(gateway.pid)
        await during()
        return kernel.peak_rss_bytes(gateway.pid) - before

    async def _noise(self, gateway: Gateway) -> str:
        """The same measure while nothing happens: what of a figure may be chance."""
        return f"±{mib(await self._grown(gateway, lambda: asyncio.sleep(self.plan.hold_s)))} with nothing to do"

    async def _hold(self, port: int, readers: int) -> None:
        """Readers that take nothing of a large answer, for a while."""
        clients = []
        for _ in range(readers):
            client = await RawClient.connect(port, receive_buffer=4096)
            client.stop_reading()
            await client.send(question(self._book.issue(Load(down=SLOW_BODY))))
            clients.append(client)
        await asyncio.sleep(self.plan.hold_s)
        for client in clients:
            client.reset()

    async def _slow_reader(self, gateway: Gateway) -> Row:
        noise = await self._noise(gateway)
        grown = await self._grown(gateway, lambda: self._hold(gateway.port, 1))
        goal = f"one slow reader of {mib(SLOW_BODY)}: RSS + <= {mib(SLOW_GOAL)}"
        return Row(self.name, goal, f"+{mib(grown)}", f"peak of {self.plan.hold_s:g} s, {noise}", grown <= SLOW_GOAL)

    async def _slow_readers(self, gateway: Gateway) -> Row:
        """All the promised ones must fit; of fewer, each within what one may take: they cannot stand for the rest."""
        many = self.plan.readers
        before = gateway.rss_bytes()
        grown = await self._grown(gateway, lambda: self._hold(gateway.port, many))
        goal, ok = f"RSS <= {mib(MANY_GOAL)}", before + grown <= MANY_GOAL
        if many != MANY:
            goal, ok = f"RSS + <= {mib(SLOW_GOAL)} each", grown <= many * SLOW_GOAL
        said = f"{mib(before + grown)}"
        counts = f"peak, {grown / many / 1024:.1f} KiB each over {mib(before)}"
        return Row(self.name, f"{many} slow readers: {goal}", said, counts, ok)

    async def _upload(self, gateway: Gateway) -> Row:
        started = time.perf_counter()
        grown = await self._grown(gateway, lambda: self._send(gateway.port))
        return self._transfer("up to a slow upstream", grown, time.perf_counter() - started)

    async def _download(self, gateway: Gateway) -> Row:
        started = time.perf_counter()
        grown = await self._grown(gateway, lambda: self._take(gateway.port, self.plan.transfer_bytes))
        return self._transfer("down", grown, time.perf_counter() - started)

    def _transfer(self, way: str, grown: int, seconds: float) -> Row:
        goal = f"{mib(self.plan.transfer_bytes)} {way}: RSS + <= {mib(TRANSFER_GOAL)}"
        return Row(self.name, goal, f"+{mib(grown)}", f"peak, {seconds:.1f} s", grown <= TRANSFER_GOAL)

    async def _send(self, port: int) -> None:
        size = self.plan.transfer_bytes
        nonce = self._book.issue(Load(up=size, wait_s=self.plan.hold_s))
        client = await RawClient.connect(port)
        headers = ("Authorization: Bearer sk-client", f"X-Nonce: {nonce}", f"Content-Length: {size}")
        await client.send(request(body=None, headers=headers))
        for _ in range(0, size, len(_PIECE)):
            client.writer.write(_PIECE)
            await client.writer.drain()
        got = await client.answer()
        client.close()
        if got.status != 200 or str(size) not in (got.get("x-size") or ""):
            raise RuntimeError(f"the upload did not arrive whole: {got}")

    async def _take(self, port: int, size: int) -> None:
        client = await RawClient.connect(port)
        await client.send(question(self._book.issue(Load(down=size))))
        await client.head()
        while size > 0 and (piece := await client.reader.read(1 << 18)):
            size -= len(piece)
        client.close()
        if size:
            raise RuntimeError(f"{size} bytes of the download are missing")


async def _head(asked: Asked[Load], wire: Wire) -> None:
    """Read nothing of an upload for a while, then all of it, in pieces that are let go at once."""
    left = asked.purpose.up
    if not left:
        return
    wire.stop_reading()
    await asyncio.sleep(asked.purpose.wait_s)
    wire.read_on()
    while left > 0 and (piece := await wire.reader.read(1 << 18)):
        left -= len(piece)
    size = b"X-Size: %d\r\n" % (asked.purpose.up - left)
    await wire.send(answer(asked.nonce, more=size + b"Connection: close\r\n"))
    wire.close()


async def _whole(asked: Asked[Load], wire: Wire) -> None:
    left = asked.purpose.down
    if not left:
        await wire.send(answer(asked.nonce))
        return
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % left)
    while left > 0:
        await wire.send(_PIECE[:left])
        left -= len(_PIECE)
