"""Streams: every event at once, slow readers wait, and a cut is seen as a cut by whoever is left."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.gateway.plane import DataPlane
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """One chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


async def until(condition: object, timeout_s: float = 2.0) -> None:
    """Wait until ``condition()`` holds."""
    assert callable(condition)
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        await asyncio.sleep(0.005)


@pytest.mark.gen_test
async def test_each_event_arrives_before_the_next_one_is_sent(port: int, upstream: FakeUpstream) -> None:
    seen = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE)
        for number in range(5):
            await wire.send(chunk(b"data: %d\n\n" % number))
            await asyncio.wait_for(seen.wait(), 2)
            seen.clear()
        await wire.send(b"0\r\n\r\n")

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    assert (await client.head()).get("content-type") == "text/event-stream"
    for number in range(5):
        assert await client.reader.readuntil(b"\r\n") == b"9\r\n"
        assert await client.reader.readexactly(11) == b"data: %d\n\n\r\n" % number
        seen.set()
    assert await client.reader.readuntil(b"0\r\n\r\n")
    client.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("size", [1, 2, 7])
async def test_an_answer_dribbled_in_tiny_segments_comes_out_whole(
    size: int, port: int, upstream: FakeUpstream
) -> None:
    answer = SSE + chunk("data: привет\n\n".encode()) + b"5;ext=1\r\n: hi\n\r\n" + b"0\r\nX-Trailer: 1\r\n\r\n"

    async def script(received: Received, wire: Wire) -> None:
        for start in range(0, len(answer), size):
            await wire.send(answer[start : start + size])
            await asyncio.sleep(0)

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    await client.head()
    body = b""
    while line := (await client.reader.readuntil(b"\r\n")).split(b";")[0].strip():
        length = int(line, 16)
        if not length:
            break
        body += (await client.reader.readexactly(length + 2))[:-2]
    assert body == "data: привет\n\n: hi\n".encode()
    client.close()


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_on_our_wire_the_body_is_spliced_as_it_stands(port: int, upstream: FakeUpstream) -> None:
    raw = chunk(b"data: 1\n\n") + b"A;ext=v\r\n0123456789\r\n" + b"0\r\nX-Trailer: 1\r\n\r\n"

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE + raw)

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    await client.head()
    assert await client.reader.readexactly(len(raw)) == raw
    client.close()


@pytest.mark.gen_test
async def test_bytes_behind_the_end_are_dropped_and_the_connection_is_not_used_again(
    port: int, upstream: FakeUpstream
) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE + chunk(b"one") + b"0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    upstream.script = script
    client = await RawClient.connect(port)
    for _ in range(2):
        answer = await client.ask(request())
        assert answer.body == b"one"
    assert upstream.connections == 2
    client.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("framing", ["chunked", "length"])
async def test_an_answer_cut_upstream_is_never_a_clean_end(
    framing: str, how: str, port: int, upstream: FakeUpstream
) -> None:
    async def script(received: Received, wire: Wire) -> None:
        if framing == "chunked":
            await wire.send(SSE + chunk(b"data: 1\n\n"))
        else:
            await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ndata: 1\n\n")
        await asyncio.sleep(0.05)
        wire.reset() if how == "reset" else wire.close()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await client.answer()
    client.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("how", ["reset", "close"])
