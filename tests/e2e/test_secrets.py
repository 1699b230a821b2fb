"""Secrets and exposure: no key is heard where none belongs, and no request chooses where it goes.

`tests.support.canary` searches what is said during each test; here every way to fail is walked with its canaries.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import re
import socket
import ssl
from collections.abc import Awaitable
from contextlib import suppress
from pathlib import Path

import pytest
import requests
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.exchange import Exchange
from proxy.core.reply import Reply
from proxy.core.stage import Mode, Stage
from proxy.gateway.access_log import MAX_LINE_BYTES
from proxy.gateway.forwarding import ForwardingDelegate
from proxy.gateway.local import HealthDelegate, NowhereDelegate
from proxy.gateway.plane import DataPlane
from proxy.gateway.routes import Destination, Routes
from tests.support.canary import (
    BODY_KEY,
    CLIENT_KEY,
    PROMPT,
    SERVER_KEY,
    UNUSUAL_KEY,
    Witness,
    assert_one_line,
    assert_silent,
    watch,
)
from tests.support.gateway import gateway
from tests.support.process import serving
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream, Received, Script, Wire

SERVER = {"stages": {"key": {"server_keys": [SERVER_KEY], "prefer": "server"}}}
EITHER = {"stages": {"key": {"server_keys": [SERVER_KEY]}}}
AS_CLIENT = (f"Authorization: Bearer {CLIENT_KEY}",)
CHAT = json.dumps({"user_content": PROMPT, "api_key": BODY_KEY}).encode()
ASK = json.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}]}).encode()


async def ask(port: int, data: bytes, method: str = "POST") -> Answer:
    """One request on a connection of its own."""
    client = await RawClient.connect(port)
    try:
        return await client.ask(data, method)
    finally:
        client.close()


async def provoke(port: int, data: bytes) -> bytes:
    """Send a request and read whatever comes, cuts included."""
    client = await RawClient.connect(port)
    try:
        await client.send(data)
        outcome = await client.outcome()
    except ConnectionError:
        return b""
    finally:
        client.close()
    if outcome.answer is None:
        return b""
    return json.dumps(outcome.answer.lines).encode() + outcome.answer.body


def both(headers: tuple[str, ...] = AS_CLIENT) -> list[bytes]:
    """A request on each contract, with a key wherever one may be."""
    return [
        request(f"/v1/chat/completions?key={CLIENT_KEY}", headers=headers, body=ASK),
        request(f"/api?key={CLIENT_KEY}", headers=headers, body=CHAT),
    ]


def sends(*pieces: bytes, end: str = "close") -> Script:
    """A script that writes these pieces and then closes, resets, or stays."""

    async def script(received: Received, wire: Wire) -> None:
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0.005)
        if end == "reset":
            wire.reset()
        elif end == "close":
            wire.close()

    return script


KEYS = f"{SERVER_KEY} {CLIENT_KEY} {BODY_KEY} {PROMPT}".encode()
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
EVENTS = OK + b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
BROKEN: dict[str, tuple[bytes, ...]] = {
    "nothing": (),
    "half a head": (OK + b"X: " + KEYS,),
    "no http": (KEYS + b"\r\n\r\n",),
    "a version": (b"HTTP/" + KEYS + b" 200 OK\r\n\r\n",),
    "a status": (b"HTTP/1.1 " + KEYS + b"\r\n\r\n",),
    "a reason with a control character": (b"HTTP/1.1 200 \x1b" + KEYS + b"\r\n\r\n",),
    "a header name": (OK + b"X " + KEYS + b": 1\r\n\r\n",),
    "a header value": (OK + b"X: \x00" + KEYS + b"\r\n\r\n",),
    "a length": (OK + b"Content-Length: " + KEYS + b"\r\n\r\n",),
    "two lengths": (OK + b"Content-Length: 1\r\nContent-Length: " + KEYS + b"\r\n\r\n",),
    "a coding": (OK + b"Transfer-Encoding: " + KEYS + b"\r\n\r\n",),
    "a connection": (OK + b"Connection: content-length, " + KEYS + b"\r\nContent-Length: 1\r\n\r\nx",),
    "another protocol": (b"HTTP/1.1 101 " + KEYS + b"\r\nUpgrade: " + KEYS + b"\r\n\r\n",),
    "too many 1xx": ((b"HTTP/1.1 103 X\r\nLink: " + KEYS + b"\r\n\r\n") * 11,),
    "a cut body": (OK + b"Content-Length: 9999\r\n\r\n" + KEYS,),
    "a chunk size": (CHUNKED + KEYS + b"\r\n",),
    "a chunk extension": (CHUNKED + b"1;" + KEYS + b"\r\nx\r\n",),
    "a chunk's end": (CHUNKED + b"1\r\nx" + KEYS,),
    "a trailer": (CHUNKED + b"0\r\n" + KEYS + b"\r\n\r\n",),
    "a cut stream": (EVENTS + b"%x\r\ndata: %b\n\n\r\n" % (len(KEYS) + 8, KEYS),),
}
PLAIN: dict[str, bytes] = {
    "401": b"HTTP/1.1 401 U\r\nContent-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT),
    "429": b"HTTP/1.1 429 T\r\nContent-Length: %d\r\n\r\n%b" % (len(CHAT), CHAT),
    "500": b"HTTP/1.1 500 " + KEYS + b"\r\nContent-Length: 0\r\n\r\n",
    "302": b"HTTP/1.1 302 F\r\nLocation: http://u/?" + CLIENT_KEY.encode() + b"\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.gen_test
@pytest.mark.config(SERVER)
@pytest.mark.parametrize("end", ["close", "reset"])
@pytest.mark.parametrize("case", BROKEN)
async def test_an_upstream_that_breaks_off_in_the_middle_of_our_keys(
    case: str, end: str, port: int, upstream: FakeUpstream
) -> None:
    upstream.script = sends(*BROKEN[case], end=end)
    for data in both():
        await provoke(port, data)
    assert len(upstream.ledger) == 2


@pytest.mark.gen_test
@pytest.mark.config(EITHER)
@pytest.mark.parametrize("case", PLAIN)
async def test_an_upstream_that_answers_with_the_clients_own_keys(
    case: str, port: int, upstream: FakeUpstream
) -> None:
    upstream.script = sends(PLAIN[case], end="stay")
    api, chat = [await provoke(port, data) for data in both()]
    assert api
    assert_silent(chat.replace(PROMPT.encode(), b""), "the chat route's answer")
    assert [received.get("authorization") for received in upstream.ledger] == [
        f"Bearer {CLIENT_KEY}",
        f"Bearer {BODY_KEY}",
    ]


@pytest.mark.gen_test
@pytest.mark.config({**SERVER, "downstream": {"max_body_bytes": 60}, "simple_chat": {"max_body_bytes": 60}})
async def test_bodies_that_are_too_large(port: int, upstream: FakeUpstream) -> None:
    for data in both():
        assert_silent(await provoke(port, data), "the answer")
    assert upstream.ledger == []


@pytest.mark.gen_test
@pytest.mark.config(SERVER)
async def test_an_upstream_that_is_not_there(port: int, upstream: FakeUpstream, witness: Witness) -> None:
    await upstream.refuse()
    for data in both():
        assert_silent(await provoke(port, data), "the answer")
    assert any("ConnectError" in text for _, text in witness.said)


@pytest.mark.gen_test
@pytest.mark.config({"stages": {**SERVER["stages"], "upstream": {"first_byte_timeout_s": 0.05}}})
async def test_an_upstream_that_is_silent(port: int, upstream: FakeUpstream, witness: Witness) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.gone()

    upstream.script = script
    for data in both():
        assert_silent(await provoke(port, data), "the answer")
    assert any("ReadTimeout" in text for _, text in witness.said)


@pytest.mark.gen_test
@pytest.mark.wire_only
@pytest.mark.parametrize("name", ["localhost", "other.test"])
async def test_a_certificate_that_is_not_accepted(name: str, witness: Witness, tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    (trustme.CA() if name == "localhost" else authority).cert_pem.write_to_path(str(ca_file))
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}/v1"
    async with gateway(url, stages={**SERVER["stages"], "upstream": {"ca_file": str(ca_file)}}) as worker:
        answer = await ask(worker.listener.port, both()[0])
        assert answer.status == 502
        assert_silent(answer.body, "the answer")
    server.close()
    assert any("certificate" in text for _, text in witness.said)


UNUSUAL: dict[str, bytes] = {
    "ansi": b"\x1b[31m" + CLIENT_KEY.encode(),
    "nul": CLIENT_KEY.encode() + b"\x00",
    "a lone line feed": CLIENT_KEY.encode() + b"\nX-Injected: " + CLIENT_KEY.encode(),
    "another line": CLIENT_KEY.encode() + b"\r\nX-Injected: " + CLIENT_KEY.encode(),
    "not ascii": "ключ-".encode() + CLIENT_KEY.encode() + b"\xff",
    "a blank": CLIENT_KEY.encode() + b" " + BODY_KEY.encode(),
    "ten kilobytes": CLIENT_KEY.encode() * 205,
    "forty kilobytes": CLIENT_KEY.encode() * 820,
    "quotes": UNUSUAL_KEY.encode() + b"\"'\\",
    "a bidi override": CLIENT_KEY.encode() + "\u202e".encode(),
}


@pytest.mark.gen_test
@pytest.mark.wire_only  # Tornado's own server quotes the line it does not like, at INFO
@pytest.mark.parametrize("case", UNUSUAL)
@pytest.mark.parametrize("target", ["/v1/models", "/api"])
async def test_keys_no_key_looks_like(case: str, target: str, port: int, upstream: FakeUpstream) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n" % target.encode()
    said = await provoke(port, head + b"Authorization: Bearer " + UNUSUAL[case] + b"\r\n\r\n{}")
    assert_silent(said, "the answer")
    api_key = UNUSUAL[case].decode("utf-8", "replace")
    said = await provoke(port, request("/api", body=json.dumps({"user_content": "q", "api_key": api_key}).encode()))
    assert_silent(said, "the answer")
    assert all("x-injected" not in dict(r.lines) or case == "another line" for r in upstream.ledger)


BODIES: list[bytes] = [
    b'{"api_key": "' + BODY_KEY.encode(),
    b'{"user_content": "q", "api_key": "' + BODY_KEY.encode() + b'",}',
    json.dumps(BODY_KEY).encode(),
    json.dumps([BODY_KEY]).encode(),
    BODY_KEY.encode(),
    b"\xff" + BODY_KEY.encode(),
    *(
        json.dumps({"api_key": BODY_KEY, **fields}).encode()
        for fields in (
            {},
            {"user_content": 1},
            {"user_content": [PROMPT]},
            {"user_content": PROMPT, "max_tokens": BODY_KEY},
            {"user_content": PROMPT, "max_tokens": 10**9},
            {"user_content": PROMPT, "continuous": PROMPT},
            {"user_content": PROMPT, "continuous": [{"role": "system", "content": [PROMPT]}]},
            {"user_content": PROMPT, "sys_content": {"a": PROMPT}},
            {"user_content": PROMPT, "api_key": [BODY_KEY]},
            {"user_content": PROMPT, "api_key": {"key": BODY_KEY}},
            {"user_content": PROMPT, "api_key": BODY_KEY + "\r\nX: y"},
            {"user_content": PROMPT, "api_key": BODY_KEY + "\ud800"},
        )
    ),
]


@pytest.mark.gen_test
@pytest.mark.parametrize("number", range(len(BODIES)))
async def test_chat_bodies_that_make_no_sense(number: int, port: int, upstream: FakeUpstream) -> None:
    answer = await ask(port, request("/api", headers=AS_CLIENT, body=BODIES[number]))
    assert answer.status == 400
    assert_silent(json.dumps(answer.lines), "the head")
    assert_silent(answer.body, "the answer")
    assert upstream.ledger == []


@pytest.mark.gen_test
async def test_a_key_in_the_place_of_a_model_is_not_written_down(port: int, upstream: FakeUpstream) -> None:
    body = json.dumps({"user_content": "q", "api_key": BODY_KEY, "model": BODY_KEY}).encode()
    assert (await ask(port, request("/api", body=body))).status == 502  # the fake upstream does not chat
    assert (await ask(port, request(f"/v1/models/{CLIENT_KEY}", headers=AS_CLIENT))).status == 200
    assert upstream.ledger[1].target == f"/v1/models/{CLIENT_KEY}"


# crashes


class Faulty(Stage):
    """A stage that fails in one of its hooks while it holds keys and prompt."""

    def __init__(self, hook: str, mode: Mode = Mode.ENFORCE) -> None:
        super().__init__("faulty", mode)
        self._hook = hook

    def _fail_in(self, hook: str, exchange: Exchange) -> None:
        if hook == self._hook:
            held = [SERVER_KEY, exchange.credential, exchange.authorization, exchange.body, PROMPT]
            raise RuntimeError(f"failed while it held {len(held)} things")

    def on_request_headers(self, exchange: Exchange) -> Awaitable[Reply | None] | None:
        """Fail, or fail later."""
        self._fail_in("request headers", exchange)
        return self._later(exchange) if self._hook == "later" else None

    async def _later(self, exchange: Exchange) -> None:
        await asyncio.sleep(0)
        self._fail_in("later", exchange)

    def wants_body(self, exchange: Exchange) -> bool:
        """Fail, or take the body if it is to fail on it."""
        self._fail_in("wants body", exchange)
        return self._hook == "request body"

    def on_request_body(self, exchange: Exchange) -> None:
        """Fail."""
        self._fail_in("request body", exchange)

    def on_response_headers(self, exchange: Exchange) -> None:
        """Fail."""
        self._fail_in("response headers", exchange)

    def on_response_chunk(self, exchange: Exchange, chunk: bytes) -> bytes:
        """Fail."""
        self._fail_in("response chunk", exchange)
        return chunk

    def on_complete(self, exchange: Exchange) -> None:
        """Fail."""
        self._fail_in("complete", exchange)


HOOKS = ["request headers", "later", "wants body", "request body", "response headers", "response chunk", "complete"]


@pytest.mark.gen_test
@pytest.mark.config(SERVER)
@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.SHADOW])
@pytest.mark.parametrize("hook", HOOKS)
async def test_a_stage_that_fails_with_keys_in_its_hands(
    hook: str, mode: Mode, port: int, plane: DataPlane, witness: Witness
) -> None:
    *before, last = plane.chain.stages
    plane.chain = type(plane.chain)([*before, Faulty(hook, mode), last])
    for data in both():
        said = await provoke(port, data)
        assert_silent(said, "the answer")
        assert b"Traceback" not in said
    tracebacks = [text for _, text in witness.said if "RuntimeError" in text]
    # In shadow the hooks that could change an answer are not called.
    is_called = mode is Mode.ENFORCE or hook not in ("response headers", "response chunk")
    assert bool(tracebacks) is is_called


# what can be looked at


def in_reach(*roots: object) -> list[object]:
    """Every object of the gateway's own, and every task, future and callback, that leads on from these."""
    found: dict[int, object] = {}
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if id(thing) in found or isinstance(thing, type) or type(thing).__name__ in ("module", "frame"):
            continue
        found[id(thing)] = thing
        module = type(thing).__module__
        if module.startswith(("proxy", "asyncio", "_asyncio")) or module == "builtins":
            waiting.extend(gc.get_referents(thing))
    own = ("proxy", "asyncio", "_asyncio", "functools")
    return [thing for thing in found.values() if type(thing).__module__.startswith(own) or callable(thing)]


