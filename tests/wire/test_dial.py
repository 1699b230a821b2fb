"""Dialling, on asyncio and on uvloop: the race of addresses, TLS, one limit for all, no socket left behind."""

from __future__ import annotations

import asyncio
import datetime
import os
import resource
import socket
import ssl
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import Any, cast

import pytest
import trustme
import uvloop

from proxy.core.errors import ConnectError, ConnectTimeout, NoCapacity, UpstreamError
from proxy.wire import dial as dial_module
from proxy.wire.client_tls import client_context, ended_properly
from proxy.wire.dial import dial
from proxy.wire.resolver import Address, Resolver

Run = Callable[[Coroutine[Any, Any, None]], None]
V4, V6 = socket.AF_INET, socket.AF_INET6
NAME = "api.test"


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on each kind of loop; what a callback raises unseen fails the test."""

    def run_on_loop(main: Coroutine[Any, Any, None]) -> None:
        troubles: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: troubles.append(context))
            runner.run(main)
        assert troubles == []

    return run_on_loop


@contextmanager
def listening(host: str = "127.0.0.1", port: int = 0, *, family: int = V4) -> Iterator[socket.socket]:
    """A socket that listens: its kernel accepts connections, and nobody reads."""
    with socket.socket(family) as sock:
        sock.bind((host, port))
        sock.listen(50)
        yield sock


@contextmanager
def black_hole(host: str, port: int = 0, *, family: int = V4) -> Iterator[int]:
    """A port where connections hang: its queue is full, so SYNs are dropped."""
    with socket.socket(family) as sock:
        sock.bind((host, port))
        sock.listen(0)
        fillers = [socket.socket(family) for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]
        for filler in fillers:
            filler.close()


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port at which each connection is given to ``serve``, in a thread, and closed after it."""
    stopped = threading.Event()

    def accept(listener: socket.socket) -> None:
        while not stopped.is_set():
            with suppress(OSError):
                sock, _ = listener.accept()
                with closing(sock):
                    sock.settimeout(5)
                    serve(sock)

    with listening() as listener:
        listener.settimeout(0.05)
        thread = threading.Thread(target=accept, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            stopped.set()
            thread.join()


class Plain(asyncio.Protocol):
    """Writes down what the transport reports."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.data = b""
        self.ended_properly: bool | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None:
        self.ended_properly = ended_properly(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set()

    async def close(self) -> None:
        """Close and wait for it."""
        self.transport.abort()
        await self.lost.wait()


def resolver_for(*addresses: Address, host: str = NAME) -> Resolver:
    """A resolver that knows these addresses."""

    async def lookup(host: str) -> list[Address]:
        return list(addresses)

    return Resolver(host, lookup=lookup)


LOOPBACK = Address(V4, "127.0.0.1")


async def connect(
    resolver: Resolver, port: int, *, tls: ssl.SSLContext | None = None, timeout_s: float = 5.0
) -> tuple[Plain, str]:
    """A connection, and the address it was made to."""
    protocol = Plain()
    won: list[str] = []

    def protocol_for(address: str) -> Plain:
        won.append(address)
        return protocol

    await dial(resolver, port, protocol_for, tls=tls, timeout_s=timeout_s)
    (address,) = won
    return protocol, address


async def failure(
    resolver: Resolver, port: int, *, tls: ssl.SSLContext | None = None, timeout_s: float = 5.0
) -> UpstreamError:
    """What a dial that must fail raises."""
    with pytest.raises(UpstreamError) as caught:
        await connect(resolver, port, tls=tls, timeout_s=timeout_s)
    return caught.value


def test_a_connection_has_no_delay_and_keeps_alive(run: Run) -> None:
    async def main() -> None:
        with listening() as listener:
            protocol, address = await connect(resolver_for(LOOPBACK), listener.getsockname()[1])
            assert address == "127.0.0.1"
            sock = protocol.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            values = [sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names]
            assert values == [30, 10, 3]
            await protocol.close()

    run(main())


def test_nobody_there_is_a_connect_error_at_once(run: Run) -> None:
    async def main() -> None:
        with socket.socket() as bound:
            bound.bind(("127.0.0.1", 0))  # and does not listen
            begun_s = time.monotonic()
            error = await failure(resolver_for(LOOPBACK), bound.getsockname()[1])
            assert time.monotonic() - begun_s < 1
        assert type(error) is ConnectError
        assert "refused" in str(error).lower()

    run(main())


def test_a_black_hole_is_a_connect_timeout_at_the_limit(run: Run) -> None:
    async def main() -> None:
        with black_hole("127.0.0.1") as port:
            begun_s = time.monotonic()
            error = await failure(resolver_for(LOOPBACK), port, timeout_s=0.2)
            assert 0.19 <= time.monotonic() - begun_s < 0.7
        assert type(error) is ConnectTimeout
        assert f"the connection for {NAME}:{port}" in str(error)

    run(main())


def test_a_name_that_is_not_answered_for_is_a_connect_timeout(run: Run) -> None:
    async def main() -> None:
        async def lookup(host: str) -> list[Address]:
            await asyncio.sleep(60)
            return []

        resolver = Resolver(NAME, lookup=lookup)
        error = await failure(resolver, 1, timeout_s=0.05)
        assert type(error) is ConnectTimeout
        assert "name lookup" in str(error)
        resolver.close()
        await asyncio.sleep(0)

    run(main())


@pytest.mark.parametrize("dead", ["hangs", "refuses"])
def test_a_dead_first_address_costs_a_quarter_of_a_second_once(dead: str, run: Run) -> None:
    """RFC 8305: the AAAA that hangs, or refuses, is passed by; the next dial begins with what worked."""

    async def main() -> None:
        first = Address(V6, "::1")
        took_s = []
        with listening() as listener:
            port = listener.getsockname()[1]
            for _ in range(3):
                with black_hole("::1", port, family=V6) if dead == "hangs" else nullcontext():
                    resolver = resolver_for(first, LOOPBACK)
                    begun_s = time.monotonic()
                    protocol, address = await connect(resolver, port)
                    took_s.append(time.monotonic() - begun_s)
                    assert address == "127.0.0.1"
                    await protocol.close()
                    begun_s = time.monotonic()
                    protocol, address = await connect(resolver, port)
                    again_s = time.monotonic() - begun_s
                    assert address == "127.0.0.1"
                    await protocol.close()
                    assert again_s < 0.2
        assert min(took_s) <= 0.3
        if dead == "hangs":
            assert min(took_s) >= 0.24

    run(main())


def test_an_address_that_failed_is_tried_again_when_the_good_one_fails(run: Run) -> None:
    async def main() -> None:
        first, second = Address(V4, "127.0.0.2"), LOOPBACK
        resolver = resolver_for(first, second)
        with listening() as listener:
            port = listener.getsockname()[1]
            protocol, address = await connect(resolver, port)
            await protocol.close()
            assert address == second.host
        with listening(first.host, port):
            protocol, address = await connect(resolver, port)
            await protocol.close()
            assert address == first.host
        assert [found.host for found in await resolver.addresses()] == [first.host, second.host]

    run(main())


def test_when_every_address_fails_each_reason_is_named_once(run: Run) -> None:
    async def main() -> None:
        with listening() as listener:
            port = listener.getsockname()[1]
        error = await failure(resolver_for(LOOPBACK, Address(V4, "127.0.0.2"), Address(V6, "::1")), port)
        assert type(error) is ConnectError
        assert f"{NAME}:{port}" in str(error)

    run(main())


@pytest.mark.parametrize("raised", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_a_name_that_leads_nowhere_is_a_connect_error(raised: Exception, run: Run) -> None:
    async def main() -> None:
        async def lookup(host: str) -> list[Address]:
            raise raised

        error = await failure(Resolver(NAME, lookup=lookup), 1)
        assert type(error) is ConnectError
        assert NAME in str(error)
        assert (getattr(raised, "strerror", None) or str(raised)) in str(error)

    run(main())


@pytest.mark.parametrize(
    "raised", [RuntimeError("File descriptor 7 is used by transport"), ValueError("bad"), KeyError(1)]
)
def test_whatever_is_raised_becomes_a_connect_error(
    raised: Exception, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(info: object) -> socket.socket:
        raise raised

    async def main() -> None:
        monkeypatch.setattr(dial_module, "upstream_socket", fail)
        error = await failure(resolver_for(LOOPBACK), 1)
        assert type(error) is ConnectError
        assert error.__cause__ is raised

    run(main())


def test_no_descriptor_left_is_our_own_want_of_capacity(run: Run) -> None:
    """The upstream is not to blame, and the next dial may succeed."""

    async def main() -> None:
        with listening() as listener:
            port = listener.getsockname()[1]
            resolver = resolver_for(LOOPBACK, Address(V4, "127.0.0.2"))
            await resolver.addresses()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as highest:
                limit = min(soft, highest.fileno() + 1)
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            taken: list[int] = []
            try:
                with suppress(OSError):
                    while True:
                        taken.append(os.dup(listener.fileno()))
                error = await failure(resolver, port)
            finally:
                for number in taken:
                    os.close(number)
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert type(error) is NoCapacity
            assert "open files" in str(error)
            assert [address.host for address in await resolver.addresses()] == ["127.0.0.1", "127.0.0.2"]
            protocol, _ = await connect(resolver, port)
            await protocol.close()

    run(main())


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The authority that the client trusts."""
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Any) -> ssl.SSLContext:
    """The client's context, from a file as an operator names it."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return client_context(path)


def server_context(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def tls_server(context: ssl.SSLContext, seen: bytearray, *, notify: bool = True) -> Callable[[socket.socket], None]:
    """Answers one byte with ``hello`` and an end; ``seen`` is what came through the handshake."""

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False) as wrapped:
            wrapped.do_handshake()
            seen.extend(wrapped.recv(100))
            wrapped.sendall(b"hello")
            if notify:
                wrapped.unwrap()

    return serve


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_trusted_server_is_spoken_to_with_http_1_1(
    version: ssl.TLSVersion, authority: trustme.CA, tls: ssl.SSLContext, run: Run
) -> None:
    context = server_context(authority.issue_cert(NAME))
    context.minimum_version = context.maximum_version = version
    seen = bytearray()

    async def main() -> None:
        with serving(tls_server(context, seen)) as port:
            # The dot at the end of a full name is none of the certificate's business.
            protocol, _ = await connect(resolver_for(LOOPBACK, host=f"{NAME}."), port, tls=tls)
            connection = protocol.transport.get_extra_info("ssl_object")
            assert connection.selected_alpn_protocol() == "http/1.1"
            assert connection.version() == version.name.replace("_", ".")
            assert connection.server_hostname == NAME
            protocol.transport.write(b"x")
            await asyncio.wait_for(protocol.lost.wait(), 5)
            assert (protocol.data, bytes(seen)) == (b"hello", b"x")

    run(main())


def test_an_address_is_a_name_too(authority: trustme.CA, tls: ssl.SSLContext, run: Run) -> None:
    context = server_context(authority.issue_cert("127.0.0.1"))

    async def main() -> None:
        with serving(tls_server(context, bytearray())) as port:
            protocol, _ = await connect(Resolver("127.0.0.1"), port, tls=tls)
            await protocol.close()

    run(main())


def expired(authority: trustme.CA) -> trustme.LeafCert:
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    return authority.issue_cert(NAME, not_before=now - 2 * day, not_after=now - day)


BAD_CERTIFICATES: dict[str, tuple[Callable[[trustme.CA], trustme.LeafCert], str]] = {
    "expired": (expired, "expired"),
    "for another name": (lambda ca: ca.issue_cert("other.test"), "mismatch"),
    "of an unknown authority": (lambda ca: trustme.CA().issue_cert(NAME), "unable to get local issuer"),
}


@pytest.mark.parametrize("which", BAD_CERTIFICATES)
def test_a_bad_certificate_is_a_connect_error_and_nothing_is_sent(
    which: str, authority: trustme.CA, tls: ssl.SSLContext, run: Run
) -> None:
    make, reason = BAD_CERTIFICATES[which]
    seen = bytearray()

    async def main() -> None:
        with serving(tls_server(server_context(make(authority)), seen)) as port:
            error = await failure(resolver_for(LOOPBACK), port, tls=tls)
        assert type(error) is ConnectError
        assert "certificate" in str(error)
        assert reason in str(error)
        assert seen == b""

    run(main())


def test_a_server_of_tls_1_1_is_refused(authority: trustme.CA, tls: ssl.SSLContext, run: Run) -> None:
    context = server_context(authority.issue_cert(NAME))
    permissive = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(permissive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for old in (context, permissive):
            old.set_ciphers("ALL:@SECLEVEL=0")
            old.minimum_version = ssl.TLSVersion.TLSv1
            old.maximum_version = ssl.TLSVersion.TLSv1_1
    seen = bytearray()

    async def main() -> None:
        with serving(tls_server(context, seen)) as port:
            # It does serve those who would have it.
            protocol, _ = await connect(resolver_for(LOOPBACK), port, tls=permissive)
            await protocol.close()
            error = await failure(resolver_for(LOOPBACK), port, tls=tls)
        assert type(error) is ConnectError
        assert "no TLS with" in str(error)
        assert seen == b""

    run(main())


def test_plain_http_where_tls_is_expected_is_said_so(tls: ssl.SSLContext, run: Run) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(4096)
        sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    async def main() -> None:
        with serving(serve) as port:
            error = await failure(resolver_for(LOOPBACK), port, tls=tls)
        assert type(error) is ConnectError
        assert "does not speak TLS" in str(error)

    run(main())


def test_an_end_during_the_handshake_is_a_connect_error(tls: ssl.SSLContext, run: Run) -> None:
    async def main() -> None:
        with serving(lambda sock: None) as port:
            error = await failure(resolver_for(LOOPBACK), port, tls=tls)
        assert type(error) is ConnectError
        assert "during the TLS handshake" in str(error)

    run(main())


def test_a_handshake_that_stalls_is_a_connect_timeout(tls: ssl.SSLContext, run: Run) -> None:
    async def main() -> None:
        with listening() as listener:
            begun_s = time.monotonic()
            error = await failure(resolver_for(LOOPBACK), listener.getsockname()[1], tls=tls, timeout_s=0.2)
            # What matters is which limit it was: asyncio's own for a handshake is 60 s.
            assert 0.19 <= time.monotonic() - begun_s < 10
        assert type(error) is ConnectTimeout
        assert "the TLS handshake" in str(error)

    run(main())


def test_an_address_where_tls_fails_is_not_the_first_to_be_tried_again(
    authority: trustme.CA, tls: ssl.SSLContext, run: Run
) -> None:
    """There is somebody, so no other address joins the race; the next dial begins elsewhere."""
    context = server_context(authority.issue_cert(NAME))
    first = Address(V4, "127.0.0.2")

    async def main() -> None:
        with serving(tls_server(context, bytearray())) as port, listening(first.host, port):
            resolver = resolver_for(first, LOOPBACK)
            assert type(await failure(resolver, port, tls=tls, timeout_s=0.2)) is ConnectTimeout
            protocol, address = await connect(resolver, port, tls=tls)
            assert address == LOOPBACK.host
            await protocol.close()

    run(main())


@pytest.mark.parametrize("notify", [True, False], ids=["with close_notify", "with a bare FIN"])
def test_only_a_close_notify_is_a_proper_end(
    notify: bool, authority: trustme.CA, tls: ssl.SSLContext, run: Run
) -> None:
    """A bare FIN is what anybody on the way can send; uvloop reports no end for it, asyncio does."""
    context = server_context(authority.issue_cert(NAME))

    async def main() -> None:
        with serving(tls_server(context, bytearray(), notify=notify)) as port:
            protocol, _ = await connect(resolver_for(LOOPBACK), port, tls=tls)
            protocol.transport.write(b"x")
            await asyncio.wait_for(protocol.lost.wait(), 5)
        assert protocol.data == b"hello"
        assert bool(protocol.ended_properly) is notify

    run(main())


def test_without_tls_a_fin_is_all_there_is(run: Run) -> None:
    async def main() -> None:
        with serving(lambda sock: None) as port:
            protocol, _ = await connect(resolver_for(LOOPBACK), port)
            await asyncio.wait_for(protocol.lost.wait(), 5)
        assert protocol.ended_properly is True

    run(main())


# cancellation


def open_sockets() -> int:
    """Sockets this process has."""
    count = 0
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            count += os.readlink(f"/proc/self/fd/{number}").startswith("socket:")
    return count


@pytest.mark.parametrize("kind", ["plain", "tls", "hanging", "racing"])
def test_a_dial_cancelled_at_any_moment_leaves_no_socket(
    kind: str, authority: trustme.CA, tls: ssl.SSLContext, run: Run
) -> None:
    """Cancelled after no step, one step, two ... until it comes to its end before the cancellation.

    As the pool does, whoever dials aborts what stood when the cancellation came.
    """
    context = server_context(authority.issue_cert(NAME))

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) if kind == "tls" else nullcontext():
            sock.close()

    async def cancelled_after(steps: int, port: int, resolver: Resolver) -> bool:
        protocol = Plain()

        async def dial_or_abort() -> None:
            try:
                await dial(resolver, port, lambda _: protocol, tls=tls if kind == "tls" else None, timeout_s=5)
            except asyncio.CancelledError:
                if hasattr(protocol, "transport"):
                    protocol.transport.abort()
                raise

        dialling = asyncio.ensure_future(dial_or_abort())
        for step in range(steps):
            await asyncio.sleep(0.0005 if step > 40 else 0)
        if dialling.done():
            await dialling
            await protocol.close()
            return True
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        return False

    async def main() -> None:
        addresses = [LOOPBACK]
        if kind == "racing":
            addresses = [Address(V4, "127.0.0.2"), LOOPBACK, Address(V6, "::1")]
        with serving(serve) as served, black_hole("127.0.0.1") as hole:
            await asyncio.sleep(0.02)
            before = open_sockets()
            ended = 0
            for steps in range(50 if kind == "hanging" else 100):
                ended += await cancelled_after(steps, hole if kind == "hanging" else served, resolver_for(*addresses))
                if ended == 3:
                    break
            if kind != "hanging":
                protocol, _ = await connect(resolver_for(*addresses), served, tls=tls if kind == "tls" else None)
                await protocol.close()
            for _ in range(400):
                if open_sockets() == before:
                    break
                await asyncio.sleep(0.005)
            assert open_sockets() == before

    run(main())
