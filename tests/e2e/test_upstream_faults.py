"""An upstream that cannot be reached, cannot be trusted, or ends at the wrong moment.

The ledger decides: a request is there once at most, and ``x-sluice-upstream-sent: no`` means that it is not there.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import random
import socket
import ssl
import struct
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme

from proxy.core.origin import Origin
from proxy.gateway.plane import DataPlane
from proxy.wire import resolver
from proxy.wire.client_tls import client_context
from proxy.wire.pool import Pool, UpstreamTimeouts
from proxy.wire.resolver import Address, Lookup
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = pytest.mark.gen_test

log = logging.getLogger("tests.faults")
NAME = "api.test"
KEY = b"sk-client"
HEAD_ONLY = b"POST /v1/x HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer sk-client\r\nContent-Length: 4\r\n\r\n"
OK_2 = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def names(*hosts: str) -> Lookup:
    """A name service that knows one answer."""

    async def lookup(host: str) -> list[Address]:
        return [Address(socket.AF_INET, host) for host in hosts]

    return lookup


def lead_to(
    plane: DataPlane,
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    lookup: Lookup | None = None,
    connect_s: float = 2.0,
    pool_idle_s: float = 30.0,
    max_connections: int = 0,
) -> None:
    """Let the gateway forward to ``api.test`` at this port."""
    timeouts = UpstreamTimeouts(connect_s=connect_s, pool_idle_s=pool_idle_s)
    origin = Origin(NAME, port, tls is not None)
    plane.pool = Pool(
        origin, plane.ticker, timeouts, tls, lookup=lookup or names("127.0.0.1"), max_connections=max_connections
    )


async def ask(port: int, data: bytes | None = None) -> Answer:
    """One request on a connection of its own."""
    client = await RawClient.connect(port)
    answer = await client.ask(data or request())
    client.close()
    return answer


def refused_unsent(answer: Answer, status: int, code: str) -> None:
    """The gateway's own answer, and nothing went out."""
    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert answer.get("x-sluice-upstream-sent") == "no"