@pytest.mark.gen_test
@pytest.mark.wire_only
@pytest.mark.config(SERVER)
@pytest.mark.parametrize("number", [0, 1], ids=["v1", "chat"])
async def test_no_object_shows_a_key_while_an_exchange_is_under_way(
    number: int, port: int, plane: DataPlane, http_server: object, upstream: FakeUpstream
) -> None:
    arrived, go_on = asyncio.Event(), asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        arrived.set()
        await go_on.wait()
        await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(both()[number])
    await arrived.wait()
    things = in_reach(plane, http_server)
    names = {type(thing).__name__ for thing in things}
    under_way = {"Exchange", "Headers", "Settings", "Pool", "UpstreamConnection", "ServerConnection", "Forward"}
    assert names >= under_way | {"DataPlane", "ResponseWriter", "ApiDelegate" if number == 0 else "ChatDelegate"}
    for thing in things:
        assert_silent(repr(thing), f"repr of a {type(thing).__name__}")
    go_on.set()
    await client.answer()
    client.close()


# the server's key in the upstream's words

ECHO = b'{"error": {"message": "Incorrect API key provided: %b.", "code": "invalid_api_key"}}'
STARS = "*" * len(SERVER_KEY)


def refusing(status: int, body: bytes, *lines: bytes, by: int = 0, chunked: bool = False) -> Script:
    """An upstream that answers with an error, perhaps in chunks of ``by`` bytes."""
    head = b"HTTP/1.1 %d No: %b\r\nX-Request-Id: req_up\r\nWWW-Authenticate: Bearer x=%b\r\n" % (
        status, SERVER_KEY.encode(), SERVER_KEY.encode(),
    )  # fmt: skip
    head += b"".join(line + b"\r\n" for line in lines)

    async def script(received: Received, wire: Wire) -> None:
        if chunked:
            pieces = [body[at : at + by] for at in range(0, len(body), by)]
            await wire.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for piece in pieces:
                await wire.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await wire.send(b"0\r\n\r\n")
        else:
            await wire.send(head + b"Content-Length: %d\r\n\r\n" % len(body))
            for at in range(0, len(body), by or len(body)):
                await wire.send(body[at : at + (by or len(body))])

    return script


