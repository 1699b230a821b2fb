"""Where a listener listens: TCP addresses, and unix sockets with what is in their way."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from proxy.wire.endpoint import Bound, Endpoint, bind, bind_slots, bind_unix, keep_alive
from tests.wire.listening import GET, LOOPS, Client, Pki, run, serving

ON_BOTH_LOOPS = pytest.mark.parametrize("loop", LOOPS)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "s.sock")


def dead_socket(path: str) -> None:
    """What a killed process leaves behind."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()


def is_there(path: str) -> bool:
    return os.path.lexists(path)


def is_served(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(path)
        except OSError:
            return False
        return True


@ON_BOTH_LOOPS
def test_tcp(loop: str) -> None:
    async def main() -> None:
        async with serving(Endpoint("127.0.0.1", 0)) as listener:
            client = await Client.connect(listener.port)
            assert await client.ask() == {
                "address": ["127.0.0.1", client.port],
                "remote_ip": "127.0.0.1",
                "protocol": "http",
                "request": "http",
                "family": socket.AF_INET,
            }
            assert listener.addresses == [("127.0.0.1", listener.port)]
            assert listener.urls == [f"http://127.0.0.1:{listener.port}"]
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("host", ["", "::1"])
def test_ipv6(loop: str, host: str) -> None:
    async def main() -> None:
        async with serving(Endpoint(host)) as listener:
            ports = dict(listener.addresses)
            assert set(ports) == ({"0.0.0.0", "::"} if not host else {"::1"})
            port = ports[host or "::"]
            client = await Client.connect(port, host="::1")
            told = await client.ask()
            assert (told["remote_ip"], told["family"]) == ("::1", socket.AF_INET6)
            assert f"http://[{host or '::'}]:{port}" in listener.urls
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_several_endpoints_on_one_listener(loop: str, path: str) -> None:
    async def main() -> None:
        async with serving() as listener:
            await listener.listen(Endpoint("127.0.0.1"))
            await listener.listen(Endpoint(unix=path))
            (_, first), (_, second) = listener.addresses
            assert listener.urls == [f"http://127.0.0.1:{first}", f"http://127.0.0.1:{second}", f"http+unix:{path}"]
            for where in (first, second, path):
                client = await Client.connect(where)
                await client.ask()
                client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_what_is_accepted_inherits_keep_alive(loop: str) -> None:
    async def main() -> None:
        bound = await bind(Endpoint("127.0.0.1"))
        (sock,) = bound.sockets
        client = await Client.connect(sock.getsockname()[1])
        accepted, _ = sock.accept()
        assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, interval, probes = (
            accepted.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + interval * probes <= 60
        accepted.close()
        client.close()
        bound.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_a_socket_bound_by_somebody_else_gets_keep_alive_too(loop: str) -> None:
    async def main() -> None:
        foreign = socket.create_server(("127.0.0.1", 0))
        async with serving() as listener:
            await listener.listen_on(foreign)
            client = await Client.connect(foreign.getsockname()[1])
            assert (await client.ask())["remote_ip"] == "127.0.0.1"
            assert foreign.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert foreign.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
            client.close()

    run(loop, main())


def test_keep_alive_is_nothing_for_unix_sockets() -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        keep_alive(sock)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


@ON_BOTH_LOOPS
def test_a_port_already_taken_is_an_error_and_nothing_stays_open(loop: str) -> None:
    async def main() -> None:
        taken = socket.create_server(("127.0.0.1", 0))
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError) as caught:  # noqa: PT011  # told by its number below
            await bind(Endpoint("127.0.0.1", taken.getsockname()[1]))
        assert caught.value.errno == errno.EADDRINUSE
        assert len(os.listdir("/proc/self/fd")) == descriptors
        taken.close()

    run(loop, main())


def test_of_several_addresses_one_that_is_there_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    there = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
    elsewhere = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("198.51.100.1", 0))

    async def main(*found: object) -> list[str]:
        async def getaddrinfo(*args: object, **kwargs: object) -> object:
            return found

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
        bound = await bind(Endpoint("name.test"))
        hosts = [sock.getsockname()[0] for sock in bound.sockets]
        bound.close()
        return hosts

    assert asyncio.run(main(elsewhere, there, there)) == ["127.0.0.1"]
    with pytest.raises(OSError) as caught:  # noqa: PT011  # told by its number
        asyncio.run(main(elsewhere))
    assert caught.value.errno == errno.EADDRNOTAVAIL


@ON_BOTH_LOOPS
def test_unix(loop: str, path: str) -> None:
    async def main() -> None:
        async with serving(Endpoint(unix=path)) as listener:
            for _ in range(2):
                client = await Client.connect(path)
                told = await client.ask()
                assert not isinstance(told["address"], list)
                assert (told["remote_ip"], told["family"]) == ("0.0.0.0", socket.AF_UNIX)
                client.close()
            assert listener.addresses == []
            assert listener.urls == [f"http+unix:{path}"]
        assert not is_there(path)

    run(loop, main())