async def test_an_http10_client_sees_a_cut_as_a_reset(how: str, port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE + chunk(b"data: 1\n\n"))
        await asyncio.sleep(0.05)
        wire.reset() if how == "reset" else wire.close()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(b"POST /v1/x HTTP/1.0\r\nAuthorization: Bearer k\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(ConnectionError):
        await client.answer()
    client.close()


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_an_http10_client_gets_a_chunked_answer_without_chunks(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE + chunk(b"one ") + chunk(b"two") + b"0\r\n\r\n")

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(b"POST /v1/x HTTP/1.0\r\nAuthorization: Bearer k\r\nContent-Length: 0\r\n\r\n")
    answer = await client.answer()
    assert (answer.get("transfer-encoding"), answer.body) == (None, b"one two")
    assert await client.is_closed()
    client.close()


@pytest.mark.gen_test
async def test_a_close_delimited_answer_ends_with_its_connection(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it")
        wire.close()

    upstream.script = script
    client = await RawClient.connect(port)
    assert (await client.ask(request())).body == b"all of it"
    client.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("phase", ["waiting for headers", "mid-stream"])
async def test_a_client_that_leaves_closes_the_upstream(
    phase: str, how: str, port: int, upstream: FakeUpstream, plane: DataPlane
) -> None:
    gone = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        if phase == "mid-stream":
            await wire.send(SSE + chunk(b"data: 1\n\n"))
        if await wire.gone():
            gone.set()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    await until(lambda: upstream.ledger)
    if phase == "mid-stream":
        await client.head()
    if how == "reset":
        client.writer.transport.abort()
    else:
        client.close()
    await asyncio.wait_for(gone.wait(), 0.5)
    await until(lambda: "[0 in flight]" in repr(plane))


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_a_client_that_leaves_while_uploading_closes_the_upstream(port: int, upstream: FakeUpstream) -> None:
    gone = asyncio.Event()

    async def early(received: Received, wire: Wire) -> None:
        await wire.reader.readexactly(5)
        if await wire.gone():
            gone.set()
        wire.close()

    upstream.early = early
    client = await RawClient.connect(port)
    await client.send(b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nContent-Length: 99\r\n\r\nhello")
    await asyncio.sleep(0.05)
    client.close()
    await asyncio.wait_for(gone.wait(), 0.5)
    assert upstream.ledger == []


@pytest.mark.gen_test
async def test_a_slow_reader_makes_the_upstream_wait(port: int, upstream: FakeUpstream) -> None:
    total = 64 * 1024 * 1024
    sent = 0

    async def script(received: Received, wire: Wire) -> None:
        nonlocal sent
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        block = bytes(65_536)
        while sent < total:
            await wire.send(block)
            sent += len(block)

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    await client.head()
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.2)
    # What is under way fills the kernel's buffers on two connections and our own, and then everybody waits.
    assert sent < total / 2
    client.close()


@pytest.mark.gen_test
async def test_a_slow_upstream_makes_the_client_wait(port: int, upstream: FakeUpstream) -> None:
    read_on = asyncio.Event()

    async def early(received: Received, wire: Wire) -> None:
        await read_on.wait()

    upstream.early = early
    client = await RawClient.connect(port)
    total, sent, block = 32 * 1024 * 1024, 0, bytes(65_536)
    await client.send(
        b"PUT /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nContent-Length: %d\r\n\r\n" % total
    )

    async def upload() -> None:
        nonlocal sent
        while sent < total:
            await client.send(block)
            sent += len(block)

    task = asyncio.ensure_future(upload())
    before = -1
    while before != sent:
        before = sent
        await asyncio.sleep(0.2)
    assert sent < total / 2
    read_on.set()
    await asyncio.wait_for(task, 4)
    assert (await client.answer()).status == 200
    assert len(upstream.ledger[0].body) == total
    client.close()


@pytest.mark.gen_test
async def test_an_early_answer_reaches_a_client_that_still_uploads(port: int, upstream: FakeUpstream) -> None:
    async def early(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        await asyncio.sleep(0.2)
        wire.close()

    upstream.early = early
    client = await RawClient.connect(port)
    await client.send(
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nContent-Length: 9999999\r\n\r\nx"
    )
    answer = await client.answer()
    assert (answer.status, answer.body) == (401, b"no")
    client.close()


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_pipelined_requests_are_answered_in_order(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await asyncio.sleep(0.05 if received.body == b"0" else 0)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + received.body)

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(b"".join(request(body=b"%d" % number) for number in range(5)))
    assert [(await client.answer()).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    client.close()