@pytest.mark.gen_test
@pytest.mark.config(SERVER)
@pytest.mark.parametrize("status", [400, 401, 403, 500])
@pytest.mark.parametrize("by", [7, 10_000])
@pytest.mark.parametrize("framing", ["length", "chunked", "gzip"])
async def test_the_servers_key_in_an_error_is_masked(
    status: int, by: int, framing: str, port: int, upstream: FakeUpstream
) -> None:
    body = ECHO % SERVER_KEY.encode()
    zipped = framing == "gzip"
    lines = (b"Content-Encoding: gzip",) if zipped else ()
    sent = gzip.compress(body) if zipped else body
    upstream.script = refusing(status, sent, *lines, by=by, chunked=framing == "chunked")
    client = await RawClient.connect(port)
    for _ in range(2):
        answer = await client.ask(request(headers=AS_CLIENT))
        assert answer.status == status
        assert answer.body == ECHO % STARS.encode()
        assert answer.get("content-length") == (str(len(body)) if framing == "length" else None)
        assert answer.get("content-encoding") is None
        assert (answer.get("x-request-id"), answer.get("www-authenticate")) == ("req_up", f"Bearer x={STARS}")
        assert_silent(answer.reason, "the reason")
    assert upstream.connections == 1
    client.close()


@pytest.mark.gen_test
@pytest.mark.config(SERVER)
@pytest.mark.parametrize("status", [400, 401, 403])
async def test_on_the_chat_route_too(status: int, port: int, upstream: FakeUpstream) -> None:
    upstream.script = refusing(status, ECHO % SERVER_KEY.encode(), by=9)
    answer = await ask(port, request("/api", body=CHAT))
    assert answer.status == status
    assert_silent(answer.body + json.dumps(answer.lines).encode(), "the answer")
    assert status == 401 or STARS in answer.json["data"]["response"]


