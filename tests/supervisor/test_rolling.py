"""What a restart leaves as it was: limits, figures, and the old workers if no other can start."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trustme

from proxy.mock.running import running
from proxy.mock.server import MockOpenAI
from tests.supervisor.launch import HEALTH, OK, Stream, connected, is_alive, launched, to


@pytest.fixture(scope="module")
def mock() -> Iterator[MockOpenAI]:
    """A mock OpenAI in a thread."""
    with running() as made:
        yield made


def issue(cert: Path, key: Path) -> None:
    """Have a certificate and its key there."""
    issued = trustme.CA().issue_cert("gateway.test")
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(cert))


def test_what_keeps_a_follower_from_starting_does_not_end_who_serves(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issue(cert, key)
    address = {"host": "127.0.0.1", "port": 0}
    listen = [address, {**address, "tls": {"cert": str(cert), "key": str(key)}}]
    with launched({"most_deaths": 3}, workers=2, listen=listen) as gateway:
        before = gateway.wait_for_workers(2)
        cert.write_text("no certificate\n")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for(r"worker 0 \(pid \d+\) ended before it accepted: exit status 69")
        gateway.wait_for("the restart ends here: the workers that were not replaced yet stay")
        assert gateway.by_slot() == before
        os.kill(before[0], signal.SIGKILL)
        # More of them than a gateway survives whose workers serve and die.
        end = time.monotonic() + 10
        while sum("ended before it accepted" in line for line in gateway.err) < 5:
            assert gateway.process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        assert gateway.by_slot() == {1: before[1]}
        with ExitStack() as held:
            # Of several, because the kernel would give some to the slot that nobody is in.
            clients = [held.enter_context(closing(connected(gateway.port))) for _ in range(16)]
            for client in clients:
                client.sendall(HEALTH)
                client.settimeout(2)
            for client in clients:
                assert client.recv(65536).startswith(OK)
        issue(cert, key)
        assert gateway.wait_for_workers(2)[1] == before[1]
        assert gateway.stop() == 0


def told(metrics: str, name: str) -> dict[str, float]:
    """A gauge by its worker's slot."""
    found = re.findall(rf'^{name}\{{worker="(\d)"\}} (\S+)$', metrics, re.MULTILINE)
    assert len(found) == len(re.findall(rf"^{name}\b", metrics, re.MULTILINE))
    return {slot: float(value) for slot, value in found}


def test_a_worker_that_drains_adds_nothing_to_what_is_told_of_the_limit_store(mock: MockOpenAI) -> None:
    limit = {"stages": {"limit": {"minute": 1000}, **to(mock)["stages"]}, "chain": ["limit", "upstream"]}
    with launched({"beat_s": 0.05}, workers=2, limits={"max_bytes": 4 * 1024 * 1024}, **limit) as gateway:
        gateway.wait_for_workers(2)
        streams = [Stream(gateway.port, 20) for _ in range(6)]
        assert gateway.ask("/-/restart", "POST").status_code == 202
        gateway.wait_for("the workers are restarted")
        # Each tells it with its next beat.
        time.sleep(0.2)
        metrics = gateway.ask("/metrics").text
        states = [worker["state"] for worker in gateway.ask("/-/workers").json()["workers"]]
        assert (states.count("ready"), "leaving" in states) == (2, True)
        assert told(metrics, "sluice_limit_store_up") == {"0": 1, "1": 1}
        assert told(metrics, "sluice_limit_store_max_bytes") == {"0": 4 * 1024 * 1024}
        for stream in streams:
            stream.close()


def test_limits_in_memory_are_said_to_begin_anew() -> None:
    with launched() as gateway:
        before = gateway.wait_for_workers(1)
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_for("limits are in memory: the new worker counts anew")
        gateway.wait_for("the workers are restarted")
        # The signal by which a worker shows its stacks may be sent to the wrong process.
        gateway.process.send_signal(signal.SIGUSR2)
        gateway.wait_for(r"supervisor\.py.* in run$")
        assert gateway.wait_for_workers(1) != before
        assert gateway.stop() == 0


def files_of(pid: int) -> set[str]:
    """Where the files are that a process has open (proc(5), fd)."""
    return {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}


def test_a_new_gateway_waits_for_a_worker_that_outlives_its_own(tmp_path: Path, mock: MockOpenAI) -> None:
    given = {"workers": 2, "limits": {"dir": str(tmp_path / "limits")}, **to(mock)}
    with launched(**given) as gateway:
        pids = list(gateway.wait_for_workers(2).values())
        for pid in pids:
            held = files_of(pid)
            assert str(tmp_path / "limits" / "lock") in held
            assert [name for name in held if re.fullmatch(r"/\S+/limits-[0-9a-f]+/owner", name)]
        stream = Stream(gateway.port, 10)
        gateway.process.kill()
        with launched(**given) as follower:
            follower.wait_for("listening on")
            assert not [pid for pid in pids if is_alive(pid)]
            assert stream.is_whole()
            assert follower.ask("/healthz").status_code == 200
            assert follower.stop() == 0
