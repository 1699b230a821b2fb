"""Long silence: a model may think for a quarter of an hour, before its first word and between two of them.

Sockets are real, and the clock is not: it jumps, and the sweep for deadlines is made by hand.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tornado.ioloop import IOLoop

from proxy.gateway.plane import DataPlane
from tests.e2e.test_streams import SSE, chunk, until
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = [pytest.mark.gen_test(timeout=100_000), pytest.mark.wire_only]  # by the clock that jumps
Pass = Callable[[float], None]
ALMOST_S = 899.0


@pytest.fixture
def passing(io_loop: IOLoop, plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Lets seconds pass at once."""
    loop = io_loop.asyncio_loop  # type: ignore[attr-defined]
    real = loop.time
    passed_s = 0.0
    monkeypatch.setattr(loop, "time", lambda: real() + passed_s)

    def let_pass(seconds: float) -> None:
        nonlocal passed_s
        passed_s += seconds
        plane.ticker._sweep()

    return let_pass


class Thinking:
    """An upstream that answers step by step, when it is told to."""

    def __init__(self) -> None:
        self.step = asyncio.Semaphore(0)
        self.given_up = False

    async def __call__(self, received: Received, wire: Wire) -> None:
        for piece in (SSE, chunk(b'data: {"a":1}\n\n'), chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"):
            waiting = asyncio.ensure_future(self.step.acquire())
            gone = asyncio.ensure_future(wire.gone())
            await asyncio.wait([waiting, gone], return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if not waiting.done():
                waiting.cancel()
                self.given_up = True
                return
            await wire.send(piece)


async def test_a_quarter_of_an_hour_of_silence_cuts_nothing(port: int, upstream: FakeUpstream, passing: Pass) -> None:
    upstream.script = thinking = Thinking()
    client = await RawClient.connect(port)
    await client.send(request())
    await until(lambda: upstream.ledger)
    passing(ALMOST_S)
    thinking.step.release()
    assert (await client.head()).status == 200
    passing(ALMOST_S)
    thinking.step.release()
    assert await client.reader.readuntil(b"}\n\n\r\n") == chunk(b'data: {"a":1}\n\n')
    passing(ALMOST_S)
    thinking.step.release()
    assert await client.reader.readuntil(b"0\r\n\r\n") == chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    # The connection is good for the next one.
    await client.send(request())
    await until(lambda: len(upstream.ledger) == 2)
    client.close()


async def test_and_not_for_ever(port: int, upstream: FakeUpstream, passing: Pass) -> None:
    upstream.script = thinking = Thinking()
    client = await RawClient.connect(port)
    await client.send(request())
    await until(lambda: upstream.ledger)
    passing(901)
    answer = await client.answer()
    assert (answer.status, answer.get("x-sluice-upstream-sent")) == (504, "unknown")
    await until(lambda: thinking.given_up)
    client.close()


async def test_the_client_may_be_slow_to_read_without_the_upstream_being_called_silent(
    port: int, upstream: FakeUpstream, passing: Pass
) -> None:
    """While it is the client that makes the upstream wait, its silence is not held against it."""
    total = 48 * 1024 * 1024

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        for _ in range(total // 65_536):
            await wire.send(bytes(65_536))

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    await client.head()
    read = 0
    for _ in range(3):
        await asyncio.sleep(0.2)
        read += len(await client.reader.readexactly(8 * 1024 * 1024))
        passing(50)  # less than write_timeout_s, in which the client must take something
    while read < total:
        read += len(await client.reader.readexactly(65_536))
    client.close()
