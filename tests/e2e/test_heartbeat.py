"""Heartbeats: comments in a silent stream, never inside of an event, and a 200 committed no sooner than needed."""

from __future__ import annotations

import asyncio
import gzip
import json
import time

import openai
import pytest
from openai import AsyncOpenAI

from proxy.gateway import openai_api
from proxy.gateway.heartbeat import Heartbeat
from tests.e2e.test_event_streams import DONE, EVENT, read_all
from tests.e2e.test_streams import SSE, chunk
from tests.support.gateway import gateway
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Script, Wire, answer_ok

pytestmark = [pytest.mark.gen_test(timeout=30), pytest.mark.wire_only]
COMMENT = b": still here\n\n"
BEATING = {"upstream": {"heartbeat_s": 1.0}}
STREAM = b'{"model": "m", "stream": true}'
ASKING = request(body=STREAM)
SILENT_S = 2.6  # room for two comments, and not for three


def late(*pieces: bytes, first_s: float = 0, gap_s: float = 0) -> Script:
    """An answer that takes its time: before its first piece, and between pieces."""

    async def script(received: Received, wire: Wire) -> None:
        await asyncio.sleep(first_s)
        for number, piece in enumerate(pieces):
            await asyncio.sleep(gap_s if number else 0)
            await wire.send(piece)

    return script


async def payload_of(client: RawClient) -> bytes:
    """The payload of a chunked answer whose head has been read."""
    payload = b""
    while size := int(await client.reader.readuntil(b"\r\n"), 16):
        payload += (await client.reader.readexactly(size + 2))[:-2]
    assert await client.reader.readexactly(2) == b"\r\n"
    return payload


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_stream_asked_for_begins_when_the_first_comment_is_due(chunked: bool, upstream: FakeUpstream) -> None:
    if chunked:
        upstream.script = late(SSE + chunk(EVENT + DONE) + b"0\r\n\r\n", first_s=SILENT_S)
    else:
        length = len(EVENT + DONE)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % length
        upstream.script = late(head, EVENT + DONE, first_s=SILENT_S)
    async with gateway(upstream.base_url, stages=BEATING | {"limit": {"minute": 5}}) as worker:
        client = await RawClient.connect(worker.listener.port)
        started = time.monotonic()
        await client.send(ASKING)
        begun = await client.head()
        assert time.monotonic() - started < SILENT_S
        assert (begun.status, begun.get("content-type")) == (200, "text/event-stream; charset=utf-8")
        assert begun.get("ratelimit-policy") == '"limit.minute";q=5;w=60'
        assert begun.get("x-sluice-request-id")
        assert await payload_of(client) == COMMENT * 2 + EVENT + DONE
        # The connection is good for another request.
        upstream.script = answer_ok
        assert (await client.ask(request())).json == {"ok": True}
        client.close()


async def test_an_answer_in_time_is_what_the_upstream_made_it(upstream: FakeUpstream) -> None:
    raw = chunk(EVENT) + chunk(DONE) + b"0\r\n\r\n"
    upstream.script = late(SSE.replace(b"200 OK", b"200 Fine"), raw, first_s=0.3, gap_s=0.3)
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(ASKING)
        assert (await client.head()).reason == "Fine"
        assert await client.reader.readexactly(len(raw)) == raw
        client.close()


async def test_comments_stand_between_events_only(upstream: FakeUpstream) -> None:
    upstream.script = late(
        SSE + chunk(EVENT), chunk(EVENT[:30]), chunk(EVENT[30:]) + chunk(DONE) + b"0\r\n\r\n", gap_s=SILENT_S
    )
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        payload, is_clean = await read_all(worker.listener.port)
    # Two in the first silence, none in the second, which is within an event.
    assert (payload, is_clean) == (EVENT + COMMENT * 2 + EVENT + DONE, True)


NO_STREAM = [
    b'{"model": "m"}',
    b'{"model": "m", "stream": false}',
    b'{"messages": [{"content": "\\"stream\\": true"}]}',
    b'{"metadata": {"stream": true}}',
    b'not JSON, "stream": true',
    b'{"stream": true, "x": "' + b"x" * 1_100_000 + b'"}',
]


