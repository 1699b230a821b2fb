"""Stopping: no new work, every stream to its own last event, and at the end of the time given a cut that says why."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest
from tornado.ioloop import IOLoop

from tests.e2e.test_streams import SSE, chunk
from tests.support.process import Sluice, serving
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = pytest.mark.gen_test(timeout=30)
EVENT = b'data: {"id":"c1"}\n\n'
LAST = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
MODELS = request("/v1/models", method="GET", body=None)
READY = request("/readyz", method="GET", body=None)


class Streaming(FakeUpstream):
    """Streams that end when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self.script = self._stream

    async def _stream(self, received: Received, wire: Wire) -> None:
        if received.method == "GET":
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        await wire.send(SSE + chunk(EVENT))
        await self.go_on.wait()
        await wire.send(LAST)


async def stream(port: int) -> RawClient:
    """A client whose stream has begun."""
    client = await RawClient.connect(port)
    await client.send(request())
    assert (await client.head()).status == 200
    assert await client.reader.readexactly(len(chunk(EVENT))) == chunk(EVENT)
    return client


async def exit_of(sluice: Sluice, timeout_s: float = 10) -> int:
    """Wait for the end of the process; its exit status."""
    return await asyncio.to_thread(sluice.process.wait, timeout_s)


async def test_streams_end_with_their_own_last_event_and_then_the_process(io_loop: IOLoop) -> None:
    upstream = Streaming()
    await upstream.start()
    with serving(SLUICE__STAGES__UPSTREAM__BASE_URL=upstream.base_url) as sluice:
        clients = [await stream(sluice.port) for _ in range(20)]
        idle = await RawClient.connect(sluice.port)
        assert (await idle.ask(MODELS)).body == b"ok"
        sluice.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(idle.is_closed(), 2)
        await asyncio.sleep(0.2)
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(sluice.port)
        assert sluice.process.poll() is None
        upstream.go_on.set()
        for client in clients:
            assert await client.reader.read() == LAST
            client.close()
        idle.close()
        assert await exit_of(sluice, 2) == 0
    await upstream.stop()


async def test_before_that_it_says_it_is_not_ready_and_still_serves(io_loop: IOLoop) -> None:
    upstream = Streaming()
    await upstream.start()
    names = {"SLUICE__STAGES__UPSTREAM__BASE_URL": upstream.base_url, "SLUICE__DRAIN__DELAY_S": "1.5"}
    with serving(**names) as sluice:
        old = await RawClient.connect(sluice.port)
        assert (await old.ask(READY)).status == 200
        sluice.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(sluice.wait_for, "not ready any more")
        for client in (old, await RawClient.connect(sluice.port)):
            answer = await client.ask(MODELS)
            assert (answer.status, answer.body, answer.get("connection")) == (200, b"ok", "close")
            assert await client.is_closed()
            client.close()
        late = await RawClient.connect(sluice.port)
        assert (await late.ask(READY)).status == 503
        late.close()
        assert await exit_of(sluice) == 0
    await upstream.stop()


async def test_what_has_not_ended_in_time_is_cut_and_told_why(io_loop: IOLoop) -> None:
    upstream = Streaming()
    await upstream.start()
    names = {"SLUICE__STAGES__UPSTREAM__BASE_URL": upstream.base_url, "SLUICE__DRAIN__TIMEOUT_S": "0.5"}
    with serving(**names) as sluice:
        client = await stream(sluice.port)
        sluice.process.send_signal(signal.SIGTERM)
        size = int(await client.reader.readuntil(b"\r\n"), 16)
        event = json.loads((await client.reader.readexactly(size)).removeprefix(b"data: "))
        assert event["error"]["code"] == "gateway_stopping"
        assert await client.reader.read() == b"\r\n"
        client.close()
        assert await exit_of(sluice) == 1
        sluice.wait_for('"stream":"truncated","aborted":"gateway"')
    await upstream.stop()


async def test_an_answer_that_has_not_begun_is_a_503_then(io_loop: IOLoop) -> None:
    upstream = FakeUpstream()
    seen = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        seen.set()
        await wire.gone()

    upstream.script = script
    await upstream.start()
    names = {"SLUICE__STAGES__UPSTREAM__BASE_URL": upstream.base_url, "SLUICE__DRAIN__TIMEOUT_S": "0.5"}
    with serving(**names) as sluice:
        client = await RawClient.connect(sluice.port)
        await client.send(request())
        await asyncio.wait_for(seen.wait(), 5)
        sluice.process.send_signal(signal.SIGTERM)
        answer = await client.answer()
        assert (answer.status, answer.json["error"]["code"]) == (503, "gateway_stopping")
        assert answer.get("x-sluice-upstream-sent") == "unknown"
        client.close()
        assert await exit_of(sluice) == 1
    await upstream.stop()


@pytest.mark.parametrize("delay_s", ["0", "600"])
async def test_a_second_signal_means_now(delay_s: str, io_loop: IOLoop) -> None:
    upstream = Streaming()
    await upstream.start()
    names = {"SLUICE__STAGES__UPSTREAM__BASE_URL": upstream.base_url, "SLUICE__DRAIN__DELAY_S": delay_s}
    with serving(**names) as sluice:
        client = await stream(sluice.port)
        sluice.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        assert sluice.process.poll() is None
        sluice.process.send_signal(signal.SIGINT)
        assert await exit_of(sluice, 3) == 1
        client.close()
    await upstream.stop()
