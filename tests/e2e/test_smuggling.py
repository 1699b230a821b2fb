"""S01 to S20, A03, A08 and A09: requests that two servers could read differently, against the upstream's ledger.

The long lists are in `tests/corpus`; here each class is shown once through the whole chain,
with what the client gets.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from proxy.admin.application import application
from proxy.core.figure import Figure
from proxy.gateway.worker import new_loop
from proxy.wire.gate import RequestError
from proxy.wire.head import RequestParser
from tests.corpus.cases import own_cases
from tests.support.corpus import Case, Reading, Tier, judge_all
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = [pytest.mark.gen_test, pytest.mark.wire_only]
CANARY = request("/v1/canary", method="GET", body=None)
START = b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\n"


async def refusal_of(port: int, data: bytes) -> Answer:
    """The answer to a broken request with a canary behind it; the connection has to end there."""
    client = await RawClient.connect(port)
    try:
        with suppress(ConnectionError):
            await client.send(data + CANARY)
        answer = await client.answer()
        assert await client.is_closed()
    finally:
        client.close()
    return answer


async def served(port: int, data: bytes) -> list[int]:
    """The statuses of a request's answer and of the canary's behind it."""
    client = await RawClient.connect(port)
    try:
        await client.send(data + CANARY)
        return [(await client.answer()).status, (await client.answer()).status]
    finally:
        client.close()


@pytest.mark.parametrize("order", [0, 1], ids=["length first", "coding first"])
async def test_s01_a_length_and_a_coding(order: int, port: int, upstream: FakeUpstream) -> None:
    lines = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]
    data = START + lines[order] + lines[1 - order] + b"\r\n0\r\n\r\n"
    assert (await refusal_of(port, data)).status == 400
    assert upstream.ledger == []


@pytest.mark.parametrize("lines", [b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5, 5"])
async def test_s02_a_length_twice(lines: bytes, port: int, upstream: FakeUpstream) -> None:
    assert (await refusal_of(port, START + lines + b"\r\n\r\nhello")).status == 400
    assert upstream.ledger == []


@pytest.mark.parametrize("length", [b"005", b"00", b"+5", b"5.0", b"0x5"])
async def test_s02_a_length_that_is_no_plain_number(length: bytes, port: int, upstream: FakeUpstream) -> None:
    assert (await refusal_of(port, START + b"Content-Length: " + length + b"\r\n\r\nhello")).status == 400
    assert upstream.ledger == []


@pytest.mark.parametrize(
    "coding",
    [
        b"identity",
        b"gzip, chunked",
        b"chunked, x",
        b"xchunked",
        b"chunked, chunked",
        b"chunked\r\nTransfer-Encoding: chunked",
        b"chunked;q=1",
        b"\x0bchunked",
        b"\xa0chunked",
        b"\r\n chunked",
        b"",
    ],
)
async def test_s03_codings(coding: bytes, port: int, upstream: FakeUpstream) -> None:
    data = START + b"Transfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n"
    assert (await refusal_of(port, data)).status == 400
    assert upstream.ledger == []


async def test_s04_a_coding_in_http_10(port: int, upstream: FakeUpstream) -> None:
    data = START.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert (await refusal_of(port, data)).status == 400
    assert upstream.ledger == []


@pytest.mark.parametrize(
    "chunk",
    [
        b"+5\r\nhello",
        b"0x5\r\nhello",
        b"0_5\r\nhello",
        b"-5\r\nhello",
        b"10000000000000005\r\nhello",
        b" 5\r\nhello",
        b"\r\nhello",
        b"5\nhello",
        b"5;\r\nhello",
        b'5;a="\r\nhello',
        b"5\r\nhelloXX",
    ],
)
async def test_s05_chunks(chunk: bytes, port: int, upstream: FakeUpstream) -> None:
    data = START + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"\r\n0\r\n\r\n"
    assert (await refusal_of(port, data)).status == 400
    assert upstream.ledger == []


@pytest.mark.config({"stages": {"ip_allowlist": {"allow": ["127.0.0.1"]}}})
async def test_s06_extensions_and_trailers_end_here(port: int, upstream: FakeUpstream) -> None:
    trailers = b"Authorization: Bearer forged\r\nX-Forwarded-For: 192.0.2.1\r\nHost: other.test\r\n"
    data = START + b"Transfer-Encoding: chunked\r\n\r\n5;evil=1\r\nhello\r\n0;last\r\n" + trailers + b"\r\n"
    assert await served(port, data) == [200, 200]
    received = upstream.ledger[0]
    assert (received.body, received.get("authorization")) == (b"hello", "Bearer k")
    assert received.get("x-forwarded-for") is None
    assert not [value for _, value in received.lines if "forged" in value or "evil" in value]


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/x HTTP/1.1\nHost: a\n\n",
        b"GET /v1/x HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET /v1/x HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"\r\nGET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\nGET /v1/x HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_s07_line_ends(data: bytes, port: int, upstream: FakeUpstream) -> None:
    assert (await refusal_of(port, data)).status == 400
    assert upstream.ledger == []


@pytest.mark.parametrize(
    "target",
    [
        b"http://other.test/v1/x",
        b"other.test:443",
        b"/v1/x#y",
        b"//other.test/v1/x",
        b"/v1/../admin",
        b"/v1/%2e%2E/admin",
        b"/v1%2f..%2fadmin",
        b"/v1\\..\\admin",
        b"/v1/\xe4",
    ],
)
async def test_s08_targets(target: bytes, port: int, upstream: FakeUpstream) -> None:
    data = b"GET %b HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer k\r\n\r\n" % target
    assert (await refusal_of(port, data)).status == 400
    assert upstream.ledger == []


@pytest.mark.parametrize("target", ["/V1/x", "/v1x", "/%761/x", "/v2/x", "/healthz/../v1/x%2f", "/v1%2fx"])
async def test_s08_only_the_raw_path_decides(target: str, port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    assert (await client.ask(request(target, method="GET", body=None))).status in (400, 404)
    client.close()
    assert upstream.ledger == []


@pytest.mark.parametrize("host", ["a,b", "a/#@x", "a?x", "u@a", "a:99999", "", "a b"])
async def test_s09_hosts(host: str, port: int, upstream: FakeUpstream) -> None:
    assert (await refusal_of(port, request(host=host))).status == 400
    assert (await refusal_of(port, request(headers=("Host: other.test",)))).status == 400
    assert (await refusal_of(port, b"GET /v1/x HTTP/1.1\r\nAuthorization: Bearer k\r\n\r\n")).status == 400
    assert upstream.ledger == []


async def test_s09_the_upstreams_host_is_the_configured_one(port: int, upstream: FakeUpstream) -> None:
    assert await served(port, request(host="other.test:99")) == [200, 200]
    assert {tuple(received.get_all("host")) for received in upstream.ledger} == {(f"127.0.0.1:{upstream.port}",)}


@pytest.mark.config({"stages": {"key": {"server_keys": ["sk-server"], "prefer": "server"}}})
@pytest.mark.environ({"IP_ALLOWLIST": "127.0.0.1"})
async def test_s10_what_connection_names(port: int, upstream: FakeUpstream) -> None:
    named = "Connection: authorization, x-forwarded-for, content-length, host, transfer-encoding, x-mine"
    data = request(body=b"hello", headers=("Authorization: Bearer theirs", named, "X-Mine: 1", "X-Yours: 2"))
    assert await served(port, data) == [200, 200]
    received = upstream.ledger[0]
    assert received.get_all("authorization") == ["Bearer sk-server"]
    assert received.get_all("content-length") == ["5"]
    assert received.body == b"hello"
    assert (received.get("x-mine"), received.get("x-yours"), received.get("connection")) == (None, "2", None)


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "foo"])
async def test_s11_a_switch_with_a_body(protocol: str, port: int, upstream: FakeUpstream) -> None:
    lines = ("Authorization: Bearer k", "Connection: Upgrade, HTTP2-Settings", f"Upgrade: {protocol}")
    hidden = b"GET /v1/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
    assert await served(port, request(body=hidden, headers=(*lines, "HTTP2-Settings: AAMAAABk"))) == [200, 200]
    assert [(received.target, received.body) for received in upstream.ledger] == [
        ("/v1/chat/completions", hidden),
        ("/v1/canary", b""),
    ]
    assert upstream.ledger[0].get("upgrade") is None
    assert upstream.ledger[0].get("http2-settings") is None


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "BREW", "PROPFIND", "get", "Post"])
async def test_s12_methods(method: str, port: int, upstream: FakeUpstream) -> None:
    target = "g:443" if method == "CONNECT" else "/v1/x"
    answer = await refusal_of(port, request(target, method=method))
    assert (answer.status, answer.get("allow")) == (405, "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")
    assert upstream.ledger == []


@pytest.mark.config({"stages": {"ip_allowlist": {"allow": ["192.0.2.1"]}}})
async def test_s13_a_denied_client_is_never_told_to_continue(port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    await client.send(START + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
    assert (await client.head()).status == 403
    client.close()
    assert upstream.ledger == []


async def test_s13_an_unknown_expectation(port: int, upstream: FakeUpstream) -> None:
    data = START + b"Expect: a-pony\r\nContent-Length: 5\r\n\r\nhello"
    assert (await refusal_of(port, data)).status == 417
    assert upstream.ledger == []


async def test_s14_each_of_two_requests_is_judged_on_its_own(port: int, upstream: FakeUpstream) -> None:
    """The first has no key and, for its body, a whole request."""
    client = await RawClient.connect(port)
    hidden = b"POST /v1/hidden HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer k\r\nContent-Length: 0\r\n\r\n"
    await client.send(request("/v1/first", headers=(), body=hidden) + request("/v1/second", body=b"two"))
    assert [(await client.answer()).status, (await client.answer()).status] == [401, 200]
    client.close()
    assert [(received.target, received.body) for received in upstream.ledger] == [("/v1/second", b"two")]


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X.Forwarded.For", "Authorization_", "Content_Length", "Host--"])
async def test_s15_twins(name: str, port: int, upstream: FakeUpstream) -> None:
    data = request(headers=("Authorization: Bearer k", f"{name}: 1"))
    assert (await refusal_of(port, data)).status == 400
    assert upstream.ledger == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/x\r\n\r\n",
        b"GET /v1/x HTTP/1.2\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_s16_other_versions_and_protocols(data: bytes, port: int, upstream: FakeUpstream) -> None:
    answer = await refusal_of(port, data)
    assert answer.status in (400, 405, 505)
    assert len(answer.body) < 512
    assert answer.body.isascii()
    assert all(byte >= 32 for byte in answer.body)
    assert upstream.ledger == []


@pytest.mark.parametrize(
    "lines",
    [b"X: " + b"a" * 65_537, b"\r\n".join([b"X: y"] * 101), b"X: " + b"a" * 32_768, b"\r\n".join([b"X_Y: z"] * 98)],
    ids=["64 KiB", "101 lines", "one of 32 KiB", "98 underscores"],
)
async def test_s17_large_heads_cost_little(lines: bytes, port: int, upstream: FakeUpstream) -> None:
    """Best of five, in CPU time of client, gateway and upstream together."""
    spent = []
    for _ in range(5):
        start_s = time.process_time()
        client = await RawClient.connect(port)
        with suppress(ConnectionError):
            await client.send(START + lines + b"\r\n\r\n")
        answer = await client.answer()
        client.close()
        spent.append(time.process_time() - start_s)
        assert answer.status in ((200,) if b"_" in lines else (400, 431))
    assert min(spent) < 0.05


def test_s18_s19_the_lists_hold_every_class() -> None:
    """S18 and S19 are `tests/wire/test_corpora.py` and `test_differential.py`: here, that their lists are whole."""
    names = [case.name for case in own_cases() if case.tier is Tier.SEVERE]
    for group, least in (("smuggling", 87), ("malformed", 100), ("transfer_encodings", 250), ("limits", 10)):
        assert sum(name.startswith(f"{group}: ") for name in names) >= least, group


def test_s20_behind_another_server_that_reuses_its_connection() -> None:
    """A front that puts its clients' requests on one connection: a broken one takes nobody else's with it.

    nginx and HAProxy in front are in `tests/wire/test_differential.py`.
    """
    good = b"POST /v1/case HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
    bad = b"POST /v1/bad HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    mixed = Case("a good and a bad one", good + bad, Tier.SEVERE, (Reading("POST", "/v1/case", b"ab"),))
    with asyncio.Runner(loop_factory=new_loop) as runner:
        (verdict,) = runner.run(judge_all([mixed]))
    assert verdict.faults == []
    for outcome in verdict.outcomes.values():
        assert [status for status, _ in outcome.answers] == [200, 400]
        assert outcome.canaries == 0


def _reading_s(lines: bytes) -> float:
    """The CPU time of reading a head with these lines, best of thirty."""
    spent = []
    data = b"GET /v1/x HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n"
    for _ in range(30):
        start_s = time.process_time()
        for _ in range(20):
            parser = RequestParser(65_536)
            parser.feed(data)
            with suppress(RequestError):
                parser.head()
        spent.append(time.process_time() - start_s)
    return min(spent)


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        (b"\r\n".join([b"A: b"] * 500), b"\r\n".join([b"A: b"] * 1000)),
        (b"\r\n".join([b"A: b"] * 48), b"\r\n".join([b"A: b"] * 96)),
        (b"Cookie: " + b'\\"' * 4096, b"Cookie: " + b'\\"' * 8192),
    ],
    ids=["1000 lines", "96 lines", "a cookie of 16 KiB"],
)
def test_a03_twice_the_head_takes_no_more_than_twice_the_time(once: bytes, twice: bytes) -> None:
    assert _reading_s(twice) <= 2.5 * _reading_s(once) + 0.001


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 O\0K\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\rSet-Cookie: a=b\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\nSet-Cookie: a=b\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2",
        b"HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: a=b\r\nContent-Length: 2",
    ],
)
async def test_a08_an_answer_that_would_inject(head: bytes, port: int, upstream: FakeUpstream) -> None:
    async def script(received: Received, wire: Wire) -> None:
        await wire.send(head + b"\r\n\r\nok")

    upstream.script = script
    client = await RawClient.connect(port)
    answer = await client.ask(request())
    client.close()
    assert (answer.status, answer.get("set-cookie"), answer.get("x")) == (502, None, None)


@pytest.mark.parametrize("path", ["/admin", "/metrics", "/config", "/v1/models", "/healthz"])
async def test_a09_an_odd_host_opens_no_other_door(path: str, port: int, upstream: FakeUpstream) -> None:
    for host in ("h/#@x", "h/v1/models#@x", "h?/healthz"):
        assert (await refusal_of(port, request(path, method="GET", body=None, host=host))).status == 400
    assert upstream.ledger == []


class Bare:
    """A gateway with nothing to tell."""

    is_ready = True

    def figures(self) -> list[Figure]:
        return []

    def workers(self) -> list[dict[str, object]]:
        return []

    def restart(self, why: str) -> bool:
        return False

    async def ask(self, name: str, params: Mapping[str, object]) -> object:
        raise AssertionError("nobody was let in")


@pytest.mark.parametrize("path", ["/healthz", "/admin", "/metrics", "/config", "/v1/models"])
async def test_a09_the_admin_plane_does_not_look_at_the_host(path: str) -> None:
    server = HTTPServer(application(Bare(), "a token", "127.0.0.1"))
    (sock,) = bind_sockets(0, "127.0.0.1")
    server.add_socket(sock)
    statuses = []
    try:
        for host in ("h", "h/healthz#@x"):
            client = await RawClient.connect(sock.getsockname()[1])
            statuses.append((await client.ask(request(path, method="GET", body=None, host=host))).status)
            client.close()
    finally:
        server.stop()
        await server.close_all_connections()
    plain, odd = statuses
    assert plain == (200 if path in ("/healthz", "/metrics") else 404)
    assert odd in (plain, 400)
