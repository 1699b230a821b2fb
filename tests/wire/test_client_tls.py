"""TLS upstream, on asyncio and on uvloop: answers come whole, and what is given back of a connection's memory."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trustme
import uvloop

from proxy.core.origin import Origin
from proxy.core.sse import EventWatch
from proxy.wire.client import UpstreamConnection
from proxy.wire.client_tls import client_context, release_write_buffer
from proxy.wire.gate import ResponseHead
from proxy.wire.pool import Pool
from proxy.wire.ticker import Ticker
from tests.wire.origin import GET, OK_2, Answer, ScriptedOrigin

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
# More than one TLS record, and more than OpenSSL's buffer.
UPLOAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(range(250)) * 400
EVENTS = [b'data: {"id":"%d","text":"%b"}\n\n' % (number, b"e" * number * 100) for number in range(20)]
BUFFER_BYTES = 16_384


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that the client trusts."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """What the origin is served with."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def tls(request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Any) -> ssl.SSLContext:
    """The client's context, of each version."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    context = client_context(path)
    context.maximum_version = request.param
    return context


class StreamAnswer(Answer):
    """Receives a stream of events as it stands on the wire, and has it watched."""

    def __init__(self) -> None:
        super().__init__(splices=True)
        self.events: EventWatch | None = None

    def on_upstream_headers(self, head: ResponseHead) -> bool:
        if head.may_be_events:
            self.events = head.events = EventWatch()
        return super().on_upstream_headers(head)

    async def saw_body(self, body: bytes) -> None:
        """Wait until this is the body so far."""
        while len(self.body) < len(body):
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 5)
        assert self.body == body


class Writes:
    """Notes the sizes of what a connection gives its TLS object to write."""

    def __init__(self, tls: ssl.SSLObject, patch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        write = tls.write

        def noted(data: bytes) -> int:
            self.sizes.append(len(data))
            return write(data)

        patch.setattr(tls, "write", noted)

    @property
    def releases(self) -> int:
        """How often nothing was written."""
        return self.sizes.count(0)


class TlsOrigin(ScriptedOrigin):
    """One that can send several records in one go."""

    def send_together(self, *records: bytes) -> None:
        """Send each as a record of its own, all of them before the other side is let run."""
        for record in records:
            self._streams[-1][1].write(record)


@asynccontextmanager
async def origin(server_tls: ssl.SSLContext, tls: ssl.SSLContext) -> AsyncIterator[TlsOrigin]:
    """A scripted origin over TLS and a pool of connections to it."""
    peer = TlsOrigin()
    server = await asyncio.start_server(peer.accept, "127.0.0.1", 0, ssl=server_tls)
    ticker = Ticker(asyncio.get_running_loop())
    peer.pool = Pool(Origin("127.0.0.1", server.sockets[0].getsockname()[1], True), ticker, tls=tls)
    try:
        yield peer
    finally:
        await peer.stop()
        server.close()
        ticker.close()


async def ask(connection: UpstreamConnection, request: bytes) -> StreamAnswer:
    """Send a request over this connection."""
    answer = StreamAnswer()
    answer.connection = connection
    connection.begin(answer, request.partition(b" ")[0].decode())
    connection.write(request)
    connection.request_ended()
    return answer


async def stream(peer: TlsOrigin, answer: StreamAnswer) -> None:
    """Let an answer be streamed event by event, and look at it on the way."""
    framed = [b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS]
    await peer.send(STREAM)
    for number, piece in enumerate(framed, 1):
        await peer.send(piece)
        await answer.saw_body(b"".join(framed[:number]))
    assert answer.events is not None
    assert answer.events.is_between_events
    await peer.send(b"0\r\n\r\n")
    assert await answer.outcome() == "end"
    assert answer.body == b"".join(framed) + b"0\r\n\r\n"


def run(loop_name: str, main: Callable[[], Any]) -> None:
    """Run on a loop of this kind; what a callback raises unseen fails the test."""
    troubles: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: troubles.append(context))
        runner.run(main())
    assert troubles == []


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_stream_goes_on_without_the_buffer_and_the_next_request_has_one(
    loop_name: str, server_tls: ssl.SSLContext, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with origin(server_tls, tls) as peer:
            connection = await peer.connect()
            writes = Writes(connection._transport.get_extra_info("ssl_object"), monkeypatch)
            for number in (1, 2):
                answer = await ask(connection, UPLOAD)
                await peer.received(UPLOAD)
                assert writes.releases == number - 1
                await stream(peer, answer)
                assert writes.releases == number
                assert peer.pool.acquire() is connection
            # An ordinary answer costs no such call.
            ordinary = await ask(connection, GET)
            await peer.received(GET)
            await peer.send(OK_2[:-1])
            await ordinary.saw_body(b"o")
            await peer.send(OK_2[-1:])
            assert (await ordinary.outcome(), ordinary.body) == ("end", b"ok")
            assert writes.releases == 2
            assert peer.connections == 1

    run(loop_name, main)


@pytest.mark.parametrize("loop_name", LOOPS)
@pytest.mark.parametrize("splices", [False, True])
def test_records_that_come_together_are_all_read(
    splices: bool, loop_name: str, server_tls: ssl.SSLContext, tls: ssl.SSLContext
) -> None:
    """asyncio reads them one by one into slices of the connection's buffer, which must not be copies of it."""

    async def main() -> None:
        async with origin(server_tls, tls) as peer:
            # What an earlier answer has left in the buffer must not show.
            before = await peer.ask()
            await peer.received(GET)
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n" + b"!" * 60_000)
            assert await before.outcome() == "end"
            assert before.body == b"!" * 60_000
            answer = await peer.ask(splices=splices)
            await peer.received(GET)
            letters = [
                bytes([letter]) * size for letter, size in zip(b"abcdefgh", (1, 9, 500, 4000) * 2, strict=True)
            ]
            peer.send_together(STREAM, *[b"%x\r\n%b\r\n" % (len(piece), piece) for piece in letters], b"0\r\n\r\n")
            assert await answer.outcome() == "end"
            framed = b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in letters]) + b"0\r\n\r\n"
            assert answer.body == (framed if splices else b"".join(letters))

    run(loop_name, main)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_stream_that_is_given_up_at_its_head_ends_quietly(
    loop_name: str, server_tls: ssl.SSLContext, tls: ssl.SSLContext
) -> None:
    class GivingUp(StreamAnswer):
        def on_upstream_headers(self, head: ResponseHead) -> bool:
            splices = super().on_upstream_headers(head)
            self.connection.abandon()
            return splices

    async def main() -> None:
        async with origin(server_tls, tls) as peer:
            answer = GivingUp()
            answer.connection = await peer.connect()
            answer.connection.begin(answer, "GET")
            answer.connection.write(GET)
            answer.connection.request_ended()
            await peer.received(GET)
            await peer.send(STREAM + b"5\r\nhello\r\n")
            assert await peer.is_left()
            assert (answer.body, answer.ended, answer.error) == (b"", False, None)

    run(loop_name, main)


