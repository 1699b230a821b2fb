"""An upstream that speaks out of turn: what it sends is never taken for the answer to somebody's request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import proxy
from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire, answer_ok

UNASKED = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 9\r\n\r\nnot yours"
pytestmark = pytest.mark.gen_test


@asynccontextmanager
async def gateway(upstream: FakeUpstream) -> AsyncIterator[RawClient]:
    """A client of the data plane on our wire, in front of this upstream."""
    await upstream.start()
    config = {"stages": {"ip_allowlist": {"allow": ["any"]}, "upstream": {"base_url": upstream.base_url}}}
    plane = proxy.mount(config)
    listener = Listener(plane, ticker=plane.ticker, on_error=plane.render_refusal)
    await listener.listen(Endpoint("127.0.0.1"))
    client = await RawClient.connect(listener.port)
    try:
        yield client
    finally:
        client.close()
        await listener.close()
        await plane.close()
        await upstream.stop()


@pytest.mark.parametrize("moment", ["idle", "before the request is written"])
@pytest.mark.parametrize("ends", [False, True])
async def test_bytes_before_the_request(moment: str, ends: bool) -> None:
    """A request that waits for its body has sent nothing yet, so nothing can be an answer to it."""
    upstream = FakeUpstream()
    wires: list[Wire] = []

    async def remember(received: Received, wire: Wire) -> None:
        wires.append(wire)
        await answer_ok(received, wire)

    upstream.script = remember
    async with gateway(upstream) as client:
        assert (await client.ask(request())).status == 200
        data = request(body=b"{}")
        if moment != "idle":
            await client.send(data[:-2])
            await asyncio.sleep(0.02)
        await wires[0].send(UNASKED)
        if ends:
            wires[0].close()
        await asyncio.sleep(0.02)
        await client.send(data if moment == "idle" else data[-2:])
        answer = await client.answer()
        assert (answer.status, answer.json) == (200, {"ok": True})
        assert [received.connection for received in upstream.ledger] == [1, 2]


async def test_a_second_answer_behind_the_first() -> None:
    upstream = FakeUpstream()

    async def twice(received: Received, wire: Wire) -> None:
        body = received.target.encode()
        one = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        await wire.send(one + one)

    upstream.script = twice
    async with gateway(upstream) as client:
        for number in range(4):
            answer = await client.ask(request(f"/v1/{number}"))
            assert answer.body == b"/v1/%d" % number
        assert [received.connection for received in upstream.ledger] == [1, 2, 3, 4]
