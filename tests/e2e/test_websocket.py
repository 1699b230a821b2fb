"""WebSocket through the gateway: the chain first, then a tunnel. With a real client and a real server library."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus

from proxy.gateway.worker import Worker
from tests.e2e.test_streams import until
from tests.support.gateway import gateway
from tests.support.raw import RawClient
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = [pytest.mark.gen_test(timeout=20), pytest.mark.wire_only]
HANDSHAKE = (
    b"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer sk-client\r\n"
    b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
# The key above and its answer are those of RFC 6455 section 1.3.
SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nOpenAI-Model: m\r\n\r\n"
)


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[str, list[ServerConnection]]]:
    """A WebSocket server that sends back whatever it gets, and the connections it had."""
    seen: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        seen.append(connection)
        async for message in connection:
            await connection.send(message)

    async with serve(handle, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1", seen


def url(worker: Worker) -> str:
    return f"ws://127.0.0.1:{worker.listener.port}/v1/realtime?model=gpt-realtime"


KEY = {"Authorization": "Bearer sk-client"}


async def test_messages_go_both_ways_and_the_close_too() -> None:
    async with echo() as (base_url, seen), gateway(base_url) as worker:
        async with connect(url(worker), additional_headers=KEY, compression=None) as client:
            for message in ("hello", b"\x00\xff", "x" * 100_000):
                await client.send(message)
                assert await client.recv() == message
            await client.close(1000, "done")
        assert client.close_code == 1000
        await until(lambda: seen[0].close_code == 1000)
        assert seen[0].request is not None
        assert seen[0].request.path == "/v1/realtime?model=gpt-realtime"
        assert seen[0].request.headers["Authorization"] == "Bearer sk-client"
        await until(lambda: "[0 in flight]" in repr(worker.plane))


async def test_the_sdk_speaks_realtime_through_it() -> None:
    async def handle(connection: ServerConnection) -> None:
        await connection.send(json.dumps({"type": "session.created", "event_id": "e1", "session": {}}))
        request = json.loads(await connection.recv())
        assert request["type"] == "response.create"
        await connection.send(json.dumps({"type": "response.output_text.delta", "event_id": "e2", "delta": "Hi"}))
        await connection.wait_closed()

    async with serve(handle, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with gateway(f"http://127.0.0.1:{port}/v1") as worker:
            base_url = f"ws://127.0.0.1:{worker.listener.port}/v1"
            async with (
                AsyncOpenAI(api_key="sk-mine", websocket_base_url=base_url) as sdk,
                sdk.realtime.connect(model="gpt-realtime") as connection,
            ):
                assert (await connection.recv()).type == "session.created"
                await connection.response.create()
                delta = await connection.recv()
    assert delta.type == "response.output_text.delta"
    assert delta.delta == "Hi"


async def test_who_is_refused_by_the_chain_gets_no_tunnel() -> None:
    async with echo() as (base_url, seen), gateway(base_url, chain=["limit", "key", "upstream"]) as worker:
        with pytest.raises(InvalidStatus) as refused:
            await connect(url(worker))
        assert refused.value.response.status_code == 401
    assert seen == []


async def test_a_server_key_takes_the_place_of_the_clients() -> None:
    async with echo() as (base_url, seen):
        stages = {
            "upstream": {"base_url": base_url},
            "key": {"server_keys": ["sk-server"], "prefer": "server"},
            "ip_allowlist": {"allow": ["127.0.0.1"]},
        }
        async with (
            gateway(base_url, stages=stages) as worker,
            connect(url(worker), additional_headers=KEY) as client,
        ):
            await client.send("x")
            await client.recv()
    assert seen[0].request is not None
    assert seen[0].request.headers.get_all("Authorization") == ["Bearer sk-server"]


async def test_an_upstream_that_declines_answers_as_usual(upstream: FakeUpstream) -> None:
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        for _ in range(2):
            answer = await client.ask(HANDSHAKE)
            assert (answer.status, answer.json) == (200, {"ok": True})
        client.close()
    assert upstream.ledger[0].get("upgrade") == "websocket"
    assert upstream.ledger[0].get_all("connection") == ["Upgrade"]


async def test_a_length_of_zero_is_no_body_and_in_no_ones_way(upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SWITCHED.replace(b"OpenAI-Model: m\r\n", b"Content-Length: 0\r\n") + b"hello")
        await wire.gone()

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(HANDSHAKE.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"))
        head = await client.head()
        assert (head.status, head.get("content-length")) == (101, None)
        assert await client.reader.readexactly(5) == b"hello"
        client.close()
    assert upstream.ledger[0].get("upgrade") == "websocket"
    assert upstream.ledger[0].get("content-length") is None


async def test_what_each_side_says_too_early_is_not_lost(upstream: FakeUpstream) -> None:
    got = asyncio.get_running_loop().create_future()

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SWITCHED + b"server first")
        got.set_result(await wire.reader.readexactly(12))
        wire.close()

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(HANDSHAKE + b"client first")
        head = await client.head()
        assert (head.status, head.get("upgrade"), head.get("connection")) == (101, "websocket", "Upgrade")
        assert head.get("openai-model") == "m"
        assert head.get("x-sluice-request-id")
        assert await client.reader.readexactly(12) == b"server first"
        assert await got == b"client first"
        assert await client.is_closed()
        client.close()
        await until(lambda: "[0 in flight]" in repr(worker.plane))


@pytest.mark.parametrize(
    "answer",
    [
        SWITCHED.replace(b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", b"AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        SWITCHED.replace(b"Upgrade: websocket", b"Upgrade: h2c"),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
    ids=["wrong accept", "another protocol", "bare"],
)
async def test_a_101_that_is_no_handshake_is_a_failure(answer: bytes, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(answer)
        await wire.gone()

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        refusal = await client.ask(HANDSHAKE)
        assert (refusal.status, refusal.json["error"]["code"]) == (502, "upstream_protocol_error")
        client.close()


@pytest.mark.parametrize(
    "changed",
    [
        (b"GET ", b"POST "),
        (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"),
        (b"Connection: keep-alive, Upgrade\r\n", b"Connection: keep-alive\r\n"),
        (b"Upgrade: websocket\r\n", b"Upgrade: h2c\r\n"),
        (b"Upgrade: websocket\r\n", b"Upgrade: websocket, h2c\r\n"),
        (b"Upgrade: websocket\r\n", b"Upgrade: websocket\r\nUpgrade: h2c\r\n"),
        (b"\r\n\r\n", b"\r\nContent-Length: 2\r\n\r\n{}"),
    ],
)
async def test_any_other_upgrade_is_ignored_and_its_body_counted_once(
    changed: tuple[bytes, bytes], upstream: FakeUpstream
) -> None:
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        answer = await client.ask(HANDSHAKE.replace(*changed, 1))
        assert answer.status == 200
        client.close()
    (received,) = upstream.ledger
    assert received.get("upgrade") is None
    assert received.get("connection") is None
    assert received.body == (b"{}" if b"{}" in changed[1] else b"")


async def test_a_101_nobody_asked_for_is_a_failure(upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SWITCHED + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        answer = await client.ask(b"GET /v1/models HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\n\r\n")
        assert answer.status == 502
        client.close()


@pytest.mark.parametrize("who", ["client", "upstream"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_when_one_side_leaves_the_other_is_closed(how: str, who: str, upstream: FakeUpstream) -> None:
    gone = asyncio.Event()
    leave = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SWITCHED)
        if who == "client":
            assert await wire.gone()
            gone.set()
        else:
            await leave.wait()
            wire.reset() if how == "reset" else wire.close()

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(HANDSHAKE)
        await client.head()
        if who == "client":
            client.writer.transport.abort() if how == "reset" else client.close()
            await asyncio.wait_for(gone.wait(), 0.5)
        else:
            leave.set()
            assert await asyncio.wait_for(client.is_closed(), 0.5)
            client.close()
        await until(lambda: "[0 in flight]" in repr(worker.plane))


async def test_a_client_that_leaves_while_nobody_takes_its_bytes_is_noticed(upstream: FakeUpstream) -> None:
    left = asyncio.Event()
    gone = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SWITCHED)
        await left.wait()
        while await wire.reader.read(1 << 20):
            pass
        gone.set()

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(HANDSHAKE)
        await client.head()
        block = os.urandom(1 << 20)
        sent = 0
        while sent < 64:
            client.writer.write(block)
            try:
                await asyncio.wait_for(client.writer.drain(), 0.5)
            except TimeoutError:
                break
            sent += 1
        assert sent < 64, "nothing made the client wait"
        client.writer.transport.abort()
        left.set()
        await asyncio.wait_for(gone.wait(), 5)
        await until(lambda: "[0 in flight]" in repr(worker.plane))


async def test_a_slow_side_makes_the_other_wait_and_nothing_is_lost() -> None:
    read_on = asyncio.Event()
    total = 24

    async def handle(connection: ServerConnection) -> None:
        await read_on.wait()
        async for message in connection:
            await connection.send(str(len(message)))

    async with serve(handle, "127.0.0.1", 0, max_size=None, compression=None, max_queue=1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with (
            gateway(f"http://127.0.0.1:{port}/v1") as worker,
            connect(url(worker), additional_headers=KEY, compression=None) as client,
        ):
            sending = asyncio.ensure_future(_send_all(client.send, total))
            await asyncio.sleep(0.5)
            assert not sending.done()
            read_on.set()
            assert [await client.recv() for _ in range(total)] == [str(1 << 20)] * total
            await sending


async def _send_all(send: Callable[[bytes], object], count: int) -> None:
    for _ in range(count):
        sent = send(bytes(1 << 20))
        assert asyncio.iscoroutine(sent)
        await sent


async def test_a_silent_tunnel_ends_at_the_idle_timeout() -> None:
    async with echo() as (base_url, _):
        stages = {"upstream": {"base_url": base_url, "idle_timeout_s": 0.5}}
        async with (
            gateway(base_url, stages=stages) as worker,
            connect(url(worker), additional_headers=KEY) as client,
        ):
            for _ in range(4):
                await asyncio.sleep(0.2)
                await client.send("x")
                assert await client.recv() == "x"
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.recv(), 3)


async def test_a_drain_waits_for_tunnels_and_cuts_them_at_its_end() -> None:
    async with (
        echo() as (base_url, _),
        gateway(base_url) as worker,
        connect(url(worker), additional_headers=KEY) as client,
    ):
        draining = asyncio.ensure_future(worker.listener.drain(1.0))
        await asyncio.sleep(0.2)
        await client.send("still here")
        assert await client.recv() == "still here"
        assert await draining is False
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), 3)
