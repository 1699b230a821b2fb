"""The supervisor through real processes: who dies is replaced, who is replaced is not missed, and all of it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from proxy.mock.running import running
from proxy.mock.server import MockOpenAI
from tests.supervisor.launch import HEALTH, KEY, OK, Launched, Stream, answer_to, connected, is_alive, launched, to


@pytest.fixture(scope="module")
def mock() -> Iterator[MockOpenAI]:
    """A mock OpenAI in a thread."""
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def impatient() -> Iterator[Launched]:
    """A gateway with a worker that must not be silent for long, and may die often."""
    with launched({"beat_s": 0.05, "kill_after": 8, "most_deaths": 100}) as made:
        yield made


def test_a_killed_worker_is_back_and_what_it_counted_is_not_lost(mock: MockOpenAI) -> None:
    with launched(**to(mock)) as gateway:
        port, (pid,) = gateway.port, gateway.wait_for_workers(1).values()
        requests.get(f"http://127.0.0.1:{port}/v1/models", headers=KEY, timeout=5)
        gateway.wait_for_figure("sluice_requests_total", 1)
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        gateway.wait_for(rf"worker 0 \(pid {pid}\) ended: SIGKILL; starting another")
        with closing(connected(port)) as client:
            assert answer_to(client).startswith(OK)
        assert time.monotonic() - killed_s < 1
        (after,) = gateway.wait_for_workers(1).values()
        assert after != pid
        assert gateway.figure("sluice_requests_total") == 1
        assert gateway.figure("sluice_worker_restarts_total") == 1
        requests.get(f"http://127.0.0.1:{port}/v1/models", headers=KEY, timeout=5)
        gateway.wait_for_figure("sluice_requests_total", 2)
        assert gateway.stop() == 0


def test_who_connects_while_nobody_is_there_is_answered_later(impatient: Launched) -> None:
    port, (pid,) = impatient.port, impatient.wait_for_workers(1).values()
    impatient.process.send_signal(signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    while is_alive(pid):
        time.sleep(0.01)
    with closing(connected(port)) as client:
        client.sendall(HEALTH)
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        impatient.process.send_signal(signal.SIGCONT)
        assert client.recv(65536).startswith(OK)


def test_of_four_workers_one_is_killed_and_only_its_streams_break(mock: MockOpenAI) -> None:
    with launched({"beat_s": 0.05}, workers=4, **to(mock)) as gateway:
        port, pids = gateway.port, gateway.wait_for_workers(4)
        streams = [Stream(port, 9) for _ in range(16)]
        gateway.wait_for_figure("sluice_exchanges_in_flight", 16)
        metrics = gateway.ask("/metrics").text
        found = re.findall(r'sluice_exchanges_in_flight\{worker="(\d)"\} (\d+)', metrics)
        held = {int(slot): int(count) for slot, count in found}
        assert sum(held.values()) == 16
        slot = max(held, key=lambda slot: held[slot])
        os.kill(pids[slot], signal.SIGKILL)
        gateway.wait_for(rf"worker {slot} \(pid \d+\) ended: SIGKILL")
        gateway.wait_for_workers(4, within_s=1)
        ends: list[bool] = []
        readers = [threading.Thread(target=lambda each=each: ends.append(each.is_whole())) for each in streams]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert ends.count(False) == held[slot] > 0


def test_a_frozen_worker_is_killed_and_replaced(impatient: Launched) -> None:
    (pid,) = impatient.wait_for_workers(1).values()
    names = ("sluice_worker_frozen_kills_total", "sluice_worker_beats_missed_total")
    before = [impatient.figure(name) for name in names]
    os.kill(pid, signal.SIGSTOP)
    impatient.wait_for(rf"worker 0 \(pid {pid}\) has missed \d+ beats; its stacks follow")
    impatient.wait_for(rf"worker 0 \(pid {pid}\) is killed: it has missed \d+ beats")
    impatient.wait_for(rf"worker 0 \(pid {pid}\) ended: killed, since it has missed \d+ beats; starting another")
    assert impatient.wait_for_workers(1)[0] != pid
    kills, missed = (impatient.figure(name) - earlier for name, earlier in zip(names, before, strict=True))
    assert (kills, missed >= 8) == (1, True)


def test_workers_that_wait_for_a_frozen_one_are_spared() -> None:
    limit = {"stages": {"limit": {"minute": 10_000}}, "chain": ["limit", "upstream"]}
    with launched({"kill_after": 6}, workers=3, **limit) as gateway:
        before = gateway.wait_for_workers(3)
        # It stops itself while it holds the lock of the shared limits.
        asking = threading.Thread(target=gateway.ask, args=("/-/limits?subject=hold",))
        asking.start()
        time.sleep(0.1)
        clients = [socket.create_connection(("127.0.0.1", gateway.port), 5) for _ in range(24)]
        for client in clients:
            client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n")
        gateway.wait_for(r"ended: killed, since it has missed")
        after = gateway.wait_for_workers(3)
        assert len(set(before.values()) & set(after.values())) == 2
        assert gateway.figure("sluice_worker_frozen_kills_total") == 1
        for client in clients:
            client.close()
        asking.join()


def test_a_worker_that_is_busy_for_too_long_shows_with_what(impatient: Launched) -> None:
    (pid,) = impatient.wait_for_workers(1).values()
    threading.Thread(target=impatient.ask, args=("/-/limits?subject=block",)).start()
    impatient.wait_for(rf"worker 0 \(pid {pid}\) has missed \d+ beats; its stacks follow")
    impatient.wait_for(r"patience\.py.* in show")
    impatient.wait_for(rf"worker 0 \(pid {pid}\) is killed")
    impatient.wait_for(rf"worker 0 \(pid {pid}\) ended: killed")


def test_a_pause_of_the_supervisor_is_not_taken_for_the_workers(impatient: Launched) -> None:
    before = impatient.wait_for_workers(1)
    kills = impatient.figure("sluice_worker_frozen_kills_total")
    impatient.process.send_signal(signal.SIGSTOP)
    time.sleep(0.6)
    impatient.process.send_signal(signal.SIGCONT)
    time.sleep(0.15)
    assert impatient.by_slot() == before
    assert impatient.figure("sluice_worker_frozen_kills_total") == kills


def test_after_five_deaths_it_gives_up() -> None:
    with launched(workers=2) as gateway:
        gateway.wait_for_workers(2)
        killed: set[int] = set()
        while len(killed) < 5:
            for pid in set(gateway.workers) - killed if gateway.process.poll() is None else ():
                if len(killed) < 5:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            time.sleep(0.02)
        assert gateway.process.wait(5) == 1
        gateway.wait_for("5 workers died within 30 seconds: giving up")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_is_one_drain(number: int, mock: MockOpenAI) -> None:
    with launched(workers=2, **to(mock)) as gateway:
        gateway.wait_for_workers(2)
        stream = Stream(gateway.port, 5)
        os.killpg(gateway.process.pid, number)
        gateway.wait_for("draining 1 connection")
        os_kill_workers(gateway, number)
        assert stream.is_whole()
        assert gateway.process.wait(5) == 0
        assert not [line for line in gateway.err if "stopping now" in line or "Traceback" in line]


def os_kill_workers(gateway: Launched, number: int) -> None:
    """Once more, to each worker alone: that is no second signal either."""
    for pid in gateway.workers:
        os.kill(pid, number)


def test_a_worker_told_to_end_is_replaced_first_and_ends_its_streams(mock: MockOpenAI) -> None:
    with launched(**to(mock)) as gateway:
        (pid,) = gateway.wait_for_workers(1).values()
        stream = Stream(gateway.port, 5)
        for _ in range(3):
            os.kill(pid, signal.SIGTERM)
        gateway.wait_for(rf"worker 0 \(pid {pid}\) was asked to end; starting another")
        gateway.wait_for("draining 1 connection")
        assert gateway.wait_for_workers(1)[0] != pid
        assert stream.is_whole()
        gateway.wait_for(rf"worker 0 \(pid {pid}\), which was replaced, ended: exit status 0")
        assert gateway.stop() == 0


def test_what_is_cut_shows_in_the_exit_status(mock: MockOpenAI) -> None:
    with launched(workers=2, drain={"timeout_s": 0.3}, **to(mock)) as gateway:
        gateway.wait_for_workers(2)
        stream = Stream(gateway.port, 100)
        assert gateway.stop() == 1
        assert not stream.is_whole()


def test_without_its_supervisor_a_worker_ends_what_it_has_and_then_itself(mock: MockOpenAI) -> None:
    with launched(workers=2, **to(mock)) as gateway:
        port, pids = gateway.port, gateway.wait_for_workers(2).values()
        stream = Stream(port, 5)
        gateway.process.kill()
        wait_until_refused(port)
        assert stream.is_whole()
        end = time.monotonic() + 3
        while any(map(is_alive, pids)):
            assert time.monotonic() < end
            time.sleep(0.02)


def wait_until_refused(port: int) -> None:
    """Wait until nobody listens there any more."""
    end = time.monotonic() + 3
    while True:
        try:
            connected(port).close()
        except ConnectionRefusedError:
            return
        assert time.monotonic() < end
        time.sleep(0.02)


class Visitors:
    """New connections, some of which take their time to say what they want."""

    def __init__(self, port: int, hesitation_s: float) -> None:
        self.failures: list[str] = []
        self.served = 0
        self._port = port
        self._hesitation_s = hesitation_s
        self._is_over = False
        self._threads = [threading.Thread(target=self._visit) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _visit(self) -> None:
        while not self._is_over:
            try:
                with closing(connected(self._port)) as client:
                    time.sleep(self._hesitation_s)
                    answer = answer_to(client)
                if not answer.startswith(OK):
                    self.failures.append(repr(answer))
            except OSError as error:
                self.failures.append(repr(error))
            self.served += 1
            time.sleep(0.005)

    def end(self) -> None:
        """They have all been served."""
        self._is_over = True
        for thread in self._threads:
            thread.join()


def restarted(gateway: Launched, times: int) -> None:
    """Replace all workers so often, by turns with a signal and by the admin plane."""
    for number in range(times):
        before = set(gateway.by_slot().values())
        if number % 2:
            gateway.process.send_signal(signal.SIGHUP)
        else:
            assert gateway.ask("/-/restart", "POST").status_code == 202
        end = time.monotonic() + 10
        while before & set(gateway.by_slot().values()):
            assert time.monotonic() < end
            time.sleep(0.02)


def test_restarts_are_noticed_by_nobody(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with launched(workers=2, listen=[{"host": "127.0.0.1", "port": 0}, {"unix": str(path)}]) as gateway:
        gateway.wait_for_workers(2)
        visitors = [Visitors(gateway.port, 0), Visitors(gateway.port, 0.15)]
        restarted(gateway, 2)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            assert answer_to(client).startswith(OK)
        for each in visitors:
            each.end()
        assert [each.failures for each in visitors] == [[], []]
        assert sum(each.served for each in visitors) > 50
        gateway.wait_for("with the configuration that was read at start")
        assert gateway.stop() == 0
        assert "limits are in memory" not in "".join(gateway.err)
    assert not path.exists()


@pytest.mark.long
def test_twenty_restarts_under_two_hundred_connections_a_second() -> None:
    with launched(workers=2) as gateway:
        gateway.wait_for_workers(2)
        started_s = time.monotonic()
        visitors = [Visitors(gateway.port, hesitation_s) for hesitation_s in (0, 0, 0.1)]
        restarted(gateway, 20)
        for each in visitors:
            each.end()
        assert [each.failures for each in visitors] == [[], [], []]
        assert sum(each.served for each in visitors) / (time.monotonic() - started_s) > 200


def test_a_second_gateway_on_the_port_is_refused() -> None:
    with launched(workers=2) as gateway:
        listen = {"host": "127.0.0.1", "port": gateway.port}
        with launched(workers=2, listen=listen) as second:
            assert second.process.wait(10) == 69
            second.wait_for(rf"cannot use 127\.0\.0\.1 port {gateway.port} \(listen\)")


def test_a_file_that_cannot_be_had_ends_it_at_once(tmp_path: Path) -> None:
    log = {"path": str(tmp_path / "no" / "such" / "folder.log")}
    with launched(workers=2, access_log=log) as gateway:
        assert gateway.process.wait(5) == 69
        gateway.wait_for("folder.log")
        assert not [line for line in gateway.err if "starting another" in line]


def sockets_of(pid: int) -> set[str]:
    """The sockets and pipes a process has open, its standard streams aside (proc(5), fd)."""
    found = {os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd") if int(name) > 2}
    return {name for name in found if name.startswith(("socket:", "pipe:"))}


def test_a_worker_holds_nothing_that_is_not_its_own() -> None:
    with launched(workers=2) as gateway:
        first = gateway.wait_for_workers(2)
        with closing(connected(gateway.admin_port)) as operator:
            # Only now, with a connection of the supervisor's open, those who matter are forked.
            for pid in first.values():
                os.kill(pid, signal.SIGKILL)
            while set(first.values()) & set((pids := gateway.wait_for_workers(2)).values()):
                time.sleep(0.02)
            own = [sockets_of(pid) for pid in pids.values()]
            assert not own[0] & own[1]
            shared = [each & sockets_of(gateway.process.pid) for each in own]
            assert [len(each) for each in shared] == [1, 1], "its listening socket, and nothing else"
            operator.sendall(HEALTH)
            assert operator.recv(65536).startswith(OK)