class RawOrigin:
    """An origin that does with each connection what ``serve`` says, and keeps every byte that came."""

    def __init__(self, serve: Callable[[int, bytes], bytes | str]) -> None:
        self._serve = serve
        self.connections = 0
        self.seen = b""
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """``serve(number of the connection, bytes so far)``: bytes to send, or "wait", "fin", "rst"."""
        self.connections += 1
        self._writers.append(writer)
        number, so_far = self.connections, b""
        with suppress(ConnectionError):
            while True:
                act = self._serve(number, so_far)
                if isinstance(act, bytes):
                    writer.write(act)
                elif act == "rst":
                    linger = struct.pack("ii", 1, 0)
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    writer.transport.abort()
                if act in ("fin", "rst"):
                    break
                data = await reader.read(65_536)
                if not data:
                    break
                so_far += data
                self.seen += data
        writer.close()

    async def stop(self) -> None:
        """Let go of every connection."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0.005)


@asynccontextmanager
async def raw_origin(serve: Callable[[int, bytes], bytes | str]) -> AsyncIterator[RawOrigin]:
    """A `RawOrigin` on loopback."""
    origin = RawOrigin(serve)
    server = await asyncio.start_server(origin.accept, "127.0.0.1", 0)
    origin.port = server.sockets[0].getsockname()[1]
    try:
        yield origin
    finally:
        server.close()
        await origin.stop()


# names and connections


async def test_a_refusal_is_told_at_once(port: int, plane: DataPlane, upstream: FakeUpstream) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        lead_to(plane, bound.getsockname()[1])
        took_s = []
        for _ in range(5):
            begun_s = time.monotonic()
            refused_unsent(await ask(port), 502, "upstream_unreachable")
            took_s.append(time.monotonic() - begun_s)
    assert min(took_s) < 0.05
    assert upstream.ledger == []


async def test_a_name_nobody_knows_is_502_and_the_log_says_why(
    port: int, plane: DataPlane, upstream: FakeUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    async def lookup(host: str) -> list[Address]:
        raise socket.gaierror(-2, "Name or service not known")

    lead_to(plane, upstream.port, lookup=lookup)
    refused_unsent(await ask(port), 502, "upstream_unreachable")
    assert f"no address for {NAME}: Name or service not known" in caplog.text
    assert upstream.ledger == []


async def test_a_name_that_is_not_answered_for_is_504(port: int, plane: DataPlane, upstream: FakeUpstream) -> None:
    async def lookup(host: str) -> list[Address]:
        await asyncio.sleep(60)
        return []

    lead_to(plane, upstream.port, lookup=lookup, connect_s=0.1)
    refused_unsent(await ask(port), 504, "upstream_connect_timeout")
    assert upstream.ledger == []


async def test_new_dials_follow_a_name_that_moves_and_stay_while_nobody_answers_for_it(
    port: int, plane: DataPlane, upstream: FakeUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver, "REFRESH_S", 0.0)
    monkeypatch.setattr(resolver, "FRESH_S", 0.0)
    answers: list[list[Address] | Exception] = [
        [Address(socket.AF_INET, "127.0.0.1")],
        [Address(socket.AF_INET, "127.0.0.2")],
        socket.gaierror(-3, "Temporary failure in name resolution"),
        [],
        [Address(socket.AF_INET, "127.0.0.1")],
    ]
    asked = 0

    async def lookup(host: str) -> list[Address]:
        nonlocal asked
        answer = answers[min(asked, len(answers) - 1)]
        asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def answer_elsewhere(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n{}")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nelsewhere")
        writer.close()

    elsewhere = await asyncio.start_server(answer_elsewhere, "127.0.0.2", upstream.port)
    monkeypatch.setattr(resolver, "RETRY_S", (0.0,))
    lead_to(plane, upstream.port, lookup=lookup, pool_idle_s=0)
    bodies = []
    for _ in range(5):
        bodies.append((await ask(port)).body)
        await asyncio.sleep(0.01)
    here = b'{"ok": true}'
    # While nobody answers for the name no dial waits: the last one goes where the fourth lookup was answered before.
    assert bodies == [here, b"elsewhere", b"elsewhere", b"elsewhere", b"elsewhere"]
    assert (await ask(port)).body == here
    assert len(upstream.ledger) == 2
    elsewhere.close()


async def test_when_every_connection_is_busy_it_is_503_at_once_and_later_served(
    port: int, plane: DataPlane, upstream: FakeUpstream
) -> None:
    go_on, all_busy = asyncio.Event(), asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        if len(upstream.ledger) == 2:
            all_busy.set()
        await go_on.wait()
        await wire.send(OK_2)

    upstream.script = script
    lead_to(plane, upstream.port, max_connections=2)
    waiting = [asyncio.ensure_future(ask(port)) for _ in range(2)]
    await asyncio.wait_for(all_busy.wait(), 2)
    took_s = []
    for _ in range(5):
        begun_s = time.monotonic()
        refused_unsent(await ask(port), 503, "upstream_no_capacity")
        took_s.append(time.monotonic() - begun_s)
    assert min(took_s) < 0.05
    go_on.set()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert (await ask(port)).status == 200
    assert (upstream.connections, len(upstream.ledger)) == (2, 3)


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority the gateway is told to trust."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> Path:
    """Its certificate, as a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


class TlsUpstream(FakeUpstream):
    """A fake upstream that speaks TLS: what is in its ledger, or counts as a connection, came through a handshake."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context

    async def start(self) -> None:
        """Bind to a free port on loopback."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._context)
        self.port = self._server.sockets[0].getsockname()[1]


