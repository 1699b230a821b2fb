"""A process with few descriptors: more clients than it can have files for neither stop it nor make it spin."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from tornado.ioloop import IOLoop

from tests.support import process as process_module
from tests.support.process import Sluice, serving
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream

FILES = 256
MODELS = request("/v1/models", method="GET", body=None)
HEALTH = request("/healthz", method="GET", body=None)


def cpu_s(pid: int) -> float:
    """The processor time a process has used (proc(5), stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def silent(port: int, count: int) -> list[socket.socket]:
    """So many clients that say nothing, whether they get in or not."""
    crowd = []
    for _ in range(count):
        sock = socket.socket()
        sock.setblocking(False)
        with suppress(BlockingIOError, ConnectionError):
            sock.connect(("127.0.0.1", port))
        crowd.append(sock)
    return crowd


async def status_of(port: int, ask: bytes) -> int:
    """The status a new client is answered with."""
    client = await RawClient.connect(port)
    answer = await asyncio.wait_for(client.ask(ask), 5)
    client.close()
    return answer.status


@pytest.fixture(autouse=True)
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sluice, "most_files", FILES)


@asynccontextmanager
async def forwarding() -> AsyncIterator[FakeUpstream]:
    """An upstream."""
    upstream = FakeUpstream()
    await upstream.start()
    try:
        yield upstream
    finally:
        await upstream.stop()


async def is_calm(pid: int) -> None:
    """The process neither spins nor has used up its descriptors."""
    before = cpu_s(pid)
    await asyncio.sleep(1)
    assert cpu_s(pid) - before < 0.3
    assert len(os.listdir(f"/proc/{pid}/fd")) < FILES


@pytest.mark.gen_test(timeout=40)
async def test_more_clients_than_files(io_loop: IOLoop) -> None:
    async with forwarding() as upstream:
        with serving(SLUICE__STAGES__UPSTREAM__BASE_URL=upstream.base_url) as sluice:
            port, (pid,) = sluice.port, sluice.workers
            served = await RawClient.connect(port)
            assert (await served.ask(MODELS)).status == 200
            crowd = silent(port, FILES * 2)
            await asyncio.sleep(1)
            await is_calm(pid)
            # Who was there before is served as ever, and who comes now is told.
            assert (await served.ask(MODELS)).status == 200
            assert await status_of(port, HEALTH) == 200
            assert await status_of(port, MODELS) == 503
            for sock in crowd:
                sock.close()
            await asyncio.sleep(0.5)
            assert await status_of(port, MODELS) == 200
            assert not [line for line in sluice.err if "Traceback" in line]
            served.close()


@pytest.fixture
def listeners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A plain listener and one with TLS, as the environment says it."""
    issued = trustme.CA().issue_cert("gateway.test")
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    clean = process_module.environment

    def without_the_one_listener(**names: str) -> dict[str, str]:
        return {name: value for name, value in clean(**names).items() if name not in ("SLUICE__LISTEN__HOST", "PORT")}

    monkeypatch.setattr(process_module, "environment", without_the_one_listener)
    address = {"host": "127.0.0.1", "port": 0}
    return json.dumps([address, {**address, "tls": {"cert": cert, "key": key}}])


@pytest.mark.gen_test(timeout=40)
async def test_silence_towards_one_listener_does_not_switch_off_another(io_loop: IOLoop, listeners: str) -> None:
    async with forwarding() as upstream:
        with serving(SLUICE__STAGES__UPSTREAM__BASE_URL=upstream.base_url, SLUICE__LISTEN=listeners) as sluice:
            secure = int(sluice.wait_for(r"listening on https://127\.0\.0\.1:(\d+)")[1])
            crowd = silent(secure, 400)
            await asyncio.sleep(0.5)
            for _ in range(3):
                assert await status_of(sluice.port, HEALTH) == 200
                assert await status_of(sluice.port, MODELS) == 200
            await is_calm(sluice.workers[0])
            assert not [line for line in sluice.err if "Traceback" in line]
            for sock in crowd:
                sock.close()
