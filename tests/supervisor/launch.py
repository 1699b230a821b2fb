"""A supervisor as a process of its own that has little patience (`tests.supervisor.patience`), and its clients."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests

from proxy.mock.server import MockOpenAI
from tests.support.process import Sluice, children

TOKEN = "a-token-of-many-characters"
QUICK = {"beat_s": 0.1, "now_s": 1.0, "spare_s": 1.0}
CONSTANTS = {"proxy.supervisor.supervisor.START_AGAIN_S": 0.1, "proxy.supervisor.admin.ANSWER_S": 0.5}
"""Of modules: what an operator has seconds for is soon over here."""
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: g\r\n\r\n"
OK = b"HTTP/1.1 200 OK"
KEY = {"Authorization": "Bearer sk-client"}
ASK: Any = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "one two three"}], "stream": True}


class Launched(Sluice):
    """Such a process."""

    command = ("-m", "tests.supervisor.patience")

    def __init__(self, patience: Mapping[str, float] | None = None, **config: Any) -> None:
        mapping = {
            "listen": {"host": "127.0.0.1", "port": 0},
            "admin": {"host": "127.0.0.1", "port": 0, "token": TOKEN},
            "access_log": {"enabled": False},
            **config,
        }
        given = {"config": mapping, "patience": {**QUICK, **(patience or {})}, "constants": CONSTANTS}
        super().__init__(json.dumps(given))

    def ask(self, path: str, method: str = "GET", **headers: str) -> requests.Response:
        """What the admin plane answers an operator."""
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        return requests.request(method, url, headers={"Authorization": f"Bearer {TOKEN}", **headers}, timeout=10)

    def by_slot(self) -> dict[int, int]:
        """The process id of the worker that is ready in each slot."""
        workers = self.ask("/-/workers").json()["workers"]
        return {worker["slot"]: worker["pid"] for worker in workers if worker["state"] == "ready"}

    def figures(self, name: str) -> list[float]:
        """The values of a figure, one for each set of labels."""
        lines = self.ask("/metrics").text.splitlines()
        return [float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name]

    def figure(self, name: str) -> float:
        """The sum of a figure over all its labels."""
        values = self.figures(name)
        assert values, f"there is no {name}"
        return sum(values)

    def wait_for_figure(self, name: str, value: float, within_s: float = 5) -> None:
        """Wait until that is the sum: workers tell it once a beat."""
        end = time.monotonic() + within_s
        while (found := self.figure(name)) != value:
            assert time.monotonic() < end, f"{name} is {found}, not {value}"
            time.sleep(0.02)

    def wait_for_workers(self, count: int, within_s: float = 5) -> dict[int, int]:
        """Wait until so many are ready."""
        end = time.monotonic() + within_s
        while len(found := self.by_slot()) != count:
            assert time.monotonic() < end, f"{found} are ready, not {count}"
            time.sleep(0.02)
        return found


@contextmanager
def launched(patience: Mapping[str, float] | None = None, **config: Any) -> Iterator[Launched]:
    """A process for the length of a ``with`` block, of which nothing is left."""
    process = Launched(patience, **config)
    pids: list[int] = []
    try:
        yield process
    finally:
        with suppress(OSError):
            pids = children(process.process.pid)
        process.stop()
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    """Whether a process is there, and more than its exit status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def to(mock: MockOpenAI) -> dict[str, Any]:
    """The configuration that forwards there."""
    return {"stages": {"upstream": {"base_url": mock.base_url}}}


def connected(port: int) -> socket.socket:
    """A connection that has said nothing yet."""
    return socket.create_connection(("127.0.0.1", port), 5)


def answer_to(sock: socket.socket, ask: bytes = HEALTH) -> bytes:
    """The first piece of the answer."""
    sock.sendall(ask)
    return sock.recv(65536)


class Stream:
    """An open stream of so many chunks, one in 100 ms."""

    def __init__(self, port: int, chunks: int) -> None:
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        headers = {**KEY, "x-mock": f"chunk-delay-ms=100; chunks={chunks}"}
        self._answer = requests.post(url, json=ASK, headers=headers, stream=True, timeout=10)
        self._lines = self._answer.iter_lines()
        assert next(self._lines)

    def close(self) -> None:
        """Have no more of it."""
        self._answer.close()

    def is_whole(self) -> bool:
        """Read it to its end; whether that was its own."""
        try:
            lines = [line for line in self._lines if line]
        except requests.RequestException:
            return False
        return bool(lines) and lines[-1] == b"data: [DONE]"
