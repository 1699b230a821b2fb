"""The whole gateway behind each kind of listener: the address it judges by, and streams over TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme

from proxy.core.address import TrustedProxies
from proxy.gateway.plane import DataPlane
from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener, Timeouts
from proxy.wire.tls import ServerTls
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire

pytestmark = pytest.mark.gen_test
TIMEOUTS = Timeouts(header_s=2, body_s=2, keep_alive_s=5)
FROM_ALICE = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n"
FROM_MALLORY = b"PROXY TCP4 203.0.113.5 198.51.100.1 4711 443\r\n"


@asynccontextmanager
async def listening(
    plane: DataPlane, endpoint: Endpoint, may_speak_proxy: Callable[[str], bool] = lambda peer_ip: False
) -> AsyncIterator[Listener]:
    """The gateway on an endpoint."""
    listener = Listener(
        plane,
        ticker=plane.ticker,
        timeouts=TIMEOUTS,
        on_error=plane.render_refusal,
        may_speak_proxy=may_speak_proxy,
    )
    await listener.listen(endpoint)
    try:
        yield listener
    finally:
        await listener.close()


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA, tmp_path: Path) -> ServerTls:
    issued = authority.issue_cert("gateway.test")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    issued.private_key_pem.write_to_path(key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    return ServerTls(cert, key)


async def tls_client(port: int, authority: trustme.CA) -> RawClient:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return RawClient(*await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="gateway.test"))


async def status_of(port: int, before: bytes = b"", *headers: str) -> int:
    """The status of a request; ``before`` precedes it on the wire."""
    client = await RawClient.connect(port)
    answer = await client.ask(before + request(headers=("Authorization: Bearer sk-client", *headers)))
    client.close()
    return answer.status


@pytest.mark.config({"stages": {"ip_allowlist": {"allow": ["192.0.2.0/24"]}}})
async def test_the_address_of_the_proxy_header_is_the_one_judged(plane: DataPlane, upstream: FakeUpstream) -> None:
    endpoint = Endpoint("127.0.0.1", proxy_protocol=True)
    async with listening(plane, endpoint, TrustedProxies.parse(["127.0.0.1"]).holds) as listener:
        assert await status_of(listener.port, FROM_ALICE) == 200
        assert await status_of(listener.port, FROM_MALLORY) == 403
        # The proxy's own health check is judged by the proxy's own address.
        assert await status_of(listener.port, b"PROXY UNKNOWN\r\n") == 403
        # What the client says of itself counts for nothing: its proxy has said who it is.
        assert await status_of(listener.port, FROM_MALLORY, "X-Forwarded-For: 192.0.2.7") == 403
    assert len(upstream.ledger) == 1


@pytest.mark.config({"stages": {"ip_allowlist": {"allow": ["any"]}}})
async def test_a_stranger_who_speaks_the_proxy_protocol_is_not_answered(
    plane: DataPlane, upstream: FakeUpstream
) -> None:
    endpoint = Endpoint("127.0.0.1", proxy_protocol=True)
    async with listening(plane, endpoint, TrustedProxies.parse(["10.0.0.0/8", "unix"]).holds) as listener:
        client = await RawClient.connect(listener.port)
        await client.send(FROM_ALICE + request())
        assert await client.is_closed()
        client.close()
    assert upstream.ledger == []


@pytest.mark.config({"stages": {"limit": {"hour": 1}}})
async def test_each_source_has_its_own_limit(plane: DataPlane, upstream: FakeUpstream) -> None:
    endpoint = Endpoint("127.0.0.1", proxy_protocol=True)
    async with listening(plane, endpoint, lambda peer_ip: peer_ip == "127.0.0.1") as listener:
        statuses = [await status_of(listener.port, source) for source in (FROM_ALICE, FROM_ALICE, FROM_MALLORY)]
    assert statuses == [200, 429, 200]
    assert len(upstream.ledger) == 2


@pytest.mark.parametrize(
    ("allow", "status"),
    [
        pytest.param(allow, status, marks=pytest.mark.config({"stages": {"ip_allowlist": {"allow": allow}}}))
        for allow, status in [(["unix"], 200), (["0.0.0.0/0", "::/0"], 403), (["any"], 200)]
    ],
)
async def test_a_unix_peer_is_let_in_only_by_its_own_word(
    plane: DataPlane, upstream: FakeUpstream, tmp_path: Path, allow: list[str], status: int
) -> None:
    path = str(tmp_path / "s.sock")
    async with listening(plane, Endpoint(unix=path, mode=0o600)):
        client = RawClient(*await asyncio.open_unix_connection(path))
        assert (await client.ask(request())).status == status
        client.close()
    assert len(upstream.ledger) == (1 if status == 200 else 0)


@pytest.mark.config({"stages": {"ip_allowlist": {"allow": ["0.0.0.0/0"]}}})
async def test_all_of_ipv4_does_not_let_ipv6_in(plane: DataPlane, upstream: FakeUpstream) -> None:
    async with listening(plane, Endpoint("")) as listener:
        ports = dict(listener.addresses)
        assert await status_of(ports["0.0.0.0"]) == 200
        client = RawClient(*await asyncio.open_connection("::1", ports["::"]))
        assert (await client.ask(request())).status == 403
        client.close()
    assert len(upstream.ledger) == 1


async def test_a_stream_over_tls_comes_as_it_is_sent(
    plane: DataPlane, upstream: FakeUpstream, server_tls: ServerTls, authority: trustme.CA
) -> None:
    seen = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        await wire.send(head + b"9\r\ndata: 1\n\n\r\n")
        await asyncio.wait_for(seen.wait(), 5)
        await wire.send(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    upstream.script = script
    async with listening(plane, Endpoint("127.0.0.1", tls=server_tls)) as listener:
        client = await tls_client(listener.port, authority)
        await client.send(request())
        assert (await client.head()).status == 200
        assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
        seen.set()
        assert await client.reader.readuntil(b"0\r\n\r\n") == b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        client.close()


async def test_a_client_that_leaves_over_tls_ends_its_exchange(
    plane: DataPlane, upstream: FakeUpstream, server_tls: ServerTls, authority: trustme.CA
) -> None:
    left = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        assert await wire.gone()
        left.set()

    upstream.script = script
    async with listening(plane, Endpoint("127.0.0.1", tls=server_tls)) as listener:
        client = await tls_client(listener.port, authority)
        await client.send(request())
        await client.head()
        client.writer.transport.abort()
        await asyncio.wait_for(left.wait(), 5)


@pytest.mark.config({"stages": {"ip_allowlist": {"allow": ["192.0.2.7"]}}})
async def test_tls_behind_a_proxy_header(
    plane: DataPlane, upstream: FakeUpstream, server_tls: ServerTls, authority: trustme.CA
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    endpoint = Endpoint("127.0.0.1", proxy_protocol=True, tls=server_tls)
    async with listening(plane, endpoint, lambda peer_ip: True) as listener:
        for before, status in ((FROM_ALICE, 200), (FROM_MALLORY, 403)):
            plain = await RawClient.connect(listener.port)
            await plain.send(before)
            await plain.writer.start_tls(context, server_hostname="gateway.test")
            assert (await plain.ask(request())).status == status
            plain.close()
    assert len(upstream.ledger) == 1
