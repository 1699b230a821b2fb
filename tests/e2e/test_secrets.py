"""Secrets and exposure: no key is heard where none belongs, and no request chooses where it goes.

`tests.support.canary` searches what is said during each test; here every way to fail is walked with its canaries.
"""

from __future__ import annotations

import asyncio
import gc
import gzip
import json
import logging
import re
import ssl
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest
import requests
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.core.exchange import Exchange, Route
from proxy.core.reply import Reply
from proxy.core.stage import Mode, Stage
from proxy.gateway.access_log import MAX_LINE_BYTES
from proxy.gateway.forwarding import ForwardingDelegate
from proxy.gateway.local import HealthDelegate, NowhereDelegate
from proxy.gateway.plane import DataPlane
from proxy.gateway.routes import Destination, Routes
from proxy.wire.response import ResponseWriter
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
from tests.support.process import Sluice, serving
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

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


def sends(*pieces: bytes, end: str = "close") -> FakeUpstreamScript:
    """A script that writes these pieces and then closes or resets."""

    async def script(received: Received, wire: Wire) -> None:
        for piece in pieces:
            await wire.send(piece)
            await asyncio.sleep(0.005)
        wire.reset() if end == "reset" else wire.close()

    return FakeUpstreamScript(script)


class FakeUpstreamScript:
    """A script with a readable name in the list of cases."""

    def __init__(self, script: object) -> None:
        self.script = script


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
    "too many 1xx": (b"HTTP/1.1 103 X\r\nLink: " + KEYS + b"\r\n\r\n") * 11 and (
        (b"HTTP/1.1 103 X\r\nLink: " + KEYS + b"\r\n\r\n") * 11,
    ),
    "a cut body": (OK + b"Content-Length: 9999\r\n\r\n" + KEYS,),
    "a chunk size": (CHUNKED + KEYS + b"\r\n",),
    "a chunk extension": (CHUNKED + b"1;" + KEYS + b"\r\nx\r\n",),
    "a chunk's end": (CHUNKED + b"1\r\nx" + KEYS,),
    "a trailer": (CHUNKED + b"0\r\n" + KEYS + b"\r\n\r\n",),
    "a cut stream": (EVENTS + b"%x\r\ndata: %b\n\n\r\n" % (len(KEYS) + 8, KEYS),),
}  # fmt: skip
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
    upstream.script = sends(*BROKEN[case], end=end).script  # type: ignore[assignment]
    for data in both():
        await provoke(port, data)
    assert len(upstream.ledger) == 2


@pytest.mark.gen_test
@pytest.mark.config(EITHER)
@pytest.mark.parametrize("case", PLAIN)
async def test_an_upstream_that_answers_with_the_clients_own_keys(
    case: str, port: int, upstream: FakeUpstream
) -> None:
    upstream.script = sends(PLAIN[case]).script  # type: ignore[assignment]
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


def refusing(status: int, body: bytes, *lines: bytes, by: int = 0, chunked: bool = False) -> FakeUpstreamScript:
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

    return FakeUpstreamScript(script)


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
    upstream.script = refusing(status, sent, *lines, by=by, chunked=framing == "chunked").script  # type: ignore[assignment]
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
    upstream.script = refusing(status, ECHO % SERVER_KEY.encode(), by=9).script  # type: ignore[assignment]
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
    upstream.script = refusing(status, b"\x00" + SERVER_KEY.encode(), b"Content-Encoding: br").script  # type: ignore[assignment]
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
        await refusing(401, ECHO % SERVER_KEY.encode()).script(received, wire)  # type: ignore[operator]

    upstream.script = script
    answer = await ask(port, request(headers=AS_CLIENT, body=b'{"stream": true}'))
    assert answer.status == 200
    assert STARS.encode() in answer.body
    assert_silent(answer.body, "the stream")


@pytest.mark.gen_test
@pytest.mark.config(EITHER)
async def test_what_an_upstream_says_of_a_clients_key_is_not_touched(port: int, upstream: FakeUpstream) -> None:
    body = ECHO % CLIENT_KEY.encode()
    upstream.script = refusing(401, body).script  # type: ignore[assignment]
    answer = await ask(port, request(headers=AS_CLIENT))
    assert answer.body == body
