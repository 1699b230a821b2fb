"""TLS on a listener: who gets in, files that change while it runs, and clients that do not finish their handshake."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from proxy.wire import accept as accept_module
from proxy.wire import listener as listener_module
from proxy.wire import tls as tls_module
from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener, Timeouts
from proxy.wire.tls import CHECK_EVERY_S, ServerTls
from tests.wire.listening import GET, LOOPS, Client, Pki, replace, run, serving

ON_BOTH_LOOPS = pytest.mark.parametrize("loop", LOOPS)
SOON = Timeouts(header_s=0.4, body_s=5, keep_alive_s=5)
LATE_S = 2.0
"""How late a busy machine may be; a timeout forgotten would be 5 seconds or more."""


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


@pytest.fixture
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files with every connection."""
    monkeypatch.setattr(tls_module, "CHECK_EVERY_S", 0.0)


def at(server: ServerTls) -> Endpoint:
    return Endpoint("127.0.0.1", tls=server)


async def shown(listener: Listener, context: ssl.SSLContext) -> bytes:
    """The certificate a new connection is shown."""
    client = await Client.connect(listener.port, context)
    await client.ask()
    client.close()
    return client.certificate


async def is_let_in(listener: Listener, context: ssl.SSLContext) -> bool:
    """Whether a request is answered; with TLS 1.3 a client learns only then that it was turned away."""
    try:
        client = await Client.connect(listener.port, context)
    except (ssl.SSLError, ConnectionError):
        return False
    try:
        await client.ask()
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return False
    finally:
        client.close()
    return True