@pytest.mark.gen_test
@pytest.mark.config(SERVER)
@pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (403, "forbidden")])
async def test_a_refusal_in_a_coding_we_cannot_read_is_answered_by_us(
    status: int, code: str, port: int, upstream: FakeUpstream
) -> None:
    upstream.script = refusing(status, b"\x00" + SERVER_KEY.encode(), b"Content-Encoding: br")
    answer = await ask(port, request(headers=AS_CLIENT))
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert (answer.get("x-request-id"), answer.get("x-sluice-upstream-sent")) == ("req_up", "yes")
    assert_silent(answer.body + json.dumps(answer.lines).encode(), "the answer")


@pytest.mark.gen_test
@pytest.mark.wire_only
@pytest.mark.config({"stages": {**SERVER["stages"], "upstream": {"heartbeat_s": 1}}})
async def test_behind_a_stream_that_has_begun_too(port: int, plane: DataPlane, upstream: FakeUpstream) -> None:
    plane.heartbeat_s = 0.05

    async def script(received: Received, wire: Wire) -> None:
        await asyncio.sleep(0.5)
        await refusing(401, ECHO % SERVER_KEY.encode())(received, wire)

    upstream.script = script
    answer = await ask(port, request(headers=AS_CLIENT, body=b'{"stream": true}'))
    assert answer.status == 200
    assert STARS.encode() in answer.body
    assert_silent(answer.body, "the stream")


