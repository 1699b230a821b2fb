"""1xx answers (RFC 9110 section 15.2), and who answers ``Expect: 100-continue``."""

from __future__ import annotations

import asyncio

import pytest

from proxy.gateway.plane import DataPlane
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire, answer_ok

pytestmark = [pytest.mark.gen_test(timeout=20), pytest.mark.wire_only]
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n"
# RFC 9110 section 8.6 forbids the length in a 1xx: to some it would frame a body.
LONG_HINTS = HINTS.replace(b"X-Hop: 1", b"X-Hop: 1\r\nContent-Length: 5")
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"


async def informed(received: Received, wire: Wire) -> None:
    """103 three times, 102, and then the answer."""
    await wire.send(HINTS + LONG_HINTS * 2)
    await asyncio.sleep(0.02)
    await wire.send(b"HTTP/1.1 100 Continue\r\n\r\n" + PROCESSING)
    await answer_ok(received, wire)


async def test_informational_answers_go_on_in_their_order(port: int, upstream: FakeUpstream) -> None:
    upstream.script = informed
    client = await RawClient.connect(port)
    for _ in range(2):
        await client.send(request())
        for _ in range(3):
            hint = await client.head()
            assert (hint.status, hint.lines) == (103, [("Link", "</a>; rel=preload")])
        assert (await client.head()).status == 102
        answer = await client.answer()
        assert (answer.status, answer.json) == (200, {"ok": True})
    client.close()


async def test_what_another_gateway_says_of_its_own_exchange_ends_here(port: int, upstream: FakeUpstream) -> None:
    others = b"X-Sluice-Request-Id: req_other\r\nX-Sluice-Upstream-Sent: no\r\nX-Request-Id: req_up\r\n"

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 103 Early Hints\r\n" + others + b"\r\n")
        await wire.send(b"HTTP/1.1 503 Busy\r\n" + others + b"Content-Length: 0\r\n\r\n")

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    assert (await client.head()).lines == [("X-Request-Id", "req_up")]
    answer = await client.answer()
    ours = [(name.lower(), value) for name, value in answer.lines if name.lower().startswith("x-sluice")]
    assert [name for name, _ in ours] == ["x-sluice-request-id"]
    assert ours[0][1] != "req_other"
    assert answer.get("x-request-id") == "req_up"
    client.close()


async def test_an_http10_client_gets_none(port: int, upstream: FakeUpstream) -> None:
    upstream.script = informed
    client = await RawClient.connect(port)
    await client.send(b"GET /v1/models HTTP/1.0\r\nAuthorization: Bearer k\r\n\r\n")
    assert (await client.head()).status == 200
    client.close()


async def test_they_come_before_the_body_is_whole(port: int, upstream: FakeUpstream) -> None:
    async def early(received: Received, wire: Wire) -> None:
        await wire.send(PROCESSING)

    upstream.early = early
    client = await RawClient.connect(port)
    await client.send(request(body=b"{}")[:-1])
    assert (await client.head()).status == 102
    await client.send(b"}")
    assert (await client.answer()).status == 200
    assert upstream.ledger[0].body == b"{}"
    client.close()


async def test_the_chat_route_shows_none(port: int, upstream: FakeUpstream) -> None:
    upstream.script = informed
    client = await RawClient.connect(port)
    await client.send(request("/api", body=b'{"user_content": "x", "api_key": "sk-a"}'))
    assert (await client.head()).status in (200, 502)
    client.close()


async def test_after_too_many_the_upstream_is_given_up(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(PROCESSING * 50)
        await wire.gone()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    statuses = [(await client.head()).status for _ in range(11)]
    assert statuses == [102] * 10 + [502]
    client.close()


EXPECTING = (
    b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
)


async def test_a_client_that_passes_the_chain_is_told_to_go_on(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    await client.send(EXPECTING)
    assert (await client.head()).status == 100
    await client.send(b"hello")
    assert (await client.answer()).status == 200
    assert upstream.ledger[0].get("expect") is None
    client.close()


@pytest.mark.config({"stages": {"ip_allowlist": {"allow": ["192.0.2.1"]}}})
async def test_a_denied_client_is_never_told_to_go_on(port: int, upstream: FakeUpstream, plane: DataPlane) -> None:
    client = await RawClient.connect(port)
    await client.send(EXPECTING)
    head = await client.head()
    assert (head.status, head.get("connection")) == (403, "close")
    await client.reader.readexactly(int(head.get("content-length") or 0))
    assert await client.is_closed()
    assert upstream.connections == 0
    client.close()


async def test_an_unknown_expectation_is_refused(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    assert (await client.ask(EXPECTING.replace(b"100-continue", b"200-ok"))).status == 417
    assert upstream.ledger == []
    client.close()
