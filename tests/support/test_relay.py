"""The fault relay: each fault does to the bytes what it says, and nothing else."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.relay import (
    Bandwidth,
    BlackHole,
    Corrupt,
    Cut,
    Dribble,
    End,
    Fault,
    FullBacklog,
    HalfClose,
    Latency,
    Relay,
    StallTLS,
    Way,
)

pytestmark = pytest.mark.gen_test
TEXT = bytes(range(256)) * 4


class Far:
    """The end behind the relay."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Ends:
    """A connection through the relay: the near end connects, the far end accepts."""

    def __init__(self, relay: Relay, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: Far) -> None:
        self.relay = relay
        self.reader = reader
        self.writer = writer
        self.far = far


@asynccontextmanager
async def through(*faults: Fault) -> AsyncIterator[Ends]:
    """A relay with these faults, and a connection through it."""
    far = Far()
    accepted = asyncio.Event()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if accepted.is_set():
            writer.close()
            return
        far.reader, far.writer = reader, writer
        accepted.set()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    relay = Relay(server.sockets[0].getsockname()[1])
    relay.faults = faults
    await relay.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
    await asyncio.wait_for(accepted.wait(), 5)
    try:
        yield Ends(relay, reader, writer, far)
    finally:
        await relay.stop()
        server.close()
        for end in (writer, far.writer):
            end.close()
            with suppress(OSError):
                await end.wait_closed()