@ON_BOTH_LOOPS
def test_tls_on_a_unix_socket(loop: str, path: str, tmp_path: Path) -> None:
    async def main() -> None:
        pki = Pki(tmp_path)
        async with serving(Endpoint(unix=path, tls=pki.server())) as listener:
            client = await Client.connect(path, pki.client())
            assert (await client.ask())["protocol"] == "https"
            assert listener.urls == [f"https+unix:{path}"]
            client.close()
        assert not is_there(path)

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode(loop: str, path: str, mode: int) -> None:
    async def main() -> None:
        async with serving(Endpoint(unix=path, mode=mode)):
            assert stat.S_IMODE(os.stat(path).st_mode) == mode

    run(loop, main())


def test_nobody_gets_in_before_the_mode_is_set(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[bool] = []
    chmod = os.chmod

    def spying(*args: object) -> None:
        before.append(is_served(path))
        chmod(path, 0o600)

    monkeypatch.setattr(os, "chmod", spying)
    bound = bind_unix(path, 0o600)
    assert before == [False]
    assert is_served(path)
    bound.close()


def test_without_a_mode_the_umask_decides(path: str) -> None:
    before = os.umask(0o077)
    try:
        bound = bind_unix(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o700
    bound.close()


def test_a_dead_processs_socket_is_replaced(path: str) -> None:
    dead_socket(path)
    assert is_there(path)
    bound = bind_unix(path)
    assert is_served(path)
    bound.close()
    assert not is_there(path)


def refused(path: str) -> OSError:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError) as caught:  # noqa: PT011  # told by its number
        bind_unix(path)
    assert caught.value.filename == path
    assert caught.value.strerror
    assert len(os.listdir("/proc/self/fd")) == descriptors
    return caught.value


def test_a_live_socket_is_in_use(path: str) -> None:
    bound = bind_unix(path)
    assert refused(path).errno == errno.EADDRINUSE
    assert is_served(path)
    bound.close()


def test_a_live_socket_with_a_full_queue_is_in_use(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(path)
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for sock in waiting:
            sock.setblocking(False)
            try:
                sock.connect(path)
            except BlockingIOError:
                break
        assert refused(path).errno == errno.EADDRINUSE
        for sock in waiting:
            sock.close()
    assert is_there(path)


def test_a_live_datagram_socket_is_in_use(path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(path)
        assert refused(path).errno == errno.EADDRINUSE
    assert is_there(path)


def test_any_other_file_is_left_alone(path: str, tmp_path: Path) -> None:
    Path(path).write_text("precious")
    assert refused(path).errno == errno.EEXIST
    assert Path(path).read_text() == "precious"
    os.unlink(path)
    os.mkdir(path)
    assert refused(path).errno == errno.EEXIST
    os.rmdir(path)
    dead = str(tmp_path / "dead.sock")
    dead_socket(dead)
    os.symlink(dead, path)
    assert refused(path).errno == errno.EEXIST
    assert os.path.islink(path)
    assert is_there(dead)


def test_a_path_that_cannot_be_had(tmp_path: Path) -> None:
    assert refused(str(tmp_path / "no" / "s.sock")).errno == errno.ENOENT
    assert "too long" in str(refused(str(tmp_path / ("s" * 120))).strerror)


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[int]:
    """A descriptor by which somebody else has locked the folder."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield descriptor
    os.close(descriptor)


@pytest.mark.timeout(10)
@pytest.mark.usefixtures("locked")
def test_a_folder_that_stays_locked_is_an_error(path: str) -> None:
    started = time.monotonic()
    error = refused(path)
    assert time.monotonic() - started >= 0.9, "a lock of ours is held for moments only: that is waited for"
    assert (error.errno, error.filename) == (errno.EAGAIN, path)
    assert "locked" in str(error.strerror)
    assert not is_there(path)


def test_a_folder_that_is_unlocked_again_is_waited_for(
    path: str, locked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            fcntl.flock(locked, fcntl.LOCK_UN)

    monkeypatch.setattr(time, "sleep", sleep)
    bound = bind_unix(path)
    assert len(waits) == 3
    assert is_served(path)
    bound.close()


@ON_BOTH_LOOPS
def test_at_the_end_only_our_own_file_is_removed(loop: str, path: str) -> None:
    async def main() -> None:
        async with serving(Endpoint(unix=path)):
            os.unlink(path)
            dead_socket(path)
        assert is_there(path), "it was another's"
        os.unlink(path)
        async with serving(Endpoint(unix=path)):
            os.unlink(path)
        assert not is_there(path)

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("endpoint", [Endpoint("127.0.0.1"), Endpoint("127.0.0.1", proxy_protocol=True)])
def test_who_waits_to_be_accepted_at_the_end_is_served(loop: str, endpoint: Endpoint) -> None:
    async def main() -> None:
        with ExitStack() as held:
            async with serving(endpoint) as listener:
                address = ("127.0.0.1", listener.port)
                # The loop does not come round in between, and so accepts nobody.
                socks = [held.enter_context(socket.create_connection(address, 5)) for _ in range(9)]
                for sock in socks:
                    sock.sendall((b"PROXY UNKNOWN\r\n" if endpoint.proxy_protocol else b"") + GET)
                assert await listener.drain(5)
                assert [sock.recv(12) for sock in socks] == [b"HTTP/1.1 200"] * 9

    run(loop, main())


@ON_BOTH_LOOPS
@pytest.mark.parametrize("how", ["drain", "close"])
def test_both_ways_to_end_remove_the_file(loop: str, path: str, how: str) -> None:
    async def main() -> None:
        async with serving(Endpoint(unix=path)) as listener:
            client = await Client.connect(path)
            await client.ask()
            await (listener.drain(1) if how == "drain" else listener.close())
            assert not is_there(path)
            assert await client.rest() == b""
            client.close()

    run(loop, main())


@ON_BOTH_LOOPS
def test_the_file_of_a_socket_bound_by_somebody_else_stays(loop: str, path: str) -> None:
    async def main() -> None:
        bound = bind_unix(path)
        async with serving() as listener:
            await listener.listen_on(bound.sockets[0])
            client = await Client.connect(path)
            assert (await client.ask())["family"] == socket.AF_UNIX
            client.close()
        assert is_there(path)
        assert bound.file is not None
        bound.file.remove()

    run(loop, main())


def race(path: str, gate: threading.Barrier, got: list[Bound], errors: list[int | None]) -> None:
    gate.wait()
    try:
        got.append(bind_unix(path))
    except OSError as error:
        errors.append(error.errno)


def test_of_many_who_find_a_dead_socket_at_once_one_gets_it(path: str) -> None:
    for _ in range(20):
        dead_socket(path)
        got: list[Bound] = []
        errors: list[int | None] = []
        gate = threading.Barrier(8)
        start = partial(race, path, gate, got, errors)
        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        assert errors == [errno.EADDRINUSE] * 7
        assert is_served(path)
        got[0].close()
        assert not is_there(path)


def test_each_slot_has_a_socket_on_the_one_port() -> None:
    with ExitStack() as held:
        bound = [held.enter_context(closing(each)) for each in bind_slots(Endpoint("127.0.0.1"), 3)]
        assert [len(each.sockets) for each in bound] == [1, 1, 1]
        listening = [each.sockets[0] for each in bound]
        (name,) = {sock.getsockname() for sock in listening}
        clients = [held.enter_context(socket.create_connection(name, 5)) for _ in range(60)]
        met: Counter[int] = Counter()
        for number, sock in enumerate(listening):
            sock.setblocking(False)
            while (accepted := try_accept(sock)) is not None:
                accepted.close()
                met[number] += 1
        assert met.total() == len(clients)
        assert set(met) == {0, 1, 2}, "the kernel spreads them"


def try_accept(sock: socket.socket) -> socket.socket | None:
    try:
        return sock.accept()[0]
    except BlockingIOError:
        return None


def test_each_slot_has_a_socket_for_each_address() -> None:
    bound = bind_slots(Endpoint(""), 2)
    for each in bound:
        assert {sock.family for sock in each.sockets} == {socket.AF_INET, socket.AF_INET6}
    assert [sock.getsockname() for sock in bound[0].sockets] == [sock.getsockname() for sock in bound[1].sockets]
    for each in bound:
        each.close()


@pytest.mark.parametrize("slots", [1, 2])
@pytest.mark.parametrize("others", [0, 1, 2])
def test_a_port_that_somebody_has_cannot_be_had_by_slots(others: int, slots: int) -> None:
    with ExitStack() as held:
        if others:
            theirs = [held.enter_context(closing(each)) for each in bind_slots(Endpoint("127.0.0.1"), others)]
            port = theirs[0].sockets[0].getsockname()[1]
        else:
            sock = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            port = sock.getsockname()[1]
        descriptors = len(os.listdir("/proc/self/fd"))
        with pytest.raises(OSError) as caught:  # noqa: PT011  # told by its number
            bind_slots(Endpoint("127.0.0.1", port), slots)
        assert caught.value.errno == errno.EADDRINUSE
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_a_port_of_one_slot_is_shared_with_nobody() -> None:
    for slots, is_shared in ((1, 0), (2, 1)):
        bound = bind_slots(Endpoint("127.0.0.1"), slots)
        options = {sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for each in bound for sock in each.sockets}
        assert options == {is_shared}
        for each in bound:
            each.close()


def test_all_slots_have_one_unix_socket(path: str) -> None:
    (bound,) = bind_slots(Endpoint(unix=path, mode=0o600), 4)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert is_served(path)
    bound.close()
    assert not is_there(path)