@pytest.mark.gen_test
@pytest.mark.config(EITHER)
async def test_what_an_upstream_says_of_a_clients_key_is_not_touched(port: int, upstream: FakeUpstream) -> None:
    body = ECHO % CLIENT_KEY.encode()
    upstream.script = refusing(401, body)
    answer = await ask(port, request(headers=AS_CLIENT))
    assert answer.body == body


# one credential, one upstream

ACCOUNT = (
    "OpenAI-Organization: org-theirs", "OpenAI-Project: proj_theirs", "Cookie: session=theirs",
    f"api-key: {CLIENT_KEY}", f"X-Api-Key: {CLIENT_KEY}",
)  # fmt: skip
NEVER = (f"Proxy-Authorization: Basic {CLIENT_KEY}", f"Proxy-Authenticate: Basic {CLIENT_KEY}")
CLAIMS = (
    (),
    AS_CLIENT,
    ("Authorization: Bearer none",),
    ("Authorization: Bearer ",),
    (f"Authorization: Basic {CLIENT_KEY}",),
    (*AS_CLIENT, "Connection: authorization, openai-organization, x-api-key, cookie"),
)


@pytest.mark.gen_test
@pytest.mark.config(SERVER)
@pytest.mark.parametrize("claim", CLAIMS)
async def test_a_servers_key_goes_alone(claim: tuple[str, ...], port: int, upstream: FakeUpstream) -> None:
    await ask(port, request(headers=(*ACCOUNT, *NEVER, *claim)))
    await ask(port, request("/api", headers=(*ACCOUNT, *NEVER, *claim), body=CHAT))
    for received in upstream.ledger:
        assert received.get_all("authorization") == [f"Bearer {SERVER_KEY}"]
        sent = json.dumps(received.lines)
        assert "theirs" not in sent
        assert_silent(sent.replace(SERVER_KEY, ""), "the forwarded head")
    assert len(upstream.ledger) == 2


@pytest.mark.gen_test
@pytest.mark.config(EITHER)
async def test_a_clients_own_key_goes_with_its_account(port: int, upstream: FakeUpstream) -> None:
    await ask(port, request(headers=(*ACCOUNT, *NEVER, *AS_CLIENT)))
    (received,) = upstream.ledger
    lines = [f"{name}: {value}" for name, value in received.lines]
    # Tornado's server spells names its own way.
    assert {line.lower() for line in (*ACCOUNT, *AS_CLIENT)} <= {line.lower() for line in lines}
    assert received.get("proxy-authorization") is received.get("proxy-authenticate") is None
    assert_silent(json.dumps(lines).replace(CLIENT_KEY, ""), "the forwarded head")