@asynccontextmanager
async def tls_upstream(
    certificate: trustme.LeafCert | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[TlsUpstream]:
    """A `TlsUpstream`, with a context or with an ordinary one for a certificate."""
    if context is None:
        assert certificate is not None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
    upstream = TlsUpstream(context)
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()
        await asyncio.sleep(0.01)


async def test_a_trusted_upstream_is_spoken_to_and_its_connection_reused(
    port: int, plane: DataPlane, authority: trustme.CA, ca_file: Path
) -> None:
    async with tls_upstream(authority.issue_cert(NAME)) as secure:
        lead_to(plane, secure.port, tls=client_context(ca_file))
        for _ in range(3):
            assert (await ask(port)).status == 200
        assert (secure.connections, len(secure.ledger)) == (1, 3)
        assert secure.ledger[0].get("authorization") == "Bearer sk-client"


def expired(authority: trustme.CA) -> trustme.LeafCert:
    """A certificate whose time is over."""
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    return authority.issue_cert(NAME, not_before=now - 2 * day, not_after=now - day)


BAD_CERTIFICATES: dict[str, Callable[[trustme.CA], trustme.LeafCert]] = {
    "expired": expired,
    "for another name": lambda authority: authority.issue_cert("other.test"),
    "of an unknown authority": lambda _: trustme.CA().issue_cert(NAME),
}


@pytest.mark.parametrize("which", BAD_CERTIFICATES)
async def test_a_bad_certificate_is_502_and_no_byte_of_the_request_is_sent(
    which: str, port: int, plane: DataPlane, authority: trustme.CA, ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with tls_upstream(BAD_CERTIFICATES[which](authority)) as secure:
        lead_to(plane, secure.port, tls=client_context(ca_file))
        refused_unsent(await ask(port), 502, "upstream_unreachable")
        assert (secure.connections, secure.ledger) == (0, [])
    assert "certificate" in caplog.text


async def test_a_self_signed_certificate_is_502(
    port: int, plane: DataPlane, ca_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    itself = trustme.CA()
    pem = tmp_path / "self.pem"
    itself.private_key_pem.write_to_path(pem)
    itself.cert_pem.write_to_path(pem, append=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    async with tls_upstream(context=context) as secure:
        lead_to(plane, secure.port, tls=client_context(ca_file))
        refused_unsent(await ask(port), 502, "upstream_unreachable")
        assert (secure.connections, secure.ledger) == (0, [])
    assert "self-signed certificate" in caplog.text


async def test_an_upstream_of_old_tls_is_502(
    port: int, plane: DataPlane, authority: trustme.CA, ca_file: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    permissive = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(permissive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for old in (context, permissive):
            old.set_ciphers("ALL:@SECLEVEL=0")
            old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    async with tls_upstream(context=context) as secure:
        lead_to(plane, secure.port, tls=permissive)
        assert (await ask(port)).status == 200, "it does serve those who would have it"
        await plane.pool.close()
        secure.ledger.clear()
        lead_to(plane, secure.port, tls=client_context(ca_file))
        refused_unsent(await ask(port), 502, "upstream_unreachable")
        assert secure.ledger == []


@pytest.mark.parametrize("act", [b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "fin", "rst"], ids=repr)
async def test_an_upstream_that_does_not_speak_tls_is_502_and_never_sees_the_key(
    act: bytes | str, port: int, plane: DataPlane, ca_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_origin(lambda _, so_far: act if so_far else "wait") as plain:
        lead_to(plane, plain.port, tls=client_context(ca_file))
        refused_unsent(await ask(port), 502, "upstream_unreachable")
        assert plain.connections == 1
        assert plain.seen
        assert KEY not in plain.seen
    assert ("does not speak TLS" if isinstance(act, bytes) else "during the TLS handshake") in caplog.text


async def test_a_handshake_that_stalls_is_504_at_the_connect_timeout(
    port: int, plane: DataPlane, ca_file: Path
) -> None:
    async with raw_origin(lambda _, so_far: "wait") as stalled:
        lead_to(plane, stalled.port, tls=client_context(ca_file), connect_s=0.2)
        begun_s = time.monotonic()
        refused_unsent(await ask(port), 504, "upstream_connect_timeout")
        assert 0.19 < time.monotonic() - begun_s < 1
        assert KEY not in stalled.seen


@pytest.mark.parametrize("is_proper", [True, False], ids=["close_notify", "bare FIN"])
async def test_over_tls_a_body_up_to_the_close_needs_a_close_notify(
    is_proper: bool, port: int, plane: DataPlane, authority: trustme.CA, ca_file: Path
) -> None:
    """Anybody on the way can send a FIN: RFC 9112 section 9.8 has such an answer taken for incomplete."""

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + b"x" * 5000
        )
        wire.closed = True
        wire.writer.close() if is_proper else wire.writer.transport.abort()

    async with tls_upstream(authority.issue_cert(NAME)) as secure:
        secure.script = script
        lead_to(plane, secure.port, tls=client_context(ca_file))
        client = await RawClient.connect(port)
        await client.send(request())
        if is_proper:
            assert (await client.answer()).body == b"x" * 5000
        else:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.answer()
        client.close()


# connections that end at the wrong moment


@pytest.mark.parametrize("act", ["fin", "rst"])
async def test_an_upstream_that_accepts_and_closes_is_dialled_twice_if_nothing_was_sent(
    act: str, port: int, plane: DataPlane
) -> None:
    """Once more, and not once more again; the client's body had not come yet."""
    async with raw_origin(lambda number, so_far: act) as closing:
        lead_to(plane, closing.port)
        client = await RawClient.connect(port)
        answer = await client.ask(HEAD_ONLY)
        client.close()
        assert (answer.status, answer.get("x-sluice-upstream-sent")) == (502, "no")
        await asyncio.sleep(0.05)
        assert (closing.connections, closing.seen) == (2, b"")


async def test_the_second_connection_serves_if_nothing_was_sent_on_the_first(port: int, plane: DataPlane) -> None:
    async with raw_origin(lambda number, so_far: "fin" if number == 1 else OK_2 if so_far else "wait") as closing:
        lead_to(plane, closing.port)
        client = await RawClient.connect(port)
        await client.send(HEAD_ONLY)
        await asyncio.sleep(0.05)
        answer = await client.ask(b"body")
        client.close()
        assert (answer.status, answer.body) == (200, b"ok")
        assert closing.connections == 2
        assert closing.seen.count(b"body") == 1


async def primed(port: int, upstream: FakeUpstream) -> RawClient:
    """A client, and one idle connection upstream."""
    client = await RawClient.connect(port)
    assert (await client.ask(request("/v1/prime"))).status == 200
    assert upstream.connections == 1
    return client


@pytest.mark.parametrize("act", ["fin", "rst"])
async def test_a_pooled_connection_that_ends_before_a_byte_was_written_is_replaced(
    act: str, port: int, upstream: FakeUpstream
) -> None:
    wires: list[Wire] = []

    async def script(received: Received, wire: Wire) -> None:
        wires.append(wire)
        await wire.send(OK_2)

    upstream.script = script
    client = await primed(port, upstream)
    await client.send(HEAD_ONLY)
    await asyncio.sleep(0.02)  # it holds the pooled connection now, and waits for the body
    wires[0].close() if act == "fin" else wires[0].reset()
    await asyncio.sleep(0.02)
    answer = await client.ask(b"body")
    assert (answer.status, answer.body) == (200, b"ok")
    assert [received.body for received in upstream.ledger] == [b"{}", b"body"]
    assert upstream.connections == 2
    client.close()


@pytest.mark.parametrize("act", ["fin", "rst"])
@pytest.mark.parametrize("moment", ["behind the head", "behind the body", "in the status line", "in the head"])
async def test_what_was_written_is_never_sent_again(act: str, moment: str, port: int, upstream: FakeUpstream) -> None:
    """On a pooled connection, where a less careful proxy would try again."""

    async def end(received: Received, wire: Wire) -> None:
        if received.target.endswith("prime"):
            return
        await wire.send({"in the status line": b"HTTP/1.", "in the head": b"HTTP/1.1 200 OK\r\nX:"}.get(moment, b""))
        await asyncio.sleep(0.01)
        wire.close() if act == "fin" else wire.reset()

    client = await primed(port, upstream)
    if moment == "behind the head":
        upstream.early = end
    else:
        upstream.script = end
    answer = await client.ask(request())
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_protocol_error")
    assert answer.get("x-sluice-upstream-sent") == "unknown"
    await asyncio.sleep(0.05)
    assert upstream.connections == 1
    assert len(upstream.ledger) == (1 if moment == "behind the head" else 2)
    client.close()


async def race(port: int, upstream: FakeUpstream, rounds: int, clients: int = 8) -> Counter[str]:
    """Requests at the very moment the origin closes its idle connections, by FIN or by RST: how they ended.

    The origin is fair: what it has read in full it answers, and its ledger has it.
    """
    chance = random.Random(20)
    sent: Counter[str] = Counter()
    pause_s = 0.002

    def end(wire: Wire) -> None:
        if not wire.closed and not wire.writer.is_closing():
            wire.close() if chance.random() < 0.5 else wire.reset()

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(OK_2)
        asyncio.get_running_loop().call_later(pause_s + chance.uniform(-0.0005, 0.0005), end, wire)

    async def client(number: int) -> None:
        connection = await RawClient.connect(port)
        for turn in range(rounds // clients):
            nonce = f"/v1/{number}-{turn}"
            answer = await connection.ask(request(nonce))
            sent[nonce] = 0
            outcome = "ok" if answer.status == 200 else str(answer.get("x-sluice-upstream-sent"))
            assert answer.status in (200, 502)
            outcomes[outcome] += 1
            verdicts[nonce] = outcome
            await asyncio.sleep(pause_s + chance.uniform(-0.0005, 0.0005))
        connection.close()

    outcomes: Counter[str] = Counter()
    verdicts: dict[str, str] = {}
    upstream.script = script
    await asyncio.gather(*map(client, range(clients)))
    ledger = Counter(received.target for received in upstream.ledger)
    assert max(ledger.values()) == 1, "a request was sent twice"
    assert all(ledger[nonce] == 1 for nonce, verdict in verdicts.items() if verdict == "ok")
    assert all(ledger[nonce] == 0 for nonce, verdict in verdicts.items() if verdict == "no")
    assert sum(outcomes.values()) == len(verdicts) == rounds // clients * clients
    return outcomes


@pytest.mark.wire_only
@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(304, marks=pytest.mark.gen_test(timeout=30)),
        pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(600), pytest.mark.gen_test(timeout=580)]),
    ],
)
async def test_a_race_with_the_origins_idle_close_duplicates_nothing(
    rounds: int, port: int, upstream: FakeUpstream
) -> None:
    outcomes = await race(port, upstream, rounds)
    log.info("%d races, %d connections, no duplicate; answers: %s", rounds, upstream.connections, dict(outcomes))
    assert outcomes["no"] == 0, "what was not sent can be sent on a new connection"
    # It was a race: connections did end under their requests or just before.
    assert upstream.connections > rounds / 20
    assert outcomes["ok"] > rounds / 2


# answers nobody asked for


def echo(so_far: bytes) -> bytes:
    """An answer that names the last request's target."""
    target = so_far.rpartition(b"POST ")[2].partition(b" ")[0]
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(target), target)


STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"


@pytest.mark.parametrize("pause_s", [0, 0.01], ids=["in the same segment", "later"])
async def test_a_second_answer_is_nobodys(pause_s: float, port: int, upstream: FakeUpstream) -> None:
    """It comes with the first one, or while the connection is idle."""

    async def script(received: Received, wire: Wire) -> None:
        answer = echo(f"POST {received.target} ".encode())
        if not pause_s:
            await wire.send(answer + STRAY)
            return
        await wire.send(answer)
        await asyncio.sleep(pause_s)
        await wire.send(STRAY)

    upstream.script = script
    for number in range(6):
        answer = await ask(port, request(f"/v1/{number}"))
        assert answer.body == b"/v1/%d" % number
        await asyncio.sleep(pause_s * 2)
    assert len(upstream.ledger) == 6


async def test_an_answer_before_the_request_is_nobodys(port: int, plane: DataPlane) -> None:
    """It comes while the request waits for its body: the connection is given up, and so is the one after it."""
    async with raw_origin(lambda number, so_far: echo(so_far) if so_far else STRAY) as hasty:
        lead_to(plane, hasty.port)
        client = await RawClient.connect(port)
        answer = await client.ask(HEAD_ONLY)
        client.close()
        assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_protocol_error")
        assert answer.get("x-sluice-upstream-sent") == "no"
        assert (hasty.connections, hasty.seen) == (2, b"")


async def test_an_answer_that_crosses_its_request_stays_with_that_request(port: int, plane: DataPlane) -> None:
    """Nobody can tell it from an answer. What follows on that connection must not reach the next client."""
    async with raw_origin(
        lambda number, so_far: (
            (echo(so_far) if so_far else STRAY) if number == 1 else echo(so_far) if so_far else "wait"
        )
    ) as hasty:
        lead_to(plane, hasty.port)
        await ask(port, request("/v1/first"))
        for number in range(5):
            assert (await ask(port, request(f"/v1/{number}"))).body == b"/v1/%d" % number
