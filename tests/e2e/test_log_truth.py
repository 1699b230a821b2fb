"""What the access log says of the end of an exchange: whether a stream was whole, and who ended it early."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from proxy.core.chain import Chain
from proxy.core.exchange import Exchange
from proxy.gateway.access_log import line_of
from proxy.gateway.plane import DataPlane
from tests.e2e.test_event_streams import CLOSING, DONE, EVENT, RESPONSES_EVENT, cut, read_all
from tests.e2e.test_heartbeat import ASKING
from tests.e2e.test_streams import SSE, chunk, until
from tests.e2e.test_websocket import HANDSHAKE, SWITCHED
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Script, Wire

pytestmark = pytest.mark.gen_test(timeout=20)
# The events as OpenAI's SDKs declare them; only images have an ``event:`` line.
WHOLE = {
    "/v1/images/generations": b'event: image_generation.completed\ndata: {"type":"image_generation.completed"}\n\n',
    "/v1/images/edits": b'event: image_edit.completed\ndata: {"type":"image_edit.completed","b64_json":"AA"}\n\n',
    "/v1/audio/transcriptions": b'data: {"type":"transcript.text.done","text":"Hi"}\n\n',
    "/v1/audio/speech": b'data: {"type":"speech.audio.done","usage":{}}\n\n',
}


class Lines:
    """Stands in for the access log, and keeps what it would write."""

    def __init__(self, plane: DataPlane) -> None:
        self._seen: list[dict[str, Any]] = []
        plane.access_log = self  # type: ignore[assignment]  # the part of it that the plane uses

    def add(self, exchange: Exchange, chain: Chain, now_s: float) -> None:
        """Note one."""
        self._seen.append(json.loads(line_of(exchange, chain, now_s)))

    async def end(self) -> tuple[int, str | None, str | None]:
        """Status, stream and aborted of the one line there is, once it is there."""
        await until(lambda: bool(self._seen))
        (line,) = self._seen
        return line["status"], line["stream"], line["aborted"]


def framed(head: bytes, payload: bytes) -> bytes:
    """A whole answer with this payload."""
    return head + (payload if head is CLOSING else chunk(payload) + b"0\r\n\r\n")


BOTH_FRAMINGS = pytest.mark.parametrize("head", [SSE, CLOSING], ids=["chunked", "close-delimited"])


@BOTH_FRAMINGS
@pytest.mark.parametrize("target", WHOLE)
async def test_a_stream_of_another_api_is_complete_with_its_last_event(
    target: str, head: bytes, port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    lines = Lines(plane)
    payload = b'data: {"type":"x.delta"}\n\n' + WHOLE[target]
    upstream.script = cut(framed(head, payload), how="close")
    assert await read_all(port, target) == (payload, True)
    assert await lines.end() == (200, "complete", None)


@BOTH_FRAMINGS
async def test_of_a_stream_that_promises_no_last_event_nothing_is_claimed(
    head: bytes, port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    lines = Lines(plane)
    upstream.script = cut(framed(head, EVENT), how="close")
    assert await read_all(port, "/v1/some/stream") == (EVENT, True)
    assert await lines.end() == (200, None, None)


async def test_unless_it_was_cut(port: int, plane: DataPlane, upstream: FakeUpstream) -> None:
    lines = Lines(plane)
    upstream.script = cut(SSE, chunk(EVENT))
    assert not (await read_all(port, "/v1/some/stream"))[1]
    assert await lines.end() == (200, "truncated", "upstream")


@pytest.mark.parametrize(("last", "expected"), [(b"", "truncated"), (DONE, "complete")])
async def test_a_client_that_leaves_early_and_how_much_had_come(
    last: bytes, expected: str, port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    lines = Lines(plane)

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SSE + chunk(EVENT + last))
        await wire.gone()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    await client.reader.readuntil(chunk(EVENT + last)[-12:])
    client.close()
    assert await lines.end() == (200, expected, "client")


REFUSED = json.dumps({"error": {"message": "m", "type": "t", "param": None, "code": "c"}}).encode()


def late(answer: bytes) -> Script:
    """An answer that comes when the stream has been begun without it."""

    async def script(received: Received, wire: Wire) -> None:
        await asyncio.sleep(1.5)
        await wire.send(answer)
        wire.close()

    return script


@pytest.mark.wire_only
@pytest.mark.config({"stages": {"upstream": {"heartbeat_s": 1.0}}})
@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 429 Slow Down\r\nContent-Length: %d\r\n\r\n%b" % (len(REFUSED), REFUSED),
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"garbage\r\n\r\n",
        b"",
        SSE + chunk(EVENT),
    ],
    ids=["a refusal", "no stream", "no HTTP", "nothing", "a cut stream"],
)
async def test_what_went_wrong_behind_a_status_200_of_ours_is_told(
    answer: bytes, port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    lines = Lines(plane)
    upstream.script = late(answer)
    client = await RawClient.connect(port)
    await client.send(ASKING)
    assert (await client.outcome()).answer is not None
    client.close()
    assert await lines.end() == (200, "truncated", "upstream")


@pytest.mark.wire_only
@pytest.mark.config({"stages": {"upstream": {"heartbeat_s": 1.0}}})
async def test_a_late_stream_that_is_whole_is_told_as_one(
    port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    lines = Lines(plane)
    upstream.script = late(framed(SSE, RESPONSES_EVENT + DONE))
    client = await RawClient.connect(port)
    await client.send(ASKING)
    assert (await client.outcome()).is_whole
    client.close()
    assert await lines.end() == (200, "complete", None)


@pytest.mark.wire_only
@pytest.mark.config({"stages": {"upstream": {"idle_timeout_s": 0.3}}})
@pytest.mark.parametrize(
    ("who", "how", "aborted"),
    [
        ("client", "close", None),
        ("upstream", "close", None),
        ("client", "reset", "client"),
        ("upstream", "reset", "upstream"),
        ("neither", "silence", "gateway"),
    ],
)
async def test_who_ended_a_tunnel_other_than_cleanly(
    who: str, how: str, aborted: str | None, port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    lines = Lines(plane)

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(SWITCHED)
        if who != "upstream":
            await wire.gone()
        elif how == "reset":
            wire.reset()
        else:
            wire.close()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(HANDSHAKE)
    assert (await client.head()).status == 101
    if who == "client":
        client.reset() if how == "reset" else client.close()
    assert await lines.end() == (101, None, aborted)
    client.close()
