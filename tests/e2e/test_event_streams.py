"""Streams of events that are cut: the client hears of it in the stream's own form where there is room, and sees it"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from proxy.core.exchange import Exchange
from proxy.gateway.plane import DataPlane
from tests.e2e.test_streams import SSE, chunk
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Script, Wire

pytestmark = pytest.mark.gen_test(timeout=20)
EVENT = b'data: {"id":"c1","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
RESPONSES_EVENT = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","sequence_number":6,"item_id":"i","output_index":0,'
    b'"content_index":0,"delta":"Hi","logprobs":[]}\n\n'
)
DONE = b"data: [DONE]\n\n"
CLOSING = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def cut(*pieces: bytes, how: str = "reset") -> Script:
    """An answer that breaks off behind these bytes."""

    async def script(received: Received, wire: Wire) -> None:
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0.02)
        wire.reset() if how == "reset" else wire.close()

    return script


async def read_all(port: int, target: str = "/v1/chat/completions", body: bytes = b"{}") -> tuple[bytes, bool]:
    """What comes of a chunked answer's payload, and whether it ended cleanly."""
    client = await RawClient.connect(port)
    await client.send(request(target, body=body))
    await client.head()
    payload = b""
    try:
        while size := int(await client.reader.readuntil(b"\r\n"), 16):
            payload += (await client.reader.readexactly(size + 2))[:-2]
        await client.reader.readexactly(2)
    except (asyncio.IncompleteReadError, ConnectionError):
        return payload, False
    finally:
        client.close()
    return payload, True


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("head", [SSE, CLOSING], ids=["chunked", "close-delimited"])
async def test_a_cut_between_events_is_told_as_an_event(
    head: bytes, how: str, port: int, upstream: FakeUpstream
) -> None:
    framed = chunk(EVENT) if head is SSE else EVENT
    upstream.script = cut(head, framed, how=how)
    payload, is_clean = await read_all(port)
    assert payload.startswith(EVENT)
    assert not is_clean
    told = payload[len(EVENT) :]
    assert told.endswith(b"\n\n")
    error = json.loads(told.removeprefix(b"data: "))["error"]
    assert error["code"] == "upstream_protocol_error"
    assert error["type"] == "server_error"
    assert "broke off" in error["message"]


async def test_a_cut_before_the_first_event_is_told_too(port: int, upstream: FakeUpstream) -> None:
    upstream.script = cut(SSE)
    payload, is_clean = await read_all(port)
    assert (json.loads(payload.removeprefix(b"data: "))["error"]["code"], is_clean) == (
        "upstream_protocol_error",
        False,
    )


@pytest.mark.parametrize(
    "rest",
    [
        chunk(EVENT[:20]),
        chunk(EVENT[:-1]),
        b"%x\r\n" % len(EVENT) + EVENT,
        b"%x\r\n" % len(EVENT),
        b"4",
        chunk(EVENT) + b"0\r\n",
    ],
    ids=["mid-event", "before its blank line", "mid-chunk", "behind a size", "in a size", "in the last chunk"],
)
@pytest.mark.wire_only
async def test_where_there_is_no_room_nothing_is_said(rest: bytes, port: int, upstream: FakeUpstream) -> None:
    upstream.script = cut(SSE, chunk(EVENT), rest)
    client = await RawClient.connect(port)
    await client.send(request())
    await client.head()
    assert await client.reader.read() == chunk(EVENT) + rest
    client.close()


@pytest.mark.parametrize(
    "head",
    [
        SSE.replace(b"text/event-stream", b"application/json"),
        SSE.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n"),
    ],
    ids=["json", "compressed"],
)
async def test_what_is_no_readable_stream_of_events_is_only_cut(
    head: bytes, port: int, upstream: FakeUpstream
) -> None:
    upstream.script = cut(head, chunk(EVENT))
    assert await read_all(port) == (EVENT, False)


async def test_an_announced_length_leaves_no_room(port: int, upstream: FakeUpstream) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\n"
    upstream.script = cut(head, EVENT)
    client = await RawClient.connect(port)
    await client.send(request())
    await client.head()
    assert await client.reader.read() == EVENT
    client.close()


async def test_behind_the_last_event_nothing_is_added(port: int, upstream: FakeUpstream) -> None:
    upstream.script = cut(SSE, chunk(EVENT + DONE))
    assert await read_all(port) == (EVENT + DONE, False)


async def test_a_close_delimited_stream_with_its_last_event_is_whole(port: int, upstream: FakeUpstream) -> None:
    upstream.script = cut(CLOSING, EVENT, DONE, how="close")
    assert await read_all(port) == (EVENT + DONE, True)