@pytest.mark.parametrize("loop_name", LOOPS)
def test_the_certificate_is_forgotten_and_the_connection_as_verified_as_before(
    loop_name: str, server_tls: ssl.SSLContext, tls: ssl.SSLContext
) -> None:
    async def main() -> None:
        async with origin(server_tls, tls) as peer:
            connection = await peer.connect()
            transport = connection._transport
            assert not transport.get_extra_info("peercert")
            found: ssl.SSLObject = transport.get_extra_info("ssl_object")
            assert (found.context.verify_mode, found.context.check_hostname) == (ssl.CERT_REQUIRED, True)
            assert found.server_hostname == "127.0.0.1"
            # It is with the TLS object still, verified: an unverified one would be shown as an empty dictionary.
            certificate = found.getpeercert()
            assert certificate
            assert certificate["subjectAltName"] == (("IP Address", "127.0.0.1"),)
            assert transport.get_extra_info("cipher")
            answer = await ask(connection, GET)
            await peer.received(GET)
            await peer.send(OK_2)
            assert (await answer.outcome(), answer.body) == ("end", b"ok")

    run(loop_name, main)


# what OpenSSL keeps


class _TlsAlone:
    """As much of a transport as is asked for."""

    def __init__(self, tls: ssl.SSLObject | None) -> None:
        self._tls = tls

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._tls if name == "ssl_object" else default


def release(tls: ssl.SSLObject | None) -> None:
    release_write_buffer(_TlsAlone(tls))  # type: ignore[arg-type]


class Pair:
    """Both ends of one TLS connection, in memory."""

    def __init__(self, tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
        self.to_client, self.to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = tls.wrap_bio(self.to_client, self.to_server, server_hostname="127.0.0.1")
        self.server = server_tls.wrap_bio(self.to_server, self.to_client, server_side=True)

    def shake_hands(self) -> Pair:
        for _ in range(3):
            for end in (self.client, self.server):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
        return self

    def ask(self) -> None:
        """One request and one answer, both read to the end."""
        self.client.write(b"x" * 100)
        assert self.server.read(1000) == b"x" * 100
        self.server.write(b"y" * 100)
        assert self.client.read(1000) == b"y" * 100
        with suppress(ssl.SSLWantReadError):
            self.client.read(1)


def held_bytes() -> int:
    """What the C library's allocator has given out (mallinfo2(3))."""

    class Info(ctypes.Structure):
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Info
    gc.collect()
    return int(ask().uordblks)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc says what it has given out")
def test_nothing_is_kept_for_writing_once_it_is_released(tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    pairs = [Pair(tls, server_tls).shake_hands() for _ in range(20)]
    before = held_bytes()
    for pair in pairs:
        pair.ask()
        release(pair.client)
    assert (held_bytes() - before) / len(pairs) < BUFFER_BYTES / 4


def test_a_release_sends_nothing_and_takes_nothing_away(tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    pair = Pair(tls, server_tls).shake_hands()
    for _ in range(2):
        pair.ask()
        release(pair.client)
        release(pair.client)
        assert (pair.to_server.pending, pair.to_client.pending) == (0, 0)
    pair.server.write(b"z" * 50_000)
    release(pair.client)
    received = b""
    while len(received) < 50_000:
        received += pair.client.read(65_536)
        release(pair.client)
    assert received == b"z" * 50_000


def test_where_there_is_nothing_to_release_nothing_happens(tls: ssl.SSLContext, server_tls: ssl.SSLContext) -> None:
    release(None)
    pair = Pair(tls, server_tls)
    release(pair.client)
    pair.shake_hands().ask()
    for _ in range(2):
        with suppress(ssl.SSLError):
            pair.client.unwrap()
        release(pair.client)
