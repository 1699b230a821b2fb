"""``overload.max_memory_bytes`` in a real process: a burst is refused, and when it is over all is well again."""

from __future__ import annotations

import re
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from proxy.gateway.overload import MemoryGuard, malloc_trim
from proxy.mock.running import running
from tests.support.process import Sluice, serving

LIMIT = 110 * 2**20
UPLOADS = 40
BODY = 7_000_000
HEAD = b"POST /api HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % BODY


def resident(gateway: Sluice) -> int:
    """The worker's resident memory, in bytes."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{gateway.workers[0]}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def status(gateway: Sluice) -> int:
    """What a small request is answered with."""
    headers = {"Authorization": "Bearer sk-client"}
    return requests.get(f"http://127.0.0.1:{gateway.port}/v1/models", headers=headers, timeout=5).status_code


@contextmanager
def held_uploads(port: int) -> Iterator[list[socket.socket]]:
    """Chat requests whose bodies are held, none of them whole; reset at the end."""
    socks: list[socket.socket] = []
    try:
        for _ in range(UPLOADS):
            sock = socket.create_connection(("127.0.0.1", port), 5)
            socks.append(sock)
            sock.sendall(HEAD)
        yield socks
    finally:
        for sock in socks:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def eventually(gateway: Sluice, wanted: int, within_s: float) -> bool:
    """Whether a small request gets this answer in time."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if status(gateway) == wanted:
            return True
        time.sleep(0.1)
    return False


def test_after_a_burst_new_requests_are_taken_again() -> None:
    names = {
        "SLUICE__OVERLOAD__MAX_MEMORY_BYTES": str(LIMIT),
        "SLUICE__SIMPLE_CHAT__MAX_BODY_BYTES": "8000000",
        "SLUICE__ACCESS_LOG__ENABLED": "false",
    }
    with running() as mock, serving(OPENAI_BASE_URL=mock.base_url, **names) as gateway:
        assert status(gateway) == 200
        with held_uploads(gateway.port) as socks:
            # In small pieces and by turns, as a network brings them: so the freed memory is full of holes.
            for _ in range(60):
                for sock in socks:
                    with suppress(OSError):
                        sock.sendall(b"{" * 60_000)
            assert eventually(gateway, 503, 10)
            assert resident(gateway) > LIMIT * 0.9
        assert eventually(gateway, 200, 10)
        assert any("new requests are refused" in line for line in gateway.err)


class Gauge:
    """A process whose memory is what a test says; giving back frees ``holes``."""

    def __init__(self, *, limit: int = 100) -> None:
        self.used = 0
        self.holes = 0
        self.given_back = 0
        self.in_flight = 5
        self.now_s = 0.0
        self.said: list[tuple[bool, bool]] = []
        self.guard = MemoryGuard(
            limit,
            lambda is_tight, is_full: self.said.append((is_tight, is_full)),
            lambda: self.used,
            in_flight=lambda: self.in_flight,
            give_back=self.give_back,
            clock=lambda: self.now_s,
        )

    def give_back(self) -> None:
        """Free the holes."""
        self.given_back += 1
        self.used -= self.holes
        self.holes = 0

    def poll(self, used: int, holes: int = 0) -> list[tuple[bool, bool]]:
        """What is said at this much memory, ``holes`` of it free."""
        self.used, self.holes = used, holes
        self.said.clear()
        self.guard.poll()
        return self.said


def test_what_was_freed_does_not_count_once_it_is_given_back() -> None:
    gauge = Gauge()
    assert gauge.poll(89, 50) == []
    assert gauge.given_back == 0
    assert gauge.poll(99, 50) == []
    assert gauge.given_back == 1


def test_memory_is_given_back_once_a_second_at_most() -> None:
    gauge = Gauge()
    assert gauge.poll(99) == [(True, True)]
    for gauge.now_s in (0.2, 0.4, 0.6, 0.8):
        assert gauge.poll(99, 50) == []
    assert gauge.given_back == 1
    gauge.now_s = 1.0
    assert gauge.poll(99, 50) == [(False, False)]
    assert gauge.given_back == 2


def test_with_nothing_in_flight_nothing_is_refused() -> None:
    gauge = Gauge()
    assert gauge.poll(99) == [(True, True)]
    gauge.in_flight = 0
    assert gauge.poll(99) == [(True, False)]
    gauge.in_flight = 1
    assert gauge.poll(99) == [(True, True)]


def test_without_a_library_that_can_nothing_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(name: str | None) -> object:
        return object()

    malloc_trim()()
    monkeypatch.setattr("ctypes.CDLL", no_library)
    malloc_trim()()
