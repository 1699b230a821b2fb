"""Bad requests and a bad upstream: each answered in the right shape, with the truth about what was sent."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

from proxy.gateway.plane import DataPlane
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire


async def ask(port: int, data: bytes, method: str = "GET") -> Answer:
    """One request on a connection of its own."""
    client = await RawClient.connect(port)
    answer = await client.ask(data, method)
    client.close()
    return answer


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/nope", "/v2/chat/completions", "/V1/models", "/api/x", "/v1x"])
async def test_unknown_paths_are_404_in_the_chat_contracts_shape(
    path: str, port: int, upstream: FakeUpstream
) -> None:
    answer = await ask(port, request(path))
    assert answer.status == 404
    assert answer.json["code"] == 404
    assert path in answer.json["data"]["response"]
    assert upstream.ledger == []


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.config({"stages": {"ip_allowlist": {"deny": ["any"]}}})
async def test_health_answers_whatever_the_chain_says(path: str, port: int, plane: DataPlane) -> None:
    answer = await ask(port, request(path, method="GET", body=None))
    assert (answer.status, answer.body) == (200, b"ok\n")
    head = await ask(port, request(path, method="HEAD", body=None), "HEAD")
    assert (head.status, head.body) == (200, b"")
    plane.is_ready = False
    assert (await ask(port, request(path, method="GET", body=None))).status == (503 if path == "/readyz" else 200)


@pytest.mark.gen_test
@pytest.mark.config({"downstream": {"max_body_bytes": 1000}})
async def test_a_body_over_the_cap_is_413_before_anything_is_forwarded(port: int, upstream: FakeUpstream) -> None:
    assert (await ask(port, request(body=bytes(1000)))).status == 200
    answer = await ask(port, request(body=bytes(1001)))
    assert answer.status == 413
    assert answer.json["error"]["code"] == "body_too_large"
    assert "1000" in answer.json["error"]["message"]
    assert len(upstream.ledger) == 1


@pytest.mark.gen_test
@pytest.mark.config({"downstream": {"max_body_bytes": 1000}})
async def test_a_chunked_body_over_the_cap_is_never_whole_upstream(port: int, upstream: FakeUpstream) -> None:
    head = b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nTransfer-Encoding: chunked\r\n\r\n"
    client = await RawClient.connect(port)
    await client.send(head + b"3E8\r\n" + bytes(1000) + b"\r\n")
    await asyncio.sleep(0.05)
    await client.send(b"1\r\nx\r\n0\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 413
    assert upstream.ledger == []
    client.close()


WIRE_REFUSALS = [
    (b"GET /v1/x HTTP/1.1\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a/#@b\r\n\r\n", 400),
    (b"GET http://evil/v1/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET //evil/v1 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/../admin HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/%2e%2E/admin HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/x#frag HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.2\r\nHost: a\r\n\r\n", None),
    (b"GET /v1/x HTTP/1.1\nHost: a\n\n", 400),
    (b"\r\n\r\nGET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n+5\r\nhello\r\n", 400),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloXX", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX_Forwarded_For: 1.2.3.4\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization_: b\r\n\r\n", 400),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
    (b"CONNECT evil:443 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"TRACE /v1/x HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"get /v1/x HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"POST /v1/x HTTP/1.1\r\nHost: a\r\nExpect: a-pony\r\nContent-Length: 1\r\n\r\n", 417),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", 431),
    (b"GET /v1/x HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X-%d: 1\r\n" % n for n in range(100)) + b"\r\n", 431),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", None),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", None),
]


@pytest.mark.gen_test
@pytest.mark.wire_only
@pytest.mark.parametrize("by", [0, 1], ids=["whole", "one byte at a time"])
@pytest.mark.parametrize(("data", "status"), WIRE_REFUSALS, ids=[repr(data)[2:60] for data, _ in WIRE_REFUSALS])
@pytest.mark.config({"chain": ["upstream"]})
async def test_what_is_not_strictly_http_is_refused_and_never_forwarded(
    data: bytes, status: int | None, by: int, port: int, upstream: FakeUpstream
) -> None:
    if by and len(data) > 5000:
        by = 1000
    client = await RawClient.connect(port)
    with suppress(ConnectionError):
        # A canary stands behind each: it must not be served on a connection that is out of step.
        await client.send(data + request("/v1/canary", method="GET", body=None), by=by)
    answer = await client.answer()
    if status is None:
        assert answer.status in (400, 405, 505)
    else:
        assert answer.status == status
    explained = answer.json["error"]["message"] if "error" in answer.json else answer.json["data"]["response"]
    assert explained
    assert answer.get("connection") == "close"
    assert await client.is_closed()
    assert upstream.ledger == []
    client.close()


@pytest.mark.gen_test
async def test_refusals_of_the_wire_speak_the_clients_language_and_its_contract(port: int) -> None:
    bad = ("Authorization: Bearer k", "Accept-Language: ru", "X_Forwarded_For: 1")
    api = await ask(port, request(headers=bad))
    assert (api.status, api.json["error"]["code"]) == (400, "bad_request")
    assert "Запрос" in api.json["error"]["message"]
    chat = await ask(port, request("/api", headers=bad))
    assert (chat.status, chat.json["code"]) == (400, 400)
    assert "Запрос" in chat.json["data"]["response"]


@pytest.mark.gen_test
async def test_a_refused_connection_upstream_is_502_and_nothing_was_sent(
    port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    await upstream.stop()
    answer = await ask(port, request())
    assert answer.status == 502
    assert answer.json["error"]["code"] == "upstream_unreachable"
    assert answer.get("x-sluice-upstream-sent") == "no"


@pytest.mark.gen_test
@pytest.mark.config({"stages": {"upstream": {"connect_timeout_s": 0.3}}})
async def test_a_black_hole_upstream_is_504_at_the_connect_timeout(port: int, plane: DataPlane) -> None:
    with socket.socket() as hole:
        # A listener whose queue is full lets further connections hang.
        hole.bind(("127.0.0.1", 0))
        hole.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(hole.getsockname())
        plane.pool.origin = plane.pool.origin._replace(port=hole.getsockname()[1])
        answer = await ask(port, request())
        for filler in fillers:
            filler.close()
    assert answer.status == 504
    assert answer.json["error"]["code"] == "upstream_connect_timeout"
    assert answer.get("x-sluice-upstream-sent") == "no"


@pytest.mark.gen_test
@pytest.mark.config({"stages": {"upstream": {"first_byte_timeout_s": 0.3}}})
async def test_a_silent_upstream_is_504_and_may_have_been_billed(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.gone()

    upstream.script = script
    answer = await ask(port, request())
    assert answer.status == 504
    assert answer.json["error"]["code"] == "upstream_timeout"
    assert answer.get("x-sluice-upstream-sent") == "unknown"


@pytest.mark.gen_test
@pytest.mark.config({"stages": {"upstream": {"idle_timeout_s": 0.3}}})
async def test_a_stream_that_falls_silent_is_cut_at_the_idle_timeout(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await wire.gone()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request())
    with pytest.raises(asyncio.IncompleteReadError):
        await client.answer()
    client.close()


BROKEN = [
    b"",
    b"HTTP/1.1 2",
    b"not http at all\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: foo\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\n\r\n" * 11,
]


@pytest.mark.gen_test
@pytest.mark.parametrize("data", BROKEN, ids=[repr(data)[2:50] for data in BROKEN])
async def test_an_upstream_that_breaks_off_or_makes_no_sense_is_502(
    data: bytes, port: int, upstream: FakeUpstream
) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(data)
        await asyncio.sleep(0.02)
        wire.close()

    upstream.script = script
    answer = await ask(port, request())
    assert answer.status == 502
    assert answer.json["error"]["code"] == "upstream_protocol_error"
    assert answer.get("x-sluice-upstream-sent") in ("unknown", "yes")
    # Sent once, whatever came of it.
    assert len(upstream.ledger) == 1


@pytest.mark.gen_test
async def test_interim_answers_do_not_confuse(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 3)
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    upstream.script = script
    assert (await ask(port, request())).body == b"ok"


@pytest.mark.gen_test
@pytest.mark.parametrize("status", [204, 304])
async def test_answers_without_a_body_end_at_their_head(status: int, port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 %d X\r\nETag: a\r\n\r\n" % status)

    upstream.script = script
    client = await RawClient.connect(port)
    for _ in range(2):
        answer = await client.ask(request(method="GET", body=None))
        assert (answer.status, answer.body) == (status, b"")
    assert upstream.connections == 1
    client.close()


@pytest.mark.gen_test
async def test_a_stale_pooled_connection_is_not_used(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        wire.close()

    upstream.script = script
    client = await RawClient.connect(port)
    for _ in range(5):
        assert (await client.ask(request())).status == 200
        await asyncio.sleep(0.02)
    assert len(upstream.ledger) == 5
    client.close()


@pytest.mark.gen_test
async def test_a_request_that_came_round_to_us_again_is_508(port: int, plane: DataPlane) -> None:
    plane.pool.origin = plane.pool.origin._replace(port=port)
    answer = await ask(port, request())
    assert answer.status == 508
    assert answer.json["error"]["code"] == "loop_detected"


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_a_client_that_never_finishes_its_request_is_let_go(port: int, upstream: FakeUpstream) -> None:
    head = await RawClient.connect(port)
    await head.send(b"GET /v1/x HT")
    body = await RawClient.connect(port)
    await body.send(b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nContent-Length: 9\r\n\r\nx")
    assert (await head.answer()).status == 408
    assert (await body.answer()).status == 408
    assert upstream.ledger == []
    head.close()
    body.close()


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_expect_100_continue_is_met_once_the_chain_has_passed(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    await client.send(
        b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\n"
        b"Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    )
    assert (await client.head()).status == 100
    await client.send(b"hello")
    assert (await client.answer()).status == 200
    assert upstream.ledger[0].body == b"hello"
    assert upstream.ledger[0].get("expect") is None
    client.close()
