"""A process with few descriptors: more clients than it can have files for neither stop it nor make it spin."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path

import pytest
from tornado.ioloop import IOLoop

from tests.support.process import Sluice, serving
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream

FILES = 256
MODELS = request("/v1/models", method="GET", body=None)


def cpu_s(pid: int) -> float:
    """The processor time a process has used (proc(5), stat, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.gen_test(timeout=40)
async def test_more_clients_than_files(io_loop: IOLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = FakeUpstream()
    await upstream.start()
    monkeypatch.setattr(Sluice, "most_files", FILES)
    with serving(SLUICE__STAGES__UPSTREAM__BASE_URL=upstream.base_url) as sluice:
        port, pid = sluice.port, sluice.process.pid
        served = await RawClient.connect(port)
        assert (await served.ask(MODELS)).status == 200
        crowd = []
        for _ in range(FILES * 2):
            sock = socket.socket()
            sock.setblocking(False)
            with suppress(BlockingIOError, ConnectionError):
                sock.connect(("127.0.0.1", port))
            crowd.append(sock)
        await asyncio.sleep(1)
        before = cpu_s(pid)
        await asyncio.sleep(1)
        assert cpu_s(pid) - before < 0.1
        assert len(os.listdir(f"/proc/{pid}/fd")) < FILES
        # Who was there before is served as ever.
        assert (await served.ask(MODELS)).status == 200
        for sock in crowd:
            sock.close()
        await asyncio.sleep(0.5)
        fresh = await RawClient.connect(port)
        assert (await fresh.ask(MODELS)).status == 200
        assert not [line for line in sluice.err if "Traceback" in line]
        fresh.close()
        served.close()
    await upstream.stop()
