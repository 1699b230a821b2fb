"""Real Redis servers: one on a unix socket, a replica, sentinels, a cluster; with TLS and passwords."""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from proxy.limits.redis_call import bulk


def free_port(*, bus: bool = False) -> int:
    """A port that nobody listens on, below those the system gives out; with its cluster bus's, 10,000 above."""
    for port in range(20_000 + (time.monotonic_ns() // 1000) % 2000, 30_000):
        with socket.socket() as one, socket.socket() as other:
            try:
                one.bind(("127.0.0.1", port))
                if bus:
                    other.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


def wait_until(is_so: Callable[[], bool], timeout_s: float = 10) -> None:
    """Look every few milliseconds until something is so."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, f"not within {timeout_s} s"
        time.sleep(0.005)


class RedisServer:
    """A ``redis-server`` of a test's own. It listens on ``path``, and on ``port`` if that is not 0."""

    def __init__(self, folder: Path, *options: str, port: int = 0, tls_port: int = 0) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: `make programs` installs it, or `apt-get install redis-server`"
        self.folder = folder
        self.port = port
        self.tls_port = tls_port
        self.path = folder / "redis.sock"
        self.log = folder / "redis.log"
        self._command = [
            program, "--port", str(port), "--tls-port", str(tls_port), "--unixsocket", str(self.path),
            "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no",
            "--logfile", str(self.log), *options,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, as a store is given it."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.path}"

    def start(self) -> RedisServer:
        """Start it and wait until it answers."""
        self.path.unlink(missing_ok=True)
        self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        wait_until(self._is_listening)
        return self

    def _is_listening(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text() if self.log.exists() else "it did not start"
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self.path))
                sock.sendall(b"PING\r\n")
                return sock.recv(1) in (b"+", b"-")
            except OSError:
                return False

    def command(self, *words: str | int, password: str = "") -> Any:
        """Send a command over the unix socket; its answer, with bulk strings as text."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(str(self.path))
            file = sock.makefile("rwb")
            answer: Any = None
            for each in ([("AUTH", password)] if password else []) + [words]:
                file.write(b"*%d\r\n" % len(each) + b"".join(bulk(str(word).encode()) for word in each))
                file.flush()
                answer = _read(file)
            return answer

    def info(self, name: str) -> int:
        """A number of its INFO."""
        lines = str(self.command("INFO", "everything")).splitlines()
        return int(next(line for line in lines if line.startswith(f"{name}:")).partition(":")[2])

    def calls(self, command: str) -> int:
        """How often a command was carried out, rejected ones not counted."""
        for line in str(self.command("INFO", "commandstats")).splitlines():
            if line.startswith(f"cmdstat_{command}:"):
                return int(line.partition("calls=")[2].partition(",")[0])
        return 0

    def signal(self, number: int) -> None:
        """Stop or continue it, for example."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End it, at once; its data are gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def _read(file: Any) -> Any:
    line = file.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:]
    if kind == b"$":
        return None if rest == b"-1" else file.read(int(rest) + 2)[:-2].decode("utf-8", "replace")
    if kind == b"*":
        return [_read(file) for _ in range(int(rest))]
    if kind == b":":
        return int(rest)
    return line.decode()


@contextmanager
def redis_server(folder: Path, *options: str, port: int = 0, tls_port: int = 0) -> Iterator[RedisServer]:
    """A server for the length of a ``with`` block."""
    server = RedisServer(folder, *options, port=port, tls_port=tls_port)
    try:
        yield server.start()
    finally:
        server.stop()


class RedisCluster:
    """Three masters, each with a third of the slots."""

    def __init__(self, folder: Path) -> None:
        self.nodes: list[RedisServer] = []
        for number in range(3):
            home = folder / f"node{number}"
            home.mkdir()
            port = free_port(bus=True) if not self.nodes else self._next_port()
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
            self.nodes.append(RedisServer(home, *options, port=port))

    def _next_port(self) -> int:
        port = self.nodes[-1].port + 1
        while True:
            with socket.socket() as one, socket.socket() as other:
                try:
                    one.bind(("127.0.0.1", port))
                    other.bind(("127.0.0.1", port + 10_000))
                except OSError:
                    port += 1
                    continue
                return port

    @property
    def url(self) -> str:
        """Its address, as a store is given it."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start the nodes and join them."""
        for node in self.nodes:
            node.start()
        program = shutil.which("redis-cli")
        assert program, "redis-cli is missing: it comes with redis-server (Debian: redis-tools)"
        hosts = [f"127.0.0.1:{node.port}" for node in self.nodes]
        subprocess.run(
            [program, "--cluster", "create", *hosts, "--cluster-yes"], check=True, capture_output=True, timeout=30
        )
        for node in self.nodes:
            wait_until(lambda node=node: "cluster_state:ok" in node.command("CLUSTER", "INFO"))  # type: ignore[misc]

    def owner(self, slot: int) -> RedisServer:
        """The node that has a slot."""
        for first, last, master, *_ in self.nodes[0].command("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == master[1])
        raise AssertionError("nobody has it")

    async def migrate(self, slot: int, target: RedisServer, pause_s: float = 0.0) -> None:
        """Move a slot to another node, key by key, as ``redis-cli --cluster reshard`` does."""
        source = self.owner(slot)
        ids = {node.port: node.command("CLUSTER", "MYID") for node in self.nodes}
        assert target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port]) == "+OK"
        assert source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port]) == "+OK"
        await asyncio.sleep(pause_s)
        while keys := source.command("CLUSTER", "GETKEYSINSLOT", slot, 1):
            source.command("MIGRATE", "127.0.0.1", target.port, keys[0], 0, 5000)
            await asyncio.sleep(pause_s)
        for node in (target, source, *self.nodes):
            assert node.command("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port]) == "+OK"
            await asyncio.sleep(pause_s / 4)

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()


def stopped(server: RedisServer) -> Any:
    """The server does nothing for the length of a ``with`` block; it is not gone."""

    @contextmanager
    def pause() -> Iterator[None]:
        server.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            server.signal(signal.SIGCONT)

    return pause()
