"""The writer of the access log: what it does when its file cannot take a line for a while."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from proxy.core.chain import Chain
from proxy.gateway.access_log import AccessLog
from proxy.limits.memory import MemoryStore
from proxy.stages.model import Services
from proxy.stages.upstream import Upstream, UpstreamConfig
from tests.support.exchange import make_exchange
from tests.support.process import ROOT, environment

WRITER = """
import sys
from proxy.core.chain import Chain
from proxy.gateway.access_log import TurnsLog
from proxy.limits.memory import MemoryStore
from proxy.stages.model import Services
from proxy.stages.upstream import Upstream, UpstreamConfig
from tests.support.exchange import make_exchange

services = Services(clock=lambda: 0.0, store=MemoryStore(lambda: 0.0), hop_id=b"x")
chain = Chain([Upstream("upstream", UpstreamConfig(), services)])
log = TurnsLog(sys.stdout.fileno(), lambda seconds, callback: None, int(sys.argv[2]))
print("ready", file=sys.stderr, flush=True)
sys.stdin.read()
for number in range(1000):
    log.add(make_exchange(request_id=f"{sys.argv[1]}-{number}"), chain, 1.0)
log.close()
assert not log.dropped
"""


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


def test_processes_that_share_a_pipe_do_not_mix_their_lines() -> None:
    for _ in range(10):
        ids = written_by_two()
        assert Counter(each[0] for each in ids) == {"a": 1000, "b": 1000}
        for name in "ab":
            assert [each for each in ids if each[0] == name] == [f"{name}-{number}" for number in range(1000)]
        if ids != sorted(ids, key=lambda each: each[0]):
            return
    raise AssertionError("one was over before the other began, ten times: nothing is shown")


def written_by_two() -> list[str]:
    """The ids of the lines that two processes wrote at once, in the order they came."""
    lock = os.memfd_create("lock")
    ours, theirs = os.pipe()
    # With so little room each batch of 32 KiB takes several writes, between which another may come.
    fcntl.fcntl(ours, fcntl.F_SETPIPE_SZ, 4096)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, name, str(lock)],
            stdin=subprocess.PIPE,
            stdout=theirs,
            stderr=subprocess.PIPE,
            pass_fds=(lock,),
            env=environment(PYTHONPATH=str(ROOT)),
        )
        for name in ("a", "b")
    ]
    os.close(theirs)
    os.close(lock)
    for writer in writers:
        assert writer.stderr is not None
        assert writer.stderr.readline() == b"ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.close()
    with open(ours, "rb") as pipe:
        lines = b"".join(iter(lambda: pipe.read1(1000), b"")).splitlines()
    for writer in writers:
        assert writer.stderr is not None
        assert (writer.stderr.read(), writer.wait(10)) == (b"", 0)
        writer.stderr.close()
    return [json.loads(line)["request_id"] for line in lines]