@pytest.mark.gen_test
@pytest.mark.wire_only
@pytest.mark.parametrize(
    ("offered", "sent"),
    [
        (f"realtime, openai-insecure-api-key.{CLIENT_KEY}, openai-beta.realtime-v1",
         "realtime, openai-beta.realtime-v1"),
        ("OpenAI-Organization.org,realtime,openai-project.p", "realtime"),
        (f"openai-insecure-api-key.{CLIENT_KEY}", None),
        ("realtime,x", "realtime,x"),
    ],
)  # fmt: skip
@pytest.mark.config(SERVER)
async def test_nor_does_a_key_travel_among_websocket_protocols(
    offered: str, sent: str | None, port: int, upstream: FakeUpstream
) -> None:
    headers = (
        "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        f"Sec-WebSocket-Protocol: {offered}",
    )  # fmt: skip
    await ask(port, request("/v1/realtime", method="GET", body=None, headers=headers), "GET")
    (received,) = upstream.ledger
    assert received.get("sec-websocket-protocol") == sent
    assert received.get("upgrade") == "websocket"


EVIL = [
    "Host: {evil}",
    "X-Forwarded-Host: {evil}",
    "Forwarded: host={evil};proto=http",
    "X-Host: {evil}",
    "X-Original-URL: http://{evil}/v1/x",
    "X-Rewrite-URL: http://{evil}/v1/x",
    "X-Base-URL: http://{evil}/v1",
    "OpenAI-Base-URL: http://{evil}/v1",
    "X-Upstream: {evil}",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Port: 1",
    "Connection: host",
]
ELSEWHERE = ["base_url", "api_base", "baseURL", "upstream", "host"]


@pytest.mark.gen_test
@pytest.mark.config(EITHER)
async def test_no_request_chooses_its_upstream(port: int, upstream: FakeUpstream) -> None:
    elsewhere = FakeUpstream()
    await elsewhere.start()
    evil = f"127.0.0.1:{elsewhere.port}"
    fields = dict.fromkeys(ELSEWHERE, f"http://{evil}/v1")
    query = "&".join(f"{name}=http://{evil}/v1" for name in ELSEWHERE)
    body = json.dumps({"user_content": "q", **fields}).encode()
    for line in EVIL:
        host, lines = (evil, ()) if line.startswith("Host:") else ("gateway.test", (line.format(evil=evil),))
        for target in (f"/v1/chat/completions?{query}", f"/v1/http://{evil}/v1/x", "/v1/@" + evil, f"/api?{query}"):
            answer = await ask(port, request(target, headers=lines, host=host, body=body))
            assert answer.status in (200, 502)  # 502: the fake upstream does not chat
    assert elsewhere.connections == 0
    assert len(upstream.ledger) == 4 * len(EVIL)
    for received in upstream.ledger:
        assert received.get_all("host") == [f"127.0.0.1:{upstream.port}"]
        assert received.target.startswith("/v1/")
        assert received.get("x-forwarded-host") is received.get("forwarded") is None
    await elsewhere.stop()


@pytest.mark.gen_test
@pytest.mark.config(EITHER)
@pytest.mark.parametrize(
    "target",
    ["http://evil/v1/x", "https://evil:443/v1/x", "//evil/v1/x", "evil:443", "/v1/../x", "/v1/%2e%2e/x", "/v1\\x"],
)
async def test_targets_in_other_forms_are_refused(target: str, port: int, upstream: FakeUpstream) -> None:
    # An application that mounts us on Tornado's server may not even find a route for them.
    assert (await ask(port, request(target))).status in (400, 404)
    assert upstream.connections == 0


# every route

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
WITHOUT_CHAIN = {HealthDelegate: {b"/healthz", b"/readyz"}, NowhereDelegate: {b"/nowhere"}}


def live_targets(plane: DataPlane) -> list[bytes]:
    """A target for everything the live routing table knows, and one for what it does not."""
    known = list(plane._routes._exact)
    return [*known, *(f"{path.decode()}?x=1".encode() for path in known), b"/v1/any/path", b"/nowhere"]


def test_every_route_is_the_chains_or_named_here() -> None:
    assert {Routes("").destination(target) for target in _targets_of("")} == set(Destination)


def _targets_of(route: str) -> list[bytes]:
    return [*Routes(route)._exact, b"/v1/any/path", b"/nowhere"]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "route", [pytest.param(r, marks=pytest.mark.config({"simple_chat": {"route": r}})) for r in ("", "team/chat")]
)
async def test_whatever_is_not_named_here_is_a_delegate_that_asks_the_chain(route: str, plane: DataPlane) -> None:
    passing = set()
    for target in live_targets(plane):
        delegate = plane.delegate_for(target, None)  # type: ignore[arg-type]  # it is not spoken to
        if not isinstance(delegate, ForwardingDelegate):
            assert target.partition(b"?")[0] in WITHOUT_CHAIN[type(delegate)], target
        else:
            passing.add(target.partition(b"?")[0])
    chat = {b"/team/chat", b"/team/chat/"} if route else {b"/", b"/api", b"/api/"}
    assert passing == {b"/v1", b"/v1/any/path"} | chat