@ON_BOTH_LOOPS
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_https(loop: str, pki: Pki, version: ssl.TLSVersion) -> None:
    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            context = pki.client(maximum_version=version)
            context.set_alpn_protocols(["h2", "http/1.1"])
            client = await Client.connect(listener.port, context)
            for _ in range(2):
                told = await client.ask()
                assert told["protocol"] == told["request"] == "https"
                assert told["address"] == ["127.0.0.1", client.port]
            found: ssl.SSLObject = client.writer.get_extra_info("ssl_object")
            assert (found.selected_alpn_protocol(), found.compression()) == ("http/1.1", None)
            assert listener.urls == [f"https://127.0.0.1:{listener.port}"]
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_megabytes_both_ways(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            client = await Client.connect(listener.port, pki.client())
            body = os.urandom(3_000_000)
            client.writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            assert await client.answer() == body
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_old_versions_are_refused(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(at(pki.server(min_version="1.3"))) as listener:
            assert await is_let_in(listener, pki.client())
            assert not await is_let_in(listener, pki.client(maximum_version=ssl.TLSVersion.TLSv1_2))
        assert pki.server().context(0).minimum_version is ssl.TLSVersion.TLSv1_2

    run(loop, main())


def test_what_a_context_allows(pki: Pki) -> None:
    context = pki.server().context(0)
    assert context.options & ssl.OP_NO_COMPRESSION
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.verify_mode is ssl.CERT_NONE
    assert pki.server(client_ca=pki.client_ca).context(0).verify_mode is ssl.CERT_REQUIRED


@ON_BOTH_LOOPS
def test_client_certificates(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(at(pki.server(client_ca=pki.client_ca))) as listener:
            assert await is_let_in(listener, pki.client(pki.authority))
            assert not await is_let_in(listener, pki.client())
            assert not await is_let_in(listener, pki.client(trustme.CA()))

    run(loop, main())


# files that change


@ON_BOTH_LOOPS
@pytest.mark.usefixtures("always_look")
def test_a_new_certificate_serves_new_connections_and_running_ones_go_on(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            running = await Client.connect(listener.port, pki.client())
            await running.ask()
            first = running.certificate
            assert await shown(listener, pki.client()) == first
            pki.renew()
            second = await shown(listener, pki.client())
            assert second != first
            assert (await running.ask())["protocol"] == "https"
            assert await shown(listener, pki.client()) == second
            running.close()

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.usefixtures("always_look")
def test_half_a_change_leaves_the_old_certificate_with_one_warning(
    loop: str, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "sluice.wire")

    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            first = await shown(listener, pki.client())
            cert, key = pki.issue()
            halves: list[Callable[[], object]] = [
                lambda: replace(pki.cert, cert[: len(cert) // 2]),
                lambda: replace(pki.cert, b""),
                lambda: os.unlink(pki.cert),
                lambda: replace(pki.cert, cert),  # with the old key
                lambda: Path(pki.key).write_bytes(key[:100]),
                lambda: os.unlink(pki.key),
            ]
            for change in halves:
                change()
                caplog.clear()
                for _ in range(3):
                    assert await shown(listener, pki.client()) == first
                (record,) = caplog.records
                assert record.levelno == logging.WARNING
                assert not record.exc_info
                assert pki.cert in record.getMessage() or pki.key in record.getMessage()
            caplog.clear()
            replace(pki.key, key)
            assert await shown(listener, pki.client()) != first
            assert not caplog.records

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.usefixtures("always_look")
def test_a_folder_of_links_that_is_swapped(loop: str, pki: Pki, tmp_path: Path) -> None:
    """As Kubernetes renews secrets: the files are links through a link, and only that one changes."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        cert, key = pki.issue()
        (tmp_path / name / "tls.crt").write_bytes(cert)
        (tmp_path / name / "tls.key").write_bytes(key)
    (tmp_path / "data").symlink_to("old")
    (tmp_path / "tls.crt").symlink_to("data/tls.crt")
    (tmp_path / "tls.key").symlink_to("data/tls.key")
    server = ServerTls(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"))

    async def main() -> None:
        async with serving(at(server)) as listener:
            first = await shown(listener, pki.client())
            (tmp_path / "swap").symlink_to("new")
            os.replace(tmp_path / "swap", tmp_path / "data")
            assert await shown(listener, pki.client()) != first

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.usefixtures("always_look")
def test_who_was_let_in_by_a_ca_that_is_gone_does_not_get_in_by_an_old_session(
    loop: str, pki: Pki, version: ssl.TLSVersion
) -> None:
    def asks(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as sock,
            context.wrap_socket(sock, server_hostname="gateway.test", session=session) as wrapped,
        ):
            wrapped.sendall(GET)
            if not wrapped.recv(65_536).startswith(b"HTTP/1.1 200 "):
                raise ConnectionError
            assert wrapped.session_reused is (session is not None)
            return wrapped.session

    async def main() -> None:
        async with serving(at(pki.server(client_ca=pki.client_ca))) as listener:
            known = pki.client(pki.authority, maximum_version=version)
            session = await asyncio.to_thread(asks, listener.port, known, None)
            assert await asyncio.to_thread(asks, listener.port, known, session), "sessions are resumed at all"
            other = trustme.CA()
            replace(pki.client_ca, other.cert_pem.bytes())
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.to_thread(asks, listener.port, known, session)
            assert await is_let_in(listener, pki.client(other))
        await asyncio.get_running_loop().shutdown_default_executor()

    run(loop, main())


def test_files_are_looked_at_seldom(pki: Pki) -> None:
    server = pki.server()
    first = server.context(100.0)
    pki.renew()
    assert server.context(100.0 + CHECK_EVERY_S - 0.01) is first
    second = server.context(100.0 + CHECK_EVERY_S)
    assert second is not first
    assert server.context(200.0) is second, "what has not changed is not loaded again"


def test_a_file_made_readable_is_a_change(pki: Pki, caplog: pytest.LogCaptureFixture) -> None:
    """Its time and inode stay as they were."""
    server = pki.server()
    first = server.context(100.0)
    pki.renew()
    server._seen = server._look()  # as if it had been tried, and could not be read
    os.chmod(pki.key, 0o600)
    assert server.context(200.0) is not first


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process can open no more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_change_for_which_there_was_no_descriptor_is_tried_again(
    pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    server = pki.server(client_ca=pki.client_ca)
    first = server.context(100.0)
    pki.renew()
    with no_descriptors():
        assert [server.context(now) for now in (110.0, 120.0, 130.0)] == [first] * 3
    (record,) = caplog.records
    assert pki.cert in record.getMessage()
    assert os.strerror(errno.EMFILE) in record.getMessage()
    second = server.context(140.0)
    assert second is not first
    assert server.context(150.0) is second


@pytest.mark.parametrize(
    ("number", "tries"),
    [
        *[(number, 3) for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)],
        *[(number, 1) for number in (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP)],
    ],
)
def test_what_may_pass_is_tried_again_and_told_once(
    pki: Pki, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, tries: int
) -> None:
    server = pki.server()
    first = server.context(100.0)
    pki.renew()
    tried = []

    def load(self: ServerTls) -> ssl.SSLContext:
        tried.append(1)
        raise OSError(number, os.strerror(number), pki.key)

    monkeypatch.setattr(ServerTls, "_load", load)
    assert [server.context(now) for now in (110.0, 120.0, 130.0)] == [first] * 3
    assert len(tried) == tries
    assert len(caplog.records) == 1
    pki.renew()
    server.context(140.0)
    assert len(caplog.records) == 2, "another change is told again"


def test_what_openssl_may_not_open_has_a_name(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cert", "client_ca"):
        path = getattr(pki, name)
        monkeypatch.setattr(tls_module, "_check_readable", lambda path: None)
        os.rename(path, f"{path}.away")
        with pytest.raises(FileNotFoundError) as caught:
            pki.server(client_ca=pki.client_ca)
        assert caught.value.filename == path
        os.rename(f"{path}.away", path)


def instead(path: str, make: Callable[[str], None]) -> None:
    """Make something else in a file's place."""
    os.unlink(path)
    make(path)


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket, lambda path: os.symlink("/dev/zero", path)])
@pytest.mark.parametrize("name", ["cert", "key", "client_ca"])
def test_what_is_no_file_stops_nobody(
    pki: Pki, caplog: pytest.LogCaptureFixture, name: str, make: Callable[[str], None]
) -> None:
    server = pki.server(client_ca=pki.client_ca)
    first = server.context(100.0)
    path = getattr(pki, name)
    instead(path, make)
    assert [server.context(now) for now in (110.0, 120.0)] == [first] * 2
    (record,) = caplog.records
    assert path in record.getMessage()


BAD: list[tuple[str, Callable[[Pki], object], str]] = [
    ("cert", lambda pki: os.unlink(pki.cert), "No such file"),
    ("key", lambda pki: os.unlink(pki.key), "No such file"),
    ("client_ca", lambda pki: os.unlink(pki.client_ca), "No such file"),
    ("cert", lambda pki: replace(pki.cert, b""), "no certificates in PEM form"),
    ("cert", lambda pki: replace(pki.cert, Path(pki.key).read_bytes()), "no certificates in PEM form"),
    ("cert", lambda pki: replace(pki.cert, pki.issue()[0][:300]), "no certificates in PEM form"),
    ("client_ca", lambda pki: replace(pki.client_ca, b"x"), "no certificates in PEM form"),
    ("key", lambda pki: replace(pki.key, b""), "no private key in PEM form"),
    ("key", lambda pki: replace(pki.key, Path(pki.cert).read_bytes()), "no private key in PEM form"),
    ("key", lambda pki: replace(pki.key, pki.issue()[1]), "is not the key of"),
    ("key", lambda pki: instead(pki.key, os.mkfifo), "is no regular file"),
    ("key", lambda pki: instead(pki.key, os.mkdir), "Is a directory"),
    ("key", lambda pki: replace(pki.key, encrypted(Path(pki.key).read_bytes())), "is encrypted"),
]


def encrypted(key: bytes) -> bytes:
    loaded = serialization.load_pem_private_key(key, None)
    how = serialization.BestAvailableEncryption(b"secret")
    return loaded.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


@pytest.mark.parametrize(("name", "spoil", "message"), BAD)
def test_bad_files_are_told_by_name(pki: Pki, name: str, spoil: Callable[[Pki], object], message: str) -> None:
    spoil(pki)
    with pytest.raises(OSError, match=message) as caught:
        pki.server(client_ca=pki.client_ca)
    assert caught.value.filename == getattr(pki, name)
    assert message in str(caught.value.strerror)


def test_an_unknown_version_is_refused(pki: Pki) -> None:
    with pytest.raises(ValueError, match=r"write one of 1\.2, 1\.3"):
        pki.server(min_version="1.1")


# clients that do not finish, or do not speak TLS


@cache
def hello() -> bytes:
    """A whole ClientHello."""
    out = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname="gateway.test").do_handshake()
    return out.read()


@ON_BOTH_LOOPS
@pytest.mark.parametrize("sent", [0, 1, 100, 10_000])
def test_an_unfinished_handshake_is_closed_in_time(
    loop: str, pki: Pki, sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with serving(at(pki.server()), timeouts=SOON) as listener:
            client = await Client.connect(listener.port)
            started = time.monotonic()
            client.writer.write(hello()[:sent])
            await client.rest()
            assert 0.3 < time.monotonic() - started < 0.4 + LATE_S
            assert await is_let_in(listener, pki.client())
            client.close()

    run(loop, main())
    assert not caplog.records


@ON_BOTH_LOOPS
def test_a_handshake_byte_by_byte_has_no_more_time(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(at(pki.server()), timeouts=SOON) as listener:
            client = await Client.connect(listener.port)
            started = time.monotonic()
            for byte in hello():
                if client.reader.at_eof() or client.writer.is_closing():
                    break
                client.writer.write(bytes([byte]))
                await asyncio.sleep(0.02)
            assert time.monotonic() - started < 0.4 + LATE_S
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_many_unfinished_handshakes_do_not_keep_others_out(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(at(pki.server()), timeouts=Timeouts(header_s=2)) as listener:
            slow = [await Client.connect(listener.port) for _ in range(100)]
            for client in slow[:50]:
                client.writer.write(hello()[:50])
            assert await is_let_in(listener, pki.client())
            for client in slow:
                await client.rest()
                client.close()
            assert await is_let_in(listener, pki.client())

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize(
    "sent",
    [GET, b"\r\n" * 9, b"\x00" * 100, b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01" + bytes(60), b"SSH-2.0-x\r\n"],
)
def test_what_is_no_tls_ends_at_once_with_one_line(
    loop: str, pki: Pki, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            for _ in range(5):
                client = await Client.connect(listener.port)
                client.writer.write(sent)
                received = await asyncio.wait_for(client.rest(), 2)
                assert not received.startswith(b"HTTP")
                client.close()

    run(loop, main())
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert not record.exc_info
    assert "the TLS handshake failed" in record.getMessage()
    assert len(record.getMessage()) <= 512
    assert record.getMessage().isprintable()


@ON_BOTH_LOOPS
def test_tls_on_the_plain_port_ends_at_once(loop: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        async with serving() as listener:
            client = await Client.connect(listener.port)
            client.writer.write(hello())
            assert (await asyncio.wait_for(client.rest(), 2)).startswith(b"HTTP/1.1 4")
            client.close()
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.wait_for(Client.connect(listener.port, ssl.create_default_context()), 2)

    run(loop, main())
    assert not caplog.records


@ON_BOTH_LOOPS
def test_clients_that_leave_in_their_handshake_leave_nothing_behind(
    loop: str, pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            assert await is_let_in(listener, pki.client())
            descriptors = len(os.listdir("/proc/self/fd"))
            for number in range(60):
                client = await Client.connect(listener.port)
                client.writer.write(hello()[: number * 4])
                if number % 3:
                    await asyncio.sleep(0)
                if number % 2:
                    set_reset(client)
                client.close()
            for _ in range(100):
                if len(os.listdir("/proc/self/fd")) <= descriptors and len(asyncio.all_tasks()) == 1:
                    break
                await asyncio.sleep(0.02)
            assert len(os.listdir("/proc/self/fd")) <= descriptors
            assert await is_let_in(listener, pki.client())

    run(loop, main())
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.WARNING]


def set_reset(client: Client) -> None:
    sock = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


@ON_BOTH_LOOPS
@pytest.mark.parametrize("sent", [0, 100, 10_000])
def test_the_end_does_not_wait_for_handshakes(
    loop: str, pki: Pki, sent: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            clients = [await Client.connect(listener.port) for _ in range(3)]
            for client in clients:
                client.writer.write(hello()[:sent])
            await asyncio.sleep(0.05)
            started = time.monotonic()
            assert await listener.drain(3)
            assert time.monotonic() - started < 1
            for client in clients:
                await client.rest()
                client.close()

    run(loop, main())
    assert not caplog.records


@ON_BOTH_LOOPS
def test_when_descriptors_run_out_accepting_rests_and_goes_on(
    loop: str, pki: Pki, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accept_module, "REST_S", 0.1)
    tries = []
    real = socket.socket.accept

    def accept(sock: socket.socket) -> object:
        tries.append(time.monotonic())
        if len(tries) <= 3:
            raise OSError(24, "Too many open files")
        return real(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)

    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            assert await is_let_in(listener, pki.client())

    run(loop, main())
    assert tries[3] - tries[0] >= 0.29, "it rested between tries"
    assert [record.getMessage() for record in caplog.records] == [
        "no connection can be accepted just now: Too many open files"
    ]


@ON_BOTH_LOOPS
@pytest.mark.parametrize(
    "number", [errno.ECONNABORTED, errno.EPROTO, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EPERM]
)
def test_what_is_wrong_with_one_client_keeps_no_other_waiting(
    loop: str, pki: Pki, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accept_module, "REST_S", 60.0)
    tries = []
    real = socket.socket.accept

    def accept(sock: socket.socket) -> object:
        tries.append(1)
        if len(tries) <= 3:
            raise OSError(number, os.strerror(number))
        return real(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)

    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            assert await asyncio.wait_for(is_let_in(listener, pki.client()), 5)

    run(loop, main())
    assert len(tries) > 3
    assert not caplog.records


@ON_BOTH_LOOPS
def test_the_oldest_of_too_many_arrivals_makes_room(loop: str, pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_module, "MOST_ARRIVALS", 5)

    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            silent = [await Client.connect(listener.port) for _ in range(5)]
            assert await is_let_in(listener, pki.client())
            assert await asyncio.wait_for(silent[0].rest(), 1) == b""
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(silent[1].rest(), 0.1)
            for client in silent:
                client.close()

    run(loop, main())


# the end


def silent_client(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A client that has its answer and does not look at its connection any more, as pools do."""
    sock = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="gateway.test")
    sock.sendall(GET)
    assert sock.recv(65_536).startswith(b"HTTP/1.1 200 ")
    return sock


@ON_BOTH_LOOPS
def test_the_end_does_not_wait_for_goodbyes(loop: str, pki: Pki) -> None:
    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            clients = [await asyncio.to_thread(silent_client, listener.port, pki.client()) for _ in range(3)]
            started = time.monotonic()
            assert await listener.drain(10)
            assert time.monotonic() - started < LATE_S
            for client in clients:
                client.settimeout(2)
                assert client.recv(1) == b"", "it is told that nothing more comes"
                client.close()
        await asyncio.get_running_loop().shutdown_default_executor()

    run(loop, main())


@ON_BOTH_LOOPS
def test_a_slow_client_gets_all_of_the_answer_its_connection_ends_with(
    loop: str, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accept_module, "GOODBYE_S", 0.05)
    body = os.urandom(8_000_000)

    async def main() -> None:
        async with serving(at(pki.server())) as listener:
            client = await Client.connect(listener.port, pki.client())
            head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
            client.writer.write(head + body)
            await client.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(0.8)  # many sweeps, with most of the answer still here
            assert await client.rest() == body
            client.close()

    run(loop, main())
