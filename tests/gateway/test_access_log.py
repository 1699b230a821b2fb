"""The writer of the access log: what it does when its file cannot take a line for a while."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from proxy.core.chain import Chain
from proxy.gateway.access_log import AccessLog
from proxy.limits.memory import MemoryStore
from proxy.stages.model import Services
from proxy.stages.upstream import Upstream, UpstreamConfig
from tests.support.exchange import make_exchange


def never(seconds: float, callback: object) -> None:
    """A loop that does not come round: the test flushes by itself."""


def test_a_full_disk_costs_lines_and_not_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    services = Services(clock=lambda: 0.0, store=MemoryStore(lambda: 0.0), hop_id=b"x")
    chain = Chain([Upstream("upstream", UpstreamConfig(), services)])
    fd = os.open("/dev/full", os.O_WRONLY)
    log = AccessLog(fd, never)
    for expected in (1, 2):
        log.add(make_exchange(), chain, 1.0)
        log.flush()
        end = time.monotonic() + 5
        while log.dropped < expected:
            assert time.monotonic() < end
            time.sleep(0.005)
    file = tmp_path / "access.log"
    with file.open("wb") as room:
        os.dup2(room.fileno(), fd)
    log.add(make_exchange(), chain, 1.0)
    log.close()
    os.close(fd)
    assert len(file.read_text().splitlines()) == 1
    # Said once, not for every batch.
    assert [record.getMessage() for record in caplog.records] == [
        "the access log cannot be written: No space left on device"
    ]