def situation(name: str, config: dict[str, object], api: int, chat: int) -> object:
    """How the chain answers in a situation, on each contract."""
    return pytest.param(api, chat, id=name, marks=pytest.mark.config({"stages": config}))


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("api_status", "chat_status"),
    [
        situation("no key", {}, 401, 400),
        situation("a placeholder", {"key": {"placeholders": ["nobody"]}}, 401, 400),
        situation("a denied address", {"ip_allowlist": {"deny": ["any"]}, "limit": {"minute": 1}}, 403, 403),
        situation("over the limit", {"limit": {"minute": 1}}, 429, 429),
    ],
)
async def test_every_route_gets_the_chains_answer(
    api_status: int, chat_status: int, port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    headers = ("Authorization: Bearer nobody",) if "nobody" in repr(plane.settings.stages["key"]) else ()
    is_spent = api_status == 429
    if is_spent:
        assert (await ask(port, request())).status == 200
    body = b'{"user_content": "q"}'
    for target in live_targets(plane):
        destination = plane._routes.destination(target)
        for method in METHODS:
            has_body = method in ("POST", "PUT", "PATCH")
            data = request(target.decode(), method=method, headers=headers, body=body if has_body else None)
            answer = await ask(port, data, method)
            if destination is Destination.API:
                assert answer.status == api_status, (target, method)
            elif destination is Destination.CHAT:
                # Methods the contract does not know are refused before anything is asked.
                assert answer.status == (chat_status if method == "POST" else 405), (target, method)
            else:
                assert answer.status == (404 if destination is Destination.NOWHERE else 200)
    assert upstream.connections == is_spent


PREFLIGHT = (
    "Origin: https://evil.test",
    "Access-Control-Request-Method: POST",
    "Access-Control-Request-Headers: authorization",
    "Access-Control-Request-Private-Network: true",
)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "status",
    [
        pytest.param(401, marks=pytest.mark.config({})),
        pytest.param(403, marks=pytest.mark.config({"stages": {"ip_allowlist": {"deny": ["any"]}}})),
        pytest.param(200, marks=pytest.mark.config(SERVER)),
    ],
)
async def test_no_answer_of_ours_lets_other_sites_in(status: int, port: int, upstream: FakeUpstream) -> None:
    for target in ("/v1/chat/completions", "/api", "/healthz", "/nowhere"):
        for method in ("OPTIONS", "GET", "POST"):
            answer = await ask(port, request(target, method=method, headers=PREFLIGHT, body=None), method)
            assert not [name for name, _ in answer.lines if name.lower().startswith("access-control-")]
            if target.startswith("/v1"):
                assert answer.status == status
    # A preflight is a request like any other: it passes the chain, and counts.
    assert [received.method for received in upstream.ledger] == (["OPTIONS", "GET", "POST"] if status == 200 else [])


@pytest.mark.gen_test
@pytest.mark.config({"stages": {"limit": {"minute": 2}}})
async def test_preflights_count_if_they_are_sent(port: int) -> None:
    data = request(method="OPTIONS", headers=PREFLIGHT, body=None)
    assert [(await ask(port, data, "OPTIONS")).status for _ in range(3)] == [401] * 3
    data = request(method="OPTIONS", headers=(*PREFLIGHT, "Authorization: Bearer sk-client"), body=None)
    assert [(await ask(port, data, "OPTIONS")).status for _ in range(3)] == [200, 200, 429]


# logs

FORGED = b"\n2026-01-01 00:00:00,000 WARNING sluice: forged\n"
HOSTILE = [
    FORGED,
    FORGED.replace(b"\n", b"\r"),
    b"\r\n\r\n",
    b"\x00",
    b"\x1b[2J\x1b]0;owned\x07",
    b"\x7f" + b"\x08" * 9 + b"\x85",
    "\u202e\u2066\u2028\u2029\ufeff\u200b".encode(),
    b"%s%d%(name)s{0}",
    b'","status":200,"x":"',
    b"\\u000a",
    b"\xff\xfe",
    b"x" * 9000,
    b"\x1b" * 9000,
    "\u202e".encode() * 9000,
]
hostile = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=20)), min_size=0, max_size=3
).map(b"".join)  # fmt: skip
LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (?:DEBUG|INFO|WARNING|ERROR) +(?:sluice|tornado|asyncio)[.\w]*: ."
)


