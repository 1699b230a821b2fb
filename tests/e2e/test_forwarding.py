"""What goes in below /v1 comes out upstream, byte for byte; what comes back goes to the client."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPRequest

from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

KEY = {"Authorization": "Bearer sk-client"}


@pytest.mark.gen_test
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
async def test_every_method_is_forwarded(
    method: str, http_client: AsyncHTTPClient, base_url: str, port: int, upstream: FakeUpstream
) -> None:
    body = b'{"a": 1}' if method in ("POST", "PUT", "PATCH") else None
    answer = await http_client.fetch(HTTPRequest(f"{base_url}/v1/things", method, KEY, body))
    assert answer.code == 200
    assert answer.body == (b"" if method == "HEAD" else b'{"ok": true}')
    (received,) = upstream.ledger
    assert (received.method, received.target, received.body) == (method, "/v1/things", body or b"")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "target",
    [
        "/v1/models/ft:gpt-4.1:acme::a1b2%2Fc?after=x&after=y&empty=&plus=a+b%20c",
        "/v1/files/file-1/content?",
        "/v1",
        "/v1/a//b/?q=/../x",
        "/v1/vector_stores/vs_1/files?filter=%7B%22a%22%3A1%7D&limit=100",
    ],
)
async def test_target_arrives_as_the_bytes_it_was(target: str, port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    answer = await client.ask(request(target, method="GET", body=None))
    assert answer.status == 200
    assert upstream.ledger[0].target == target
    client.close()


@pytest.mark.gen_test
async def test_headers_cross_untouched_and_hop_by_hop_ones_do_not(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    sent = (
        "Authorization: Bearer sk-client",
        "OpenAI-Beta: assistants=v2",
        "x-stainless-retry-count: 0",
        "Accept-Encoding: gzip, br",
        "X-Twice: one",
        "X-Twice: two",
        "Cookie: a=b",
        "X-Spaces: a  b ; c",
        "Idempotency-Key: k-1",
        "TE: trailers",
        "Keep-Alive: timeout=5",
        "Proxy-Authorization: Basic eA==",
        "Connection: keep-alive, X-Named",
        "X-Named: must not cross",
        "X-Forwarded-For: 1.2.3.4",
        "Forwarded: for=1.2.3.4",
    )
    await client.ask(request(headers=sent))
    (received,) = upstream.ledger
    for name in ("TE", "Keep-Alive", "Proxy-Authorization", "Connection", "X-Named", "X-Forwarded-For", "Forwarded"):
        assert received.get(name) is None, name
    assert received.get_all("X-Twice") == ["one", "two"]
    assert received.get("X-Spaces") == "a  b ; c"
    for line in sent[:4]:
        name, _, value = line.partition(": ")
        assert received.get_all(name) == [value]
    assert received.get("Host") == f"127.0.0.1:{upstream.port}"
    client.close()


@pytest.mark.gen_test
@pytest.mark.wire_only
async def test_on_our_wire_names_keep_their_case_and_order(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    await client.ask(request(headers=("x-lower: 1", "X-UPPER: 2", "authorization: Bearer k", "OpenAI-Beta: 3")))
    names = [name for name, _ in upstream.ledger[0].lines]
    assert [n for n in names if n.lower() not in ("host", "x-sluice-hop", "content-length")] == [
        "x-lower",
        "X-UPPER",
        "authorization",
        "OpenAI-Beta",
    ]
    client.close()


@pytest.mark.gen_test
async def test_answer_headers_come_back_untouched(port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(
            b"HTTP/1.1 418 I'm a teapot\r\nx-request-id: req_1\r\nretry-after-ms: 20\r\nx-should-retry: false\r\n"
            b"x-ratelimit-remaining-tokens: 7\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
            b"Connection: X-Hop, keep-alive\r\n"
            b"X-Hop: 1\r\nKeep-Alive: timeout=5\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n\x1f\x8b\x00"
        )

    upstream.script = script
    client = await RawClient.connect(port)
    answer = await client.ask(request())
    assert (answer.status, answer.reason, answer.body) == (418, "I'm a teapot", b"\x1f\x8b\x00")
    assert answer.get("x-request-id") == "req_1"
    assert answer.get("retry-after-ms") == "20"
    assert answer.get("x-should-retry") == "false"
    assert answer.get("x-ratelimit-remaining-tokens") == "7"
    assert answer.get("content-encoding") == "gzip"
    assert [value for name, value in answer.lines if name.lower() == "set-cookie"] == ["a=1", "b=2"]
    assert answer.get("x-hop") is None
    assert answer.get("keep-alive") is None
    assert re.fullmatch(r"req_[0-9a-f]+", answer.get("x-sluice-request-id") or "")
    client.close()


@pytest.mark.gen_test
async def test_redirects_are_the_clients_business(
    http_client: AsyncHTTPClient, base_url: str, port: int, upstream: FakeUpstream
) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.test/\r\nContent-Length: 0\r\n\r\n")

    upstream.script = script
    answer = await http_client.fetch(f"{base_url}/v1/x", headers=KEY, follow_redirects=False, raise_error=False)
    assert (answer.code, answer.headers["Location"]) == (302, "https://elsewhere.test/")
    assert len(upstream.ledger) == 1


@pytest.mark.gen_test
async def test_large_binary_bodies_cross_both_ways(
    http_client: AsyncHTTPClient, base_url: str, port: int, upstream: FakeUpstream
) -> None:
    up, down = os.urandom(3_000_000), os.urandom(3_000_000)

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(down) + down)

    upstream.script = script
    answer = await http_client.fetch(f"{base_url}/v1/files", method="POST", headers=KEY, body=up)
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(down).digest()
    assert hashlib.sha256(upstream.ledger[0].body).digest() == hashlib.sha256(up).digest()
    assert upstream.ledger[0].get_all("content-length") == [str(len(up))]


@pytest.mark.gen_test
async def test_chunked_uploads_stay_chunked_and_whole(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    head = b"POST /v1/files HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = await client.ask(head + b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
    assert answer.status == 200
    (received,) = upstream.ledger
    assert received.body == b"hello world"
    assert received.get("content-length") is None
    assert received.get_all("transfer-encoding") == ["chunked"]
    client.close()


@pytest.mark.gen_test
async def test_connections_are_kept_on_both_sides(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    for number in range(5):
        assert (await client.ask(request(body=b"%d" % number))).status == 200
    assert [received.body for received in upstream.ledger] == [b"0", b"1", b"2", b"3", b"4"]
    assert upstream.connections == 1
    client.close()


@pytest.mark.gen_test
async def test_many_at_once_get_each_their_own_answer(
    http_client: AsyncHTTPClient, base_url: str, port: int, upstream: FakeUpstream
) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await asyncio.sleep(0.02)
        body = received.body[::-1]
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    upstream.script = script
    bodies = [f"body-{number}".encode() for number in range(40)]
    answers = await asyncio.gather(
        *[http_client.fetch(f"{base_url}/v1/x", method="POST", headers=KEY, body=body) for body in bodies]
    )
    assert [answer.body[::-1] for answer in answers] == bodies
    assert len(upstream.ledger) == 40


UPGRADE = (
    b"POST /v1/responses HTTP/1.1\r\nHost: g\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\nAuthorization: Bearer k\r\n"
)


@pytest.mark.gen_test
@pytest.mark.parametrize("later", [False, True], ids=["one segment", "later segment"])
@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 11\r\n\r\nhello world",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    ],
    ids=["length", "chunked"],
)
async def test_an_upgrade_we_do_not_perform_is_ignored_and_the_body_counted_once(
    rest: bytes, later: bool, port: int, upstream: FakeUpstream
) -> None:
    client = await RawClient.connect(port)
    data = UPGRADE + rest
    cut = data.index(b"\r\n\r\n") + 4
    if later:
        await client.send(data[:cut])
        await asyncio.sleep(0.05)
        await client.send(data[cut:])
    else:
        await client.send(data)
    assert (await client.answer()).status == 200
    (received,) = upstream.ledger
    assert received.body == b"hello world"
    for name in ("upgrade", "connection", "http2-settings"):
        assert received.get(name) is None
    # The connection is still HTTP/1.1, and in step.
    assert (await client.ask(request(body=b"next"))).status == 200
    assert upstream.ledger[1].body == b"next"
    client.close()
