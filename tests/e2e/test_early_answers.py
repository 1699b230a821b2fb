"""Answers that come while the request is still being sent: nobody's early word is lost, on either side."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from proxy.wire import linger
from tests.support.gateway import gateway
from tests.support.raw import RawClient
from tests.wire.listening import LOOPS

TIMES = 20
NO = b'{"error":{"message":"no"}}'
REFUSAL = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(NO), NO)
UPLOAD = b"POST /v1/files HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer sk-client\r\nContent-Length: %d\r\n\r\n"


@contextmanager
def refusing_origin(answer: bytes) -> Iterator[int]:
    """An origin in a thread of its own: it reads once, answers, and closes with the rest unread, which is a reset."""

    def serve(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                sock, _ = server.accept()
                with sock, suppress(OSError):
                    sock.recv(65_536)
                    sock.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def upload(port: int) -> tuple[int, bytes]:
    """Send three megabytes for as long as they are taken, then read one answer: its status and body."""
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        with suppress(OSError):
            sock.sendall(UPLOAD % 3_000_000)
            for _ in range(30):
                sock.sendall(bytes(100_000))
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65_536)
            assert piece, data
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(lines[b"content-length"]):
            body += sock.recv(65_536)
        return int(head.split(b" ", 2)[1]), body


@pytest.mark.parametrize("loop_name", LOOPS)
def test_an_upload_that_is_refused_at_once_gets_the_origins_answer_every_time(loop_name: str) -> None:
    """Our next write meets the reset before the answer is read; the answer is in the kernel all the same."""

    async def main() -> None:
        seen: Counter[tuple[int, bytes]] = Counter()
        with refusing_origin(REFUSAL) as origin_port:
            async with gateway(f"http://127.0.0.1:{origin_port}/v1") as worker:
                for _ in range(TIMES):
                    seen[await asyncio.to_thread(upload, worker.listener.port)] += 1
                assert worker.plane.in_flight == 0
        assert seen == {(401, NO): TIMES}

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(main())


async def upload_slowly(port: int, size: int, piece: int, pause_s: float) -> tuple[int, bytes, float]:
    """A client that reads nothing before its whole upload is out: the status, the body, the seconds it sent for."""
    client = await RawClient.connect(port)
    client.stop_reading()
    begun_s = time.monotonic()
    await client.send(UPLOAD % size)
    for _ in range(size // piece):
        await client.send(bytes(piece))
        await asyncio.sleep(pause_s)
    sent_for_s = time.monotonic() - begun_s
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    answer = await client.answer("POST")
    assert await client.is_closed()
    client.close()
    return answer.status, answer.body, sent_for_s


@pytest.mark.parametrize("loop_name", LOOPS)
def test_a_slow_upload_that_is_refused_at_its_head_gets_the_whole_refusal(loop_name: str) -> None:
    """Most clients read no answer before they have sent everything, at whatever rate."""

    async def main() -> None:
        config = {"stages": {"ip_allowlist": {"allow": ["192.0.2.0/24"]}}}
        async with gateway("http://127.0.0.1:9/v1", **config) as worker:
            status, body, sent_for_s = await upload_slowly(worker.listener.port, 5_000_000, 100_000, 0.05)
        assert sent_for_s > 2  # well beyond the second that a silent client is waited for
        assert (status, b'"error"' in body) == (403, True)

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        runner.run(main())


@pytest.mark.parametrize(("bound", "value"), [("LINGER_BYTES", 1_000_000), ("LINGER_AT_MOST_S", 1.5)])
def test_an_upload_without_end_is_not_listened_to_for_ever(
    bound: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linger, bound, value)

    async def main() -> None:
        config = {"stages": {"ip_allowlist": {"allow": ["192.0.2.0/24"]}}}
        async with gateway("http://127.0.0.1:9/v1", **config) as worker:
            client = await RawClient.connect(worker.listener.port)
            begun_s = time.monotonic()
            with suppress(ConnectionError):
                await client.send(UPLOAD % 10**12)
                while time.monotonic() - begun_s < 20:
                    await client.send(bytes(100_000))
                    await asyncio.sleep(0.05)
            assert time.monotonic() - begun_s < 20
            client.close()

    asyncio.run(main())
