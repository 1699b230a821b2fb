"""Sides that take nothing: a client that does not read its answer, an upstream that does not read its request."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from tests.e2e.test_streams import until
from tests.support.gateway import gateway
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = [pytest.mark.gen_test(timeout=30), pytest.mark.wire_only]
LARGE = 64 * 1024 * 1024


async def slow_client(port: int) -> RawClient:
    """A client with a small buffer in its kernel, so that it is soon full."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    return RawClient(*await asyncio.open_connection(sock=sock, limit=4096))


class Flood:
    """An upstream that answers at length, and notices when it is given up."""

    def __init__(self) -> None:
        self.given_up = asyncio.Event()

    async def __call__(self, received: Received, wire: Wire) -> None:
        try:
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
            for _ in range(LARGE // 65_536):
                await wire.send(bytes(65_536))
        except ConnectionError:
            self.given_up.set()


async def test_a_client_that_takes_nothing_is_given_up(upstream: FakeUpstream) -> None:
    upstream.script = flood = Flood()
    async with gateway(upstream.base_url, downstream={"write_timeout_s": 1.0}) as worker:
        client = await slow_client(worker.listener.port)
        started = time.monotonic()
        await client.send(request())
        await client.head()
        await asyncio.wait_for(flood.given_up.wait(), 6)
        assert time.monotonic() - started > 0.9
        await until(lambda: "[0 in flight]" in repr(worker.plane))
        assert len(worker.listener) == 0
        client.close()


async def test_a_client_that_takes_a_little_now_and_then_is_not(upstream: FakeUpstream) -> None:
    upstream.script = flood = Flood()
    async with gateway(upstream.base_url, downstream={"write_timeout_s": 0.6}) as worker:
        client = await slow_client(worker.listener.port)
        await client.send(request())
        await client.head()
        for _ in range(20):
            await asyncio.sleep(0.15)
            await client.reader.readexactly(16_384)
        assert not flood.given_up.is_set()
        client.close()


@pytest.mark.config({})
async def test_an_upstream_that_takes_nothing_is_given_up(upstream: FakeUpstream) -> None:
    async def early(received: Received, wire: Wire) -> None:
        await asyncio.sleep(20)

    upstream.early = early
    stages = {"upstream": {"idle_timeout_s": 1.0}}
    async with gateway(upstream.base_url, stages=stages) as worker:
        client = await RawClient.connect(worker.listener.port)
        head = request(headers=("Authorization: Bearer k", f"Content-Length: {LARGE}"), body=None)
        sending = asyncio.ensure_future(client.send(head + bytes(LARGE)))
        answer = await asyncio.wait_for(client.answer(), 6)
        assert (answer.status, answer.json["error"]["code"]) == (504, "upstream_timeout")
        assert answer.get("x-sluice-upstream-sent") == "unknown"
        sending.cancel()
        await asyncio.wait([sending])
        client.close()
    assert upstream.ledger == []


async def test_a_client_that_reads_nothing_of_many_answers_holds_little(upstream: FakeUpstream) -> None:
    body = bytes(60_000)

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await slow_client(worker.listener.port)
        one = request("/v1/models", method="GET", body=None)
        client.writer.write(one * 2000)
        before = -1
        while before != len(upstream.ledger):
            before = len(upstream.ledger)
            await asyncio.sleep(0.3)
        # Pipelined requests wait for room like everything else: no answer is fetched that nobody takes.
        assert before < 200
        client.close()