async def all_of(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """What comes until the end, and which end it is."""
    data = b""
    try:
        while piece := await asyncio.wait_for(reader.read(65_536), 5):
            data += piece
    except ConnectionResetError:
        return data, "rst"
    return data, "fin"


async def nothing_comes(reader: asyncio.StreamReader) -> bool:
    """Whether neither bytes nor an end come for a while."""
    try:
        await asyncio.wait_for(reader.read(1), 0.1)
    except TimeoutError:
        return True
    return False


@pytest.mark.parametrize(
    "faults",
    [(), (Latency(0.01, 0.02),), (Dribble(by=100),), (Bandwidth(100_000),), (Latency(0.005, 0.01), Dribble(by=64))],
    ids=str,
)
async def test_slow_ways_change_no_byte_and_no_order(faults: Sequence[Fault]) -> None:
    async with through(*faults) as ends:
        for reader, writer in ((ends.far.reader, ends.writer), (ends.reader, ends.far.writer)):
            for start in range(0, len(TEXT), 50):
                writer.write(TEXT[start : start + 50])
                await asyncio.sleep(0)
            assert await asyncio.wait_for(reader.readexactly(len(TEXT)), 5) == TEXT
        assert [ends.relay.connections[0].passed(way) for way in Way] == [len(TEXT)] * 2


async def test_ends_pass_each_way_on_its_own() -> None:
    async with through() as ends:
        ends.writer.write(b"question")
        ends.writer.write_eof()
        assert await all_of(ends.far.reader) == (b"question", "fin")
        ends.far.writer.write(b"answer")
        ends.far.writer.close()
        assert await all_of(ends.reader) == (b"answer", "fin")


async def test_a_reset_passes_as_a_reset() -> None:
    async with through() as ends:
        ends.writer.write(b"x")
        await ends.far.reader.readexactly(1)
        ends.relay.connections[0].cut(End.RST)
        assert (await all_of(ends.reader))[1] == "rst"
        assert (await all_of(ends.far.reader))[1] == "rst"


async def test_latency_delays_but_does_not_throttle() -> None:
    delay_s = 1.0
    async with through(Latency(delay_s, way=Way.UP)) as ends:
        started = time.monotonic()
        for _ in range(20):
            ends.writer.write(b"x" * 10)
            await asyncio.sleep(0.002)
        await ends.far.reader.readexactly(200)
        # One after the other, the twenty would take twenty times as long.
        assert delay_s <= time.monotonic() - started < 10 * delay_s
        started = time.monotonic()
        ends.far.writer.write(b"y")
        await ends.reader.readexactly(1)
        assert time.monotonic() - started < delay_s


async def test_bandwidth_bounds_the_rate() -> None:
    async with through(Bandwidth(10_000)) as ends:
        started = time.monotonic()
        ends.writer.write(b"x" * 3000)
        await ends.far.reader.readexactly(3000)
        assert time.monotonic() - started >= 0.24


async def test_a_dribble_comes_in_small_segments() -> None:
    async with through(Dribble(by=3, pause_s=0.02)) as ends:
        ends.writer.write(b"123456789")
        pieces = [await ends.far.reader.read(100) for _ in range(3)]
        assert pieces == [b"123", b"456", b"789"]


@pytest.mark.parametrize("by", list(End))
@pytest.mark.parametrize("after", [0, 1, 7, 100])
@pytest.mark.parametrize("way", list(Way))
async def test_a_cut_comes_after_just_so_many_bytes(way: Way, after: int, by: End) -> None:
    async with through(Cut(after, by, way)) as ends:
        sending, reader = (ends.writer, ends.far.reader) if way is Way.UP else (ends.far.writer, ends.reader)
        with suppress(ConnectionError):
            sending.write(TEXT[:100])
            await sending.drain()
        data, end = await all_of(reader)
        assert end == by.value
        # A reset may overtake what is written already; more than was allowed never comes.
        assert TEXT[:after].startswith(data) if by is End.RST else data == TEXT[:after]


async def test_a_half_close_leaves_the_other_way_open() -> None:
    async with through(HalfClose(4)) as ends:
        ends.far.writer.write(b"12345678")
        assert await all_of(ends.reader) == (b"1234", "fin")
        ends.writer.write(b"still here")
        assert await ends.far.reader.readexactly(10) == b"still here"
        ends.far.writer.write(b"dropped")


@pytest.mark.parametrize("at", [0, 5, 9])
async def test_one_byte_is_corrupted_and_only_one(at: int) -> None:
    async with through(Corrupt(at, mask=0x01)) as ends:
        for piece in (b"abcde", b"fghij"):
            ends.far.writer.write(piece)
            await asyncio.sleep(0.01)
        expected = bytearray(b"abcdefghij")
        expected[at] ^= 0x01
        assert await ends.reader.readexactly(10) == bytes(expected)


async def test_a_black_hole_passes_nothing_until_it_is_lifted() -> None:
    async with through(BlackHole()) as ends:
        ends.writer.write(b"hello")
        ends.writer.write_eof()
        assert await nothing_comes(ends.far.reader)
        ends.relay.connections[0].faults = ()
        assert await all_of(ends.far.reader) == (b"hello", "fin")


async def test_faults_are_set_while_a_connection_is_open() -> None:
    async with through() as ends:
        ends.writer.write(b"before")
        await ends.far.reader.readexactly(6)
        ends.relay.connections[0].faults = [Cut(3, End.RST, Way.UP)]
        assert await all_of(ends.reader) == (b"", "rst")


async def test_faults_are_chosen_by_connection() -> None:
    async with through() as ends:
        ends.relay.choose = lambda number: [Cut(0)] if number == 2 else []
        reader, writer = await asyncio.open_connection("127.0.0.1", ends.relay.port)
        assert await all_of(reader) == (b"", "fin")
        writer.close()
        ends.writer.write(b"untouched")
        assert await ends.far.reader.readexactly(9) == b"untouched"


async def test_tls_stalls_behind_the_client_hello() -> None:
    async with through(StallTLS()) as ends:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="upstream.test")
        with pytest.raises(ssl.SSLWantReadError):
            tls.do_handshake()
        hello = outgoing.read()
        for start in range(0, len(hello), 3):
            ends.writer.write(hello[start : start + 3])
            await asyncio.sleep(0)
        ends.writer.write(b"more")
        assert await ends.far.reader.readexactly(len(hello)) == hello
        ends.far.writer.write(b"server hello")
        assert await nothing_comes(ends.far.reader)
        assert await nothing_comes(ends.reader)


async def test_nobody_behind_the_relay_is_a_reset() -> None:
    async with through() as ends:
        ends.relay.target_port = 1
        reader, writer = await asyncio.open_connection("127.0.0.1", ends.relay.port)
        assert await all_of(reader) == (b"", "rst")
        writer.close()


async def test_a_full_backlog_answers_no_syn() -> None:
    full = FullBacklog()
    await full.start()
    try:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.open_connection("127.0.0.1", full.port), 0.3)
    finally:
        full.stop()