async def test_who_asks_for_no_stream_gets_none_and_large_requests_are_not_asked(upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await asyncio.sleep(1.5)
        await answer_ok(received, wire)

    upstream.script = script
    async with gateway(upstream.base_url, stages=BEATING) as worker:

        async def ask(body: bytes) -> None:
            client = await RawClient.connect(worker.listener.port)
            answer = await client.ask(request(body=body))
            assert (answer.status, answer.json) == (200, {"ok": True})
            assert answer.get("transfer-encoding") is None
            client.close()

        await asyncio.gather(*map(ask, NO_STREAM))


async def test_the_silence_of_an_upload_is_the_clients(upstream: FakeUpstream) -> None:
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(ASKING[:-1])
        await asyncio.sleep(1.5)
        await client.send(ASKING[-1:])
        assert (await client.answer()).json == {"ok": True}
        client.close()


async def test_a_refusal_that_comes_late_is_an_event(upstream: FakeUpstream) -> None:
    error = {"message": "You are too fast", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    body = json.dumps({"error": error}).encode()
    head = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: %d\r\n\r\n" % len(body)
    upstream.script = late(head + body, first_s=1.5)
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        payload, is_clean = await read_all(worker.listener.port, body=STREAM)
        assert is_clean
        assert payload.startswith(COMMENT)
        assert json.loads(payload.removeprefix(COMMENT).removeprefix(b"data: ")) == {"error": error}
        async with AsyncOpenAI(
            base_url=f"http://127.0.0.1:{worker.listener.port}/v1", api_key="sk-mine", max_retries=0
        ) as sdk:
            stream = await sdk.chat.completions.create(model="m", messages=[], stream=True)
            with pytest.raises(openai.APIError, match="You are too fast"):
                async for _ in stream:
                    pass


async def test_a_failure_that_comes_late_is_an_event_and_a_cut(upstream: FakeUpstream) -> None:
    answers = [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", b"garbage\r\n\r\n"]

    async def script(received: Received, wire: Wire) -> None:
        answer = answers[len(upstream.ledger) - 1]
        await asyncio.sleep(1.5)
        await wire.send(answer)
        wire.close()

    upstream.script = script
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        for payload, is_clean in await asyncio.gather(
            *[read_all(worker.listener.port, body=STREAM) for _ in answers]
        ):
            assert not is_clean
            event = json.loads(payload.removeprefix(COMMENT).removeprefix(b"data: "))
            assert event["error"]["code"] == "upstream_protocol_error"


async def test_the_sdk_reads_a_stream_with_comments(upstream: FakeUpstream) -> None:
    upstream.script = late(SSE + chunk(EVENT), chunk(EVENT + DONE) + b"0\r\n\r\n", first_s=1.3, gap_s=1.3)
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        base_url = f"http://127.0.0.1:{worker.listener.port}/v1"
        async with AsyncOpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as sdk:
            stream = await sdk.chat.completions.create(model="m", messages=[], stream=True)
            assert len([event async for event in stream]) == 2


async def test_without_the_setting_nothing_is_said(upstream: FakeUpstream) -> None:
    upstream.script = late(SSE + chunk(EVENT), chunk(DONE) + b"0\r\n\r\n", gap_s=1.3)
    async with gateway(upstream.base_url) as worker:
        assert await read_all(worker.listener.port) == (EVENT + DONE, True)


PACKED = request(
    body=b'{"model": "m", "stream": true}',
    headers=("Authorization: Bearer sk-client", "Accept-Encoding: gzip, br", "accept-encoding: zstd"),
)


@pytest.mark.parametrize("asking", [ASKING, PACKED])
async def test_the_upstream_is_asked_for_what_can_be_read(asking: bytes, upstream: FakeUpstream) -> None:
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        client = await RawClient.connect(worker.listener.port)
        assert (await client.ask(asking)).status == 200
        client.close()
    assert upstream.ledger[0].get_all("accept-encoding") == ["identity"]


async def test_where_nothing_is_ever_added_it_may_pack_as_the_client_likes(upstream: FakeUpstream) -> None:
    beating, quiet = gateway(upstream.base_url, stages=BEATING), gateway(upstream.base_url)
    for made, asking in ((beating, PACKED.replace(b"POST", b"PUT")), (quiet, PACKED)):
        async with made as worker:
            client = await RawClient.connect(worker.listener.port)
            await client.ask(asking)
            client.close()
    assert [received.get_all("accept-encoding") for received in upstream.ledger] == [["gzip, br", "zstd"]] * 2


async def test_a_late_stream_that_is_packed_all_the_same_ends_with_an_error(upstream: FakeUpstream) -> None:
    packed = gzip.compress(EVENT + DONE)
    upstream.script = late(
        SSE.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") + chunk(packed) + b"0\r\n\r\n", first_s=1.5
    )
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        payload, is_clean = await read_all(worker.listener.port, body=STREAM)
    event = json.loads(payload.removeprefix(COMMENT).removeprefix(b"data: "))
    assert (event["error"]["code"], is_clean) == ("upstream_protocol_error", False)


async def test_an_answer_that_has_begun_needs_no_memory_of_its_request(
    upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Heartbeat] = []

    class Noted(Heartbeat):
        def touch(self) -> None:
            if self not in made:
                made.append(self)
            super().touch()

    monkeypatch.setattr(openai_api, "Heartbeat", Noted)
    upstream.script = late(SSE + chunk(EVENT), chunk(DONE) + b"0\r\n\r\n", gap_s=0.3)
    async with gateway(upstream.base_url, stages=BEATING) as worker:
        client = await RawClient.connect(worker.listener.port)
        await client.send(ASKING)
        assert (await client.head()).status == 200
        (heartbeat,) = made
        assert not heartbeat.asks_for_stream()
        client.close()


async def test_the_same_request_again_goes_up_as_it_did_before(upstream: FakeUpstream) -> None:
    upstream.script = answer_ok
    key = {"key": {"server_keys": ["sk-server"]}}
    lines = b"Accept-Encoding: gzip\r\nHost: a\r\nContent-Length: 2\r\nAuthorization: Bearer sk-client\r\n"
    async with gateway(upstream.base_url, stages=BEATING | key) as worker:
        client = await RawClient.connect(worker.listener.port)
        for _ in range(4):
            assert (await client.ask(b"POST /v1/chat/completions HTTP/1.1\r\n%b\r\n{}" % lines)).status == 200
        client.close()
    seen = [received.lines for received in upstream.ledger]
    assert len(seen) == 4
    assert all(one == seen[0] for one in seen)
    assert [received.get("authorization") for received in upstream.ledger] == ["Bearer sk-client"] * 4
