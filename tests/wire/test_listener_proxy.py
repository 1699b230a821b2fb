"""The PROXY protocol on a listener: who may speak it, headers in pieces, and what comes right behind them."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Timeouts
from tests.wire.listening import GET, LOOPS, Client, Pki, run, serving

ON_BOTH_LOOPS = pytest.mark.parametrize("loop", LOOPS)
SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"
V1_INET6 = b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n"
V2 = SIGNATURE + b"\x21\x11\x00\x13" + bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 4711, 443)
V2 += b"\xea\x00\x04vpce"
V2_LOCAL = SIGNATURE + b"\x20\x00\x00\x00"
V2_UNIX = SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216)
CLAIMS: list[tuple[bytes, tuple[str, int] | None]] = [
    (V1, ("192.0.2.7", 4711)),
    (V1_INET6, ("2001:db8::7", 4711)),
    (V2, ("192.0.2.7", 4711)),
    (b"PROXY UNKNOWN\r\n", None),
    (V2_LOCAL, None),
    (V2_UNIX, None),
]
BROKEN = [
    b"",
    GET,
    b"PROXY TCP4 192.0.2.7\r\n" + GET,
    b"PROXY TCP4 192.0.2.07 198.51.100.1 4711 443\r\n" + GET,
    b"PROXY UNKNOWN".ljust(108, b"x") + b"\r\n" + GET,
    V2[:13] + b"\x12" + V2[14:] + GET,
    V2[:-5] + b"\x05vpce" + GET,
    SIGNATURE + b"\x31",
    b"\x16\x03\x01\x02\x00",
]
LATE_S = 2.0
"""How late a busy machine may be; a timeout forgotten would be 5 seconds or more."""
PLAIN = Endpoint("127.0.0.1", proxy_protocol=True)


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@ON_BOTH_LOOPS
@pytest.mark.parametrize("by", [0, 1, 7])
@pytest.mark.parametrize(("header", "source"), CLAIMS)
def test_the_claimed_source_becomes_the_address(
    loop: str, header: bytes, source: tuple[str, int] | None, by: int
) -> None:
    async def main() -> None:
        async with serving(PLAIN) as listener:
            client = await Client.connect(listener.port)
            told = await client.ask(header, by=by)
            host, port = source or ("127.0.0.1", client.port)
            assert told["address"] == [host, port]
            assert told["remote_ip"] == host
            assert told["family"] == (socket.AF_INET6 if ":" in host else socket.AF_INET)
            assert told["protocol"] == "http"
            # The second request of the connection has no header before it.
            assert await client.ask() == told
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_a_header_before_each_request_is_no_request(loop: str) -> None:
    async def main() -> None:
        async with serving(PLAIN) as listener:
            client = await Client.connect(listener.port)
            await client.ask(V1)
            client.writer.write(V1 + GET)
            assert (await client.rest()).startswith(b"HTTP/1.1 4")
            client.close()

    run(loop, main())


def handshake(context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO, ssl.MemoryBIO]:
    into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
    return context.wrap_bio(into, out, server_hostname="gateway.test"), into, out


async def ask_by_hand(client: Client, context: ssl.SSLContext, before: bytes, by: int) -> bytes:
    """A request over TLS, the ClientHello in one write with what precedes it, or all in pieces."""
    tls, into, out = handshake(context)
    answer = b""
    is_asked = False
    while not answer.endswith(b"}"):
        try:
            if not is_asked:
                tls.do_handshake()
                tls.write(GET)
                is_asked = True
            answer += tls.read(65_536)
        except ssl.SSLWantReadError:
            data, before = before + out.read(), b""
            for start in range(0, len(data), by or len(data) or 1):
                client.writer.write(data[start : start + (by or len(data))])
                await asyncio.sleep(0)
            received = await client.reader.read(65_536)
            assert received, answer
            into.write(received)
    return answer


@ON_BOTH_LOOPS
@pytest.mark.parametrize("by", [0, 1, 20])
@pytest.mark.parametrize("header", [V1, V2, V2_LOCAL])
def test_tls_begins_right_behind_the_header(loop: str, pki: Pki, header: bytes, by: int) -> None:
    async def main() -> None:
        async with serving(Endpoint("127.0.0.1", proxy_protocol=True, tls=pki.server())) as listener:
            client = await Client.connect(listener.port)
            answer = await ask_by_hand(client, pki.client(), header, by)
            assert b'"protocol": "https"' in answer
            claimed = b'"address": ["192.0.2.7", 4711]'
            own = b'"address": ["127.0.0.1", %d]' % client.port
            assert (own if header is V2_LOCAL else claimed) in answer
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_tls_without_the_header_is_refused(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(Endpoint("127.0.0.1", proxy_protocol=True, tls=pki.server())) as listener:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.wait_for(Client.connect(listener.port, pki.client()), 2)

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("sent", BROKEN)
@pytest.mark.parametrize("by", [0, 1])
def test_without_a_whole_header_there_is_no_answer(loop: str, sent: bytes, by: int) -> None:
    async def main() -> None:
        soon = Timeouts(header_s=0.3, body_s=5, keep_alive_s=5)
        async with serving(PLAIN, timeouts=soon) as listener:
            client = await Client.connect(listener.port)
            started = time.monotonic()
            for start in range(0, len(sent), by or len(sent) or 1):
                if client.writer.transport.is_closing():
                    break
                client.writer.write(sent[start : start + (by or len(sent))])
                await asyncio.sleep(0)
            assert await client.rest() == b""
            assert time.monotonic() - started < 0.3 + LATE_S
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_a_header_that_never_ends_is_closed_in_time_and_costs_no_cpu(loop: str) -> None:
    async def main() -> None:
        soon = Timeouts(header_s=0.8, body_s=5, keep_alive_s=5)
        async with serving(PLAIN, timeouts=soon) as listener:
            clients = [await Client.connect(listener.port) for _ in range(5)]
            for client, cut in zip(clients, (1, 6, 13, 20, len(V1) - 1), strict=True):
                client.writer.write(V1[:cut])
            started, cpu = time.monotonic(), time.process_time()
            for client in clients:
                assert await client.rest() == b""
                client.close()
            assert 0.6 < time.monotonic() - started < 0.8 + LATE_S
            assert time.process_time() - cpu < 0.3

    run(loop, main())


@ON_BOTH_LOOPS
def test_many_broken_headers_are_one_line_in_the_log(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with serving(PLAIN) as listener:
            for _ in range(50):
                client = await Client.connect(listener.port)
                client.writer.write(b"\x1b[31mGET / HTTP/1.1\r\n\r\n")
                assert await client.rest() == b""
                client.close()

    run(loop, main())
    assert [record.getMessage() for record in caplog.records] == [
        "closed a connection from 127.0.0.1: it does not begin with a PROXY header"
    ]


@ON_BOTH_LOOPS
def test_a_proxy_that_only_looks_whether_we_are_there_is_not_worth_a_line(
    loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with serving(PLAIN) as listener:
            for header in (b"", V1[:9], V1, V2_LOCAL):
                client = await Client.connect(listener.port)
                client.writer.write(header)
                await asyncio.sleep(0.01)
                client.close()
            await asyncio.sleep(0.05)

    run(loop, main())
    assert not caplog.records


@ON_BOTH_LOOPS
@pytest.mark.parametrize("kind", ["tcp", "unix", "ipv6"])
@pytest.mark.parametrize("is_trusted", [True, False])
def test_only_the_trusted_may_speak_it(
    loop: str, kind: str, is_trusted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "s.sock")
    endpoint, peer_ip = {
        "tcp": (PLAIN, "127.0.0.1"),
        "ipv6": (Endpoint("::1", proxy_protocol=True), "::1"),
        "unix": (Endpoint(unix=path, proxy_protocol=True), "unix"),
    }[kind]
    asked: list[str] = []

    def may_speak_proxy(peer: str) -> bool:
        asked.append(peer)
        return is_trusted

    async def main() -> None:
        async with serving(endpoint, may_speak_proxy=may_speak_proxy) as listener:
            where: Any = path if kind == "unix" else listener.port
            client = await Client.connect(where, host="::1" if kind == "ipv6" else "127.0.0.1")
            if is_trusted:
                assert (await client.ask(V1))["address"] == ["192.0.2.7", 4711]
            else:
                client.writer.write(V1 + GET)
                assert await client.rest() == b""
            client.close()

    run(loop, main())
    assert asked == [peer_ip]
    told = [record.getMessage() for record in caplog.records]
    assert told == ([] if is_trusted else [told[0]])
    assert is_trusted or told[0].startswith(f"closed a connection from {peer_ip}: it is not among the proxies")


@ON_BOTH_LOOPS
def test_by_default_nobody_may(loop: str) -> None:
    async def main() -> None:
        async with serving() as listener:
            # The address said by a header that is not asked for is bytes of a broken request.
            client = await Client.connect(listener.port)
            client.writer.write(V1 + GET)
            assert (await client.rest()).startswith(b"HTTP/1.1 4")
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_unknown_keeps_a_unix_peer_without_an_address(loop: str, tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")

    async def main() -> None:
        async with serving(Endpoint(unix=path, proxy_protocol=True)):
            client = await Client.connect(path)
            told = await client.ask(V2_LOCAL)
            assert not isinstance(told["address"], list)
            assert told["family"] == socket.AF_UNIX
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_a_body_behind_the_header_arrives_whole(loop: str) -> None:
    async def main() -> None:
        async with serving(PLAIN) as listener:
            client = await Client.connect(listener.port)
            body = os.urandom(1_000_000)
            head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            client.writer.write(V2 + head + body)
            assert await client.answer() == body
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_the_end_does_not_wait_for_headers(loop: str) -> None:
    async def main() -> None:
        async with serving(PLAIN) as listener:
            client = await Client.connect(listener.port)
            client.writer.write(V1[:10])
            whole = await Client.connect(listener.port)
            await whole.ask(V1)
            started = time.monotonic()
            assert await listener.drain(3)
            assert time.monotonic() - started < 1
            for one in (client, whole):
                assert await one.rest() == b""
                one.close()

    run(loop, main())
