"""Overload: what is too much is refused at once, and what is under way stays whole."""

from __future__ import annotations

import asyncio
import statistics
import time

import pytest

from proxy.gateway.open_files import room_for_clients
from proxy.gateway.overload import MemoryGuard, resident_bytes
from proxy.wire.listener import MAX_SURPLUS
from tests.e2e.test_streams import SSE, chunk, until
from tests.support.gateway import gateway
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = [pytest.mark.gen_test(timeout=20), pytest.mark.wire_only]
HEALTH = request("/healthz", method="GET", body=None)


class Streams:
    """An upstream whose streams go on until they are let go."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def __call__(self, received: Received, wire: Wire) -> None:
        """A stream: one event now, one at the end."""
        await wire.send(SSE + chunk(b"data: 1\n\n"))
        await self.go_on.wait()
        await wire.send(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def opened(port: int, count: int) -> list[RawClient]:
    """So many clients whose streams have begun."""
    clients = [await RawClient.connect(port) for _ in range(count)]
    for client in clients:
        await client.send(request())
        assert (await client.head()).status == 200
    return clients


async def ended(clients: list[RawClient]) -> None:
    """Every stream has its last event and its last chunk."""
    for client in clients:
        assert (await client.reader.readuntil(b"0\r\n\r\n")).count(b"data: ") == 2
        client.close()


def refused(answer: Answer) -> None:
    assert (answer.status, answer.json["error"]["code"]) == (503, "overloaded")
    assert answer.json["error"]["type"] == "server_error"
    assert answer.get("retry-after") == "1"
    assert answer.get("x-sluice-upstream-sent") == "no"


async def test_one_exchange_too_many_is_refused_while_streams_and_health_go_on(upstream: FakeUpstream) -> None:
    upstream.script = streams = Streams()
    async with gateway(upstream.base_url, overload={"max_in_flight": 3}) as worker:
        port = worker.listener.port
        clients = await opened(port, 3)
        other = await RawClient.connect(port)
        took_s = []
        for _ in range(20):
            started = time.perf_counter()
            refused(await other.ask(request()))
            took_s.append(time.perf_counter() - started)
        # Refusals wait for nothing. How long they take on a machine with nothing else to do is measured elsewhere.
        assert statistics.median(took_s) < 0.05
        assert (await other.ask(HEALTH)).status == 200
        chat = await other.ask(request("/api", body=b'{"user_content": "x"}'))
        assert (chat.status, chat.json["code"]) == (503, 503)
        assert len(upstream.ledger) == 3
        streams.go_on.set()
        await ended(clients)
        assert (await other.ask(request("/v1/models", method="GET", body=None))).status == 200
        other.close()


async def test_a_refused_upload_is_not_read(upstream: FakeUpstream) -> None:
    upstream.script = streams = Streams()
    async with gateway(upstream.base_url, overload={"max_in_flight": 1}) as worker:
        clients = await opened(worker.listener.port, 1)
        other = await RawClient.connect(worker.listener.port)
        await other.send(request(headers=("Content-Length: 100000000",), body=None))
        answer = await other.answer()
        refused(answer)
        assert answer.get("connection") == "close"
        other.close()
        streams.go_on.set()
        await ended(clients)


async def test_connections_beyond_the_cap_are_told_so_and_closed(upstream: FakeUpstream) -> None:
    upstream.script = streams = Streams()
    async with gateway(upstream.base_url, overload={"max_connections": 3}) as worker:
        port = worker.listener.port
        clients = await opened(port, 3)
        for ask, status in ((request(), 503), (HEALTH, 200), (request("/nowhere"), 404)):
            other = await RawClient.connect(port)
            answer = await other.ask(ask)
            assert (answer.status, answer.get("connection")) == (status, "close")
            if status == 503:
                refused(answer)
            assert await other.is_closed()
            other.close()
        streams.go_on.set()
        await ended(clients)
        await until(lambda: not len(worker.listener))
        assert len(upstream.ledger) == 3
        clients = await opened(port, 3)
        await ended(clients)


async def test_of_very_many_connections_the_newest_are_told(upstream: FakeUpstream) -> None:
    upstream.script = streams = Streams()
    async with gateway(upstream.base_url, overload={"max_connections": 1}) as worker:
        port = worker.listener.port
        clients = await opened(port, 1)
        idle = [await RawClient.connect(port) for _ in range(MAX_SURPLUS)]
        await until(lambda: len(worker.listener) == 1 + MAX_SURPLUS)
        for oldest, ask, status in ((0, HEALTH, 200), (1, request(), 503)):
            over = await RawClient.connect(port)
            assert (await over.ask(ask)).status == status
            assert await asyncio.wait_for(idle[oldest].is_closed(), 5)
            assert await over.is_closed()
            over.close()
            await until(lambda: len(worker.listener) == MAX_SURPLUS)
            # Another idle one takes the place that the answered one has left.
            idle.append(await RawClient.connect(port))
            await until(lambda: len(worker.listener) == 1 + MAX_SURPLUS)
        streams.go_on.set()
        await ended(clients)
        for client in idle:
            client.close()


async def test_a_full_memory_refuses_new_work_until_there_is_room_again(upstream: FakeUpstream) -> None:
    used = 0
    upstream.script = streams = Streams()
    async with gateway(upstream.base_url) as worker:
        guard = MemoryGuard(100, worker._on_memory, lambda: used)
        clients = await opened(worker.listener.port, 1)
        other = await RawClient.connect(worker.listener.port)
        models = request("/v1/models", method="GET", body=None)
        streams.go_on.set()
        for used, status, stays in (
            (89, 200, True),
            (94, 200, False),
            (96, 503, False),
            (90, 200, False),
            (50, 200, True),
        ):
            guard.poll()
            answer = await other.ask(models)
            assert answer.status == status, used
            assert (answer.get("connection") != "close") is stays, used
            if not stays:
                assert await other.is_closed()
                other.close()
                other = await RawClient.connect(worker.listener.port)
        other.close()
        await ended(clients)


def test_the_guard_reads_the_memory_of_this_process() -> None:
    before = resident_bytes()
    ballast = b"x" * 50_000_000
    assert 40_000_000 < resident_bytes() - before < 100_000_000
    del ballast


@pytest.mark.parametrize(("files", "clients"), [(20_000, 9_840), (1024, 416), (256, 80), (8, 2), (2, 1)])
def test_every_connection_has_its_files(files: int, clients: int) -> None:
    served, surplus = room_for_clients(files)
    assert served == clients
    assert served * 2 + surplus <= files