async def test_a_close_delimited_stream_of_another_kind_may_end_as_it_likes(
    port: int, upstream: FakeUpstream
) -> None:
    upstream.script = cut(CLOSING, EVENT, how="close")
    assert await read_all(port, "/v1/some/stream") == (EVENT, True)


@pytest.mark.wire_only
@pytest.mark.parametrize(("last", "expected"), [(DONE, "complete"), (b"", "truncated")])
async def test_the_exchange_says_whether_the_stream_was_whole(
    last: bytes, expected: str, port: int, upstream: FakeUpstream, plane: DataPlane
) -> None:
    seen: list[str] = []
    close = plane.close_exchange

    def note(exchange: Exchange) -> None:
        seen.append(exchange.stream)
        close(exchange)

    plane.close_exchange = note  # type: ignore[method-assign]

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE + chunk(EVENT) + (chunk(last) if last else b"") + b"0\r\n\r\n")

    upstream.script = script
    # The framing is whole, so the bytes go on as they came; that something is missing is for the log.
    assert await read_all(port) == (EVENT + last, True)
    assert seen == [expected]


async def keep(stream: AsyncIterator[Any], seen: list[Any]) -> None:
    """Read a stream; what was seen before a cut is kept."""
    async for event in stream:
        seen.append(event)  # noqa: PERF401


async def test_the_sdk_raises_on_a_cut_chat_stream(port: int, upstream: FakeUpstream) -> None:
    upstream.script = cut(SSE, chunk(EVENT))
    seen: list[Any] = []
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-mine", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(model="m", messages=[], stream=True)
        with pytest.raises(openai.APIError, match="broke off") as raised:
            await keep(stream, seen)
    assert (len(seen), raised.value.code) == (1, "upstream_protocol_error")


async def test_the_sdk_raises_on_a_cut_responses_stream(port: int, upstream: FakeUpstream) -> None:
    upstream.script = cut(SSE, chunk(RESPONSES_EVENT))
    seen: list[Any] = []
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-mine", max_retries=0) as sdk:
        stream = await sdk.responses.create(model="m", input="x", stream=True)
        with pytest.raises(openai.APIError, match="broke off"):
            await keep(stream, seen)
    assert [event.type for event in seen] == ["response.output_text.delta"]


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/responses/resp_1?stream=true&starting_after=5"])
async def test_the_responses_form_is_the_apis_own_error_event(target: str, port: int, upstream: FakeUpstream) -> None:
    upstream.script = cut(SSE, chunk(RESPONSES_EVENT))
    payload, _ = await read_all(port, target)
    name, data, *_ = payload[len(RESPONSES_EVENT) :].split(b"\n")
    event = json.loads(data.removeprefix(b"data: "))
    assert name == b"event: error"
    assert (event["type"], event["sequence_number"], event["param"]) == ("error", 7, None)
    assert event["code"] == event["error"]["code"] == "upstream_protocol_error"
    assert event["message"] == event["error"]["message"]


@pytest.mark.config({"stages": {"upstream": {"idle_timeout_s": 0.3}}})
async def test_a_stream_that_falls_silent_says_so_at_the_idle_timeout(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE + chunk(EVENT))
        await wire.gone()

    upstream.script = script
    payload, is_clean = await read_all(port)
    assert (json.loads(payload[len(EVENT) :].removeprefix(b"data: "))["error"]["code"], is_clean) == (
        "upstream_timeout",
        False,
    )


@pytest.mark.wire_only
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
async def test_no_cut_at_any_byte_looks_like_an_end(framing: str, port: int, upstream: FakeUpstream) -> None:
    body = EVENT + EVENT + DONE
    answer = {
        "chunked": SSE + chunk(EVENT) + chunk(EVENT + DONE) + b"0\r\n\r\n",
        "length": SSE.replace(b"Transfer-Encoding: chunked", b"Content-Length: %d" % len(body)) + body,
        "close": CLOSING + body,
    }[framing]
    start = answer.index(b"\r\n\r\n") + 4
    ends = start + body.index(DONE) + len(DONE) - 1  # with its line feed the last event is there

    async def at(offset: int) -> None:
        async def script(received: Received, wire: Wire) -> None:
            await wire.send(answer[:offset])
            await asyncio.sleep(0.002)
            wire.close()

        upstream.script = script
        client = await RawClient.connect(port)
        await client.send(request())
        try:
            got = await client.answer()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            client.close()
        if got.status == 502:
            assert offset < start
        else:
            assert framing == "close", offset
            assert offset >= ends, offset

    for offset in range(0, len(answer), 3):
        await at(offset)