@st.composite
def hostile_requests(draw: st.DrawFn) -> bytes:
    """A request with anything in one or two of its places, which may make it none."""
    places = dict.fromkeys(("path", "query", "agent", "key", "name", "for", "method", "body", "version"), b"")
    for name in draw(st.lists(st.sampled_from(sorted(places)), min_size=1, max_size=2, unique=True)):
        places[name] = draw(hostile)
    is_chat = draw(st.booleans())
    body = places["body"] or b'{"user_content": "q"}'
    if is_chat:
        body = json.dumps({"user_content": "q", "model": body.decode("utf-8", "replace")}).encode()
    return b"".join(
        (
            b"POST" + places["method"], b" ", b"/api" if is_chat else b"/v1/x", places["path"], b"?", places["query"],
            b" HTTP/1.1", places["version"], b"\r\nHost: g\r\nX-Forwarded-For: 192.0.2.1", places["for"],
            b"\r\nUser-Agent: a", places["agent"], b"\r\nAuthorization: Bearer k", places["key"],
            b"\r\nX", places["name"], b": 1\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body), body,
        )
    )  # fmt: skip


def say(port: int, data: bytes) -> None:
    """Send bytes and read until the gateway is done with them, or waits for more."""
    with socket.create_connection(("127.0.0.1", port), timeout=0.05) as sock, suppress(OSError):
        sock.sendall(data)
        while sock.recv(65_536):
            pass


def test_nobody_writes_a_line_into_our_logs(tmp_path: Path) -> None:
    access_log = tmp_path / "access.log"
    with serving(
        LOG_LEVEL="debug",
        TRUSTED_PROXIES="127.0.0.1",
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        SLUICE__ACCESS_LOG__PATH=str(access_log),
    ) as noisy:
        ports = [noisy.port, int(noisy.wait_for(r"admin on http://127\.0\.0\.1:(\d+)")[1])]

        @settings(max_examples=150, deadline=None)
        @given(data=hostile_requests(), which=st.sampled_from(ports))
        def speak(data: bytes, which: int) -> None:
            say(which, data)

        speak()
        for words in HOSTILE:
            for which in ports:
                for before in (b"X-Forwarded-For: ", b"User-Agent: ", b"X"):
                    say(
                        which,
                        b"GET /healthz HTTP/1.1\r\nHost: g\r\n"
                        + before
                        + words
                        + b": 1\r\nConnection: close\r\n\r\n",
                    )
                say(which, b"GET /" + words + b" HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
        assert noisy.stop() == 0
        lines = [line.removesuffix("\n") for line in noisy.err]
    assert sum("ConnectError" in line for line in lines) > 10
    for line in lines:
        assert LINE.match(line), line
        assert_one_line(line)
    entries = access_log.read_bytes().split(b"\n")
    assert entries.pop() == b""
    assert len(entries) > 10
    for number, entry in enumerate(entries, 1):
        assert len(entry) < MAX_LINE_BYTES
        assert entry.isascii()
        assert entry.decode().isprintable()
        assert json.loads(entry)["seq"] >= number


@pytest.mark.gen_test
@pytest.mark.config({"trusted_proxies": ["127.0.0.1"]})
@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("before", [b"Authorization: Bearer k", b"X-Forwarded-For: 1", b"X", b"User-Agent: "])
async def test_nor_into_what_loggers_say(
    words: bytes, before: bytes, port: int, witness: Witness, server_kind: str
) -> None:
    await provoke(port, b"GET /v1/x HTTP/1.1\r\nHost: g\r\n" + before + words + b": 1\r\nConnection: close\r\n\r\n")
    await provoke(port, b"GET /v1/x" + words + b" HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n")
    for message in witness.messages:
        # What Tornado's own server says of a head it does not like holds all of that head, escaped.
        assert_one_line(message, MAX_LINE_BYTES if server_kind == "wire" else 500_000)


# the whole command


@pytest.mark.parametrize("level", ["debug", "info"])
def test_a_process_keeps_its_secrets(level: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    for line in issued.private_key_pem.bytes().decode().splitlines()[1:-1]:
        watch(line)
    tls_key, cert, secret = tmp_path / "key.pem", tmp_path / "cert.pem", tmp_path / "secret"
    issued.private_key_pem.write_to_path(str(tls_key))
    issued.cert_chain_pems[0].write_to_path(str(cert))
    secret.write_text(SERVER_KEY)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with serving(
        LOG_LEVEL=level,
        API_KEY_FILE=str(secret),
        OPENAI_BASE_URL="http://127.0.0.1:9/v1",
        PYTHONASYNCIODEBUG="1",
        SLUICE__LISTEN__TLS__CERT=str(cert),
        SLUICE__LISTEN__TLS__KEY=str(tls_key),
    ) as sluice:
        url = sluice.wait_for(r"listening on (https://127\.0\.0\.1:\d+)")[1]
        for body in (ASK, CHAT, *BODIES[:3]):
            for target in ("/v1/chat/completions", "/api", "/nowhere"):
                headers = {"Authorization": f"Bearer {CLIENT_KEY}"}
                answer = requests.post(url + target, data=body, headers=headers, timeout=5, verify=str(ca_file))
                assert answer.status_code in (400, 404, 502)
        assert sluice.stop() == 0
        said = "".join([*sluice.err, *sluice.out])
    assert "upstream_sent" in said
    assert_silent(said, "the process")
