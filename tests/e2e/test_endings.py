"""How connections end, and what must not happen then: forged peers, work nobody will see, cuts that look whole."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from pathlib import Path

import pytest
import uvloop

from proxy.core.exchange import Exchange
from tests.e2e.test_slow_sides import slow_client
from tests.e2e.test_streams import SSE, chunk, until
from tests.e2e.test_websocket import HANDSHAKE, SWITCHED
from tests.support.gateway import gateway
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = [pytest.mark.gen_test(timeout=20), pytest.mark.wire_only]
MODELS = request("/v1/models", method="GET", body=None)
EVENT = chunk(b'data: {"id":"c1"}\n\n')


def test_whoever_resets_before_being_accepted_is_not_taken_for_the_unix_peer(tmp_path: Path) -> None:
    """A TCP connection that is reset before it is accepted has no peer, and yet its request can be read."""

    async def attack() -> list[str]:
        upstream = FakeUpstream()
        await upstream.start()
        listen = [{"host": "127.0.0.1", "port": 0}, {"unix": str(tmp_path / "s")}]
        stages = {
            "ip_allowlist": {"allow": ["unix"]},
            "key": {"server_keys": ["sk-aaaaaaaaaaaaaaaaaaaaaaaa"], "prefer": "server"},
        }
        async with gateway(upstream.base_url, listen=listen, stages=stages) as worker:
            local = RawClient(*await asyncio.open_unix_connection(str(tmp_path / "s")))
            assert (await local.ask(MODELS)).status == 200
            honest = await RawClient.connect(worker.listener.port)
            assert (await honest.ask(MODELS)).status == 403
            for _ in range(10):
                with socket.create_connection(("127.0.0.1", worker.listener.port)) as sock:
                    sock.sendall(request("/v1/forged"))
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await asyncio.sleep(0.3)
            local.close()
            honest.close()
        await upstream.stop()
        return [received.target for received in upstream.ledger]

    assert uvloop.run(attack()) == ["/v1/models"]


async def test_while_draining_nothing_new_is_begun_on_a_connection_that_closes(upstream: FakeUpstream) -> None:
    go_on = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        await go_on.wait()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(request("/v1/first") + request("/v1/second"))
        await until(lambda: upstream.ledger)
        draining = asyncio.ensure_future(worker.listener.drain(5))
        await asyncio.sleep(0.05)
        go_on.set()
        answer = await client.answer()
        assert (answer.body, answer.get("connection")) == (b"ok", "close")
        assert await client.is_closed()
        assert await draining is True
        client.close()
    assert [received.target for received in upstream.ledger] == ["/v1/first"]


async def test_an_answer_that_began_before_its_upload_was_whole_can_stall_no_longer_than_others(
    upstream: FakeUpstream,
) -> None:
    async def early(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")
        await wire.send(bytes(20_000_000))

    upstream.early = early
    async with gateway(upstream.base_url, downstream={"write_timeout_s": 1.0}) as worker:
        client = await slow_client(worker.listener.port)
        await client.send(request(body=bytes(1000))[:-1])
        await client.head()
        await asyncio.sleep(0.3)
        await client.send(b"\0")
        await until(lambda: not len(worker.listener), 5)
        assert worker.plane.in_flight == 0
        client.close()


async def test_a_tunnel_gives_a_slow_client_all_that_the_upstream_said(upstream: FakeUpstream) -> None:
    total = 6_000_000

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SWITCHED + b"z" * total)
        wire.close()

    upstream.script = script
    async with gateway(upstream.base_url) as worker:
        client = await slow_client(worker.listener.port)
        await client.send(HANDSHAKE)
        await client.head()
        await asyncio.sleep(0.6)
        assert len(await client.reader.read(-1)) == total
        client.close()


async def test_one_clients_pipeline_holds_up_nobody_else(upstream: FakeUpstream) -> None:
    async with gateway(upstream.base_url) as worker:
        flooding = await RawClient.connect(worker.listener.port)
        count = 6000
        flooding.writer.write(request("/healthz", method="GET", body=None) * count)
        worst_s = 0.0
        seen = 0
        deadline_s = time.monotonic() + 15
        while seen < count:
            assert time.monotonic() < deadline_s
            before = time.perf_counter()
            await asyncio.sleep(0)
            worst_s = max(worst_s, time.perf_counter() - before)
            if len(flooding.reader._buffer):  # type: ignore[attr-defined]
                seen += (await flooding.reader.read(1 << 20)).count(b"HTTP/1.1 200 OK")
        # In one go 256 KiB of them took a quarter of a second.
        assert worst_s < 0.1
        flooding.close()


@pytest.mark.parametrize("how", ["slow body", "second signal"])
async def test_an_answer_that_its_end_would_complete_is_cut_by_a_reset(how: str, upstream: FakeUpstream) -> None:
    async def early(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\n\r\nhello")

    upstream.early = early
    async with gateway(upstream.base_url, downstream={"body_timeout_s": 0.5}) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(b"POST /v1/x HTTP/1.0\r\nAuthorization: Bearer k\r\nContent-Length: 9\r\n\r\nabc")
        assert (await client.head()).status == 200
        assert await client.reader.readexactly(5) == b"hello"
        if how == "second signal":
            worker.listener.abort()
        with pytest.raises(ConnectionResetError):
            await client.reader.read(-1)
        client.close()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", 400),
        (b"Content-Length: 50\r\n\r\nhello", 408),
    ],
)
async def test_a_refusal_in_the_midst_of_a_body_says_what_the_upstream_has_had(
    sent: bytes, status: int, upstream: FakeUpstream
) -> None:
    seen: list[Exchange] = []
    head, _, body = sent.partition(b"\r\n\r\n")
    async with gateway(upstream.base_url, downstream={"body_timeout_s": 0.5}) as worker:
        close = worker.plane.close_exchange

        def note(exchange: Exchange) -> None:
            seen.append(exchange)
            close(exchange)

        worker.plane.close_exchange = note  # type: ignore[method-assign]
        client = await RawClient.connect(worker.listener.port)
        await client.send(b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\n" + head + b"\r\n\r\n")
        await until(lambda: upstream.connections)
        half = body.find(b"zz")
        await client.send(body[:half] if half >= 0 else body)
        await asyncio.sleep(0.1)
        await client.send(body[half:] if half >= 0 else b"")
        answer = await client.answer()
        assert (answer.status, answer.get("x-sluice-upstream-sent")) == (status, "unknown")
        assert answer.get("connection") == "close"
        (exchange,) = seen
        assert answer.get("x-sluice-request-id") == exchange.request_id
        assert (exchange.status, exchange.upstream_sent, exchange.aborted) == (status, "unknown", "")
        assert worker.plane.in_flight == 0
        client.close()
    assert upstream.ledger == []


async def test_a_stream_whose_upload_breaks_off_is_cut(upstream: FakeUpstream) -> None:
    async def early(received: Received, wire: Wire) -> None:
        await wire.send(SSE + EVENT)

    upstream.early = early
    async with gateway(upstream.base_url) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(
            request(headers=("Authorization: Bearer k", "Transfer-Encoding: chunked"), body=None) + b"1\r\nx\r\n"
        )
        assert (await client.head()).status == 200
        assert await client.reader.readexactly(len(EVENT)) == EVENT
        await client.send(b"nonsense\r\n")
        assert b"0\r\n\r\n" not in await client.reader.read(-1)
        await until(lambda: worker.plane.in_flight == 0)
        client.close()
