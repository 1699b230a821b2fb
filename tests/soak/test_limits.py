"""What the figures of limits judge by: each of them must be able to miss."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import cast

import pytest
import uvloop

from proxy.core.address import subject_key
from soak import limiter
from soak.drive import drive
from soak.g12_outage import ANSWERS, MODES, SHARE, client_ip
from soak.hosts import Host, Network, faketime, tied
from soak.lane import Lane, message_end, post
from soak.ledger import ANSWER, Ledger
from soak.redis_server import RedisServer
from soak.served import Served, cpu_s, limited
from soak.steady import Call, Steady
from soak.volley import Outcome, faults, volley
from tests.support.process import ROOT, environment

BODIES = [b'{"call": "s-%06d"}' % number for number in range(3)]


def outcome(*statuses: int) -> Outcome:
    told = Outcome()
    for number, status in enumerate(statuses):
        told.told(b'{"call": "s-%06d"}' % number)(status, b"")
    return told


@pytest.mark.parametrize(
    ("statuses", "arrived", "found"),
    [
        ((200, 200, 429), BODIES[:2], []),
        ((200, 200, 200), BODIES, ["3 admitted, +1", "3 at the upstream, +1"]),
        ((200, 429, 429), BODIES[:1], ["1 admitted, -1", "1 at the upstream, -1"]),
        ((200, 200, 429), BODIES[1:], ["the upstream got others than were let through"]),
        ((200, 200, 429), BODIES[:1] * 2, ["the upstream got others than were let through"]),
        ((200, 200, 503), BODIES[:2], ["answers other than 200 and 429: {503: 1}, 0 without an answer"]),
        ((200, 200, 0), BODIES[:2], ["answers other than 200 and 429: {0: 1}, 0 without an answer"]),
        ((200, 200), BODIES[:2], ["answers other than 200 and 429: {}, 1 without an answer"]),
    ],
)
def test_a_limit_is_judged_by_clients_and_upstream(
    statuses: tuple[int, ...], arrived: list[bytes], found: list[str]
) -> None:
    assert faults(2, 3, outcome(*statuses), Counter(arrived)) == found


def test_messages_are_told_apart_by_their_length() -> None:
    data = ANSWER + post("192.0.2.1", b"{}") + ANSWER[:-1]
    first = message_end(data, 0)
    second = message_end(data, first)
    assert data[:first] == ANSWER
    assert data[first:second] == post("192.0.2.1", b"{}")
    assert message_end(data, second) == 0
    with pytest.raises(ValueError, match="no length"):
        message_end(b"HTTP/1.1 200 OK\r\n\r\n", 0)


@pytest.mark.gen_test
async def test_a_call_is_lost_if_its_connection_ends() -> None:
    async def take_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(ANSWER)
        await reader.readuntil(b"{}")
        writer.close()

    server = await asyncio.start_server(take_one, "127.0.0.1", 0)
    lane = await Lane.connect("127.0.0.1", server.sockets[0].getsockname()[1])
    request = post("192.0.2.1", b"{}")
    seen: list[int] = []
    lane.send([request] * 3, [lambda status, _: seen.append(status)] * 3)
    while len(seen) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    assert seen == [200, 0, 0]
    assert await lane.ask(request) == (0, b""), "nor is one that comes later left waiting"
    server.close()
    await asyncio.sleep(0.01)


def test_who_is_decided_on_without_a_store() -> None:
    assert ANSWERS["deny"] == {503}
    assert SHARE == 10
    everybody = {client_ip(mode, cycle, use) for mode in MODES for cycle in range(600) for use in (0, 1)}
    assert len(everybody) == len(MODES) * 600 * 2, "no client is asked for twice"


@pytest.mark.parametrize(("sent_s", "took_s", "is_within"), [(1.0, 0.5, True), (0.9, 0.5, False), (1.9, 0.2, False)])
def test_a_call_is_of_an_outage_if_all_of_it_is(sent_s: float, took_s: float, is_within: bool) -> None:
    assert Call("a", 0, b"", sent_s, took_s).is_within(1.0, 2.0) is is_within
    assert not Call("a", 0, b"", sent_s).is_within(1.0, 2.0)


def test_subjects_are_called_as_limits_call_them() -> None:
    counted = subject_key(64)
    for number in (3, 65_539, 4, 70_000, 9_999_998):
        name = limiter.subject(number)
        assert counted(name.removesuffix("/64")) == name
    assert len({limiter.subject(number) for number in range(100_000)}) == 100_000


def test_hosts_are_gone_once_they_are_not_needed() -> None:
    with Network((0, 0)) as network:
        assert len({network.hub, *(host.address for host in network.hosts)}) == 3
        names = [host.namespace for host in network.hosts]
        if network.are_namespaces:
            assert set(names) <= set(_namespaces())
    assert not set(names) & set(_namespaces()) or not any(names)


def _namespaces() -> list[str]:
    if shutil.which("ip") is None:
        return []
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()


def test_a_host_without_a_wrong_clock_needs_no_library() -> None:
    assert Host("127.0.0.1").environ == {}
    if faketime() is not None:
        assert Host("127.0.0.1", skew_s=-30).environ["FAKETIME"] == "-30s"


def test_processor_time_is_of_the_process_asked_for() -> None:
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        before = cpu_s(process.pid)
        sum(range(2_000_000))
        assert cpu_s(process.pid) > before
    finally:
        process.kill()
        process.wait()
    with pytest.raises(OSError, match="Invalid argument"):
        cpu_s(process.pid)


def test_a_volley_finds_workers_that_do_not_share() -> None:
    """Two gateways that count apart admit twice the limit, and the figure says so."""

    async def measure() -> list[str]:
        ledger = Ledger()
        await ledger.start()
        rule: dict[str, object] = {"day": 5}
        with Network((0, 0), apart=False) as network:
            settings = limited((network.hub, ledger.port), network.hub, "memory", rule)
            async with Served(network.hosts[0], settings, 1) as one, Served(network.hosts[1], settings, 1) as other:
                lanes = [*await one.lanes(4), *await other.lanes(4)]
                told, arrived = await volley(lanes, ledger, "10.1.1.1", "s", 50, random.Random(1))
                statuses = await drive(lanes[:2], iter([post("10.1.1.1", b"{}")] * 6))
                assert statuses == {429: 6}
                for lane in lanes:
                    lane.close()
        await ledger.stop()
        return faults(5, 50, told, arrived)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(measure()) == ["10 admitted, +5", "10 at the upstream, +5"]


@pytest.mark.gen_test
async def test_a_steady_load_asks_all_hosts_in_turn() -> None:
    ledger = Ledger()
    await ledger.start()
    hosts = [[await Lane.connect("127.0.0.1", ledger.port) for _ in range(2)] for _ in range(2)]
    async with Steady(hosts, 500, lambda: "192.0.2.1") as steady:
        await asyncio.sleep(0.2)
        await steady.settle()
    assert 50 <= len(steady.calls) <= 150
    assert {call.status for call in steady.calls} == {200}
    assert Counter(call.host for call in steady.calls)[0] in range(len(steady.calls) // 2, len(steady.calls) // 2 + 2)
    assert ledger.take(b'{"steady": "s') == Counter(call.body for call in steady.calls)
    assert not ledger.take(b'{"steady": "s')
    for lane in (lane for each in hosts for lane in each):
        lane.close()
    await ledger.stop()


@pytest.mark.gen_test
async def test_a_steady_load_passes_over_lanes_that_wait() -> None:
    lanes = [Lane() for _ in range(3)]
    written = [StandIn(lane) for lane in lanes]
    lanes[0].send([b"1"], [lambda status, _: None])
    async with Steady([lanes], 0, lambda: "192.0.2.1") as steady:
        for number in range(2):
            steady._ask(number)
    assert [len(each.written) for each in written] == [1, 1, 1]
    assert steady.short_of_lanes == 0
    steady._ask(2)
    assert steady.short_of_lanes == 1


class StandIn:
    """A transport that only remembers what is written to it."""

    def __init__(self, lane: Lane) -> None:
        self.written: list[bytes] = []
        lane.connection_made(cast(asyncio.BaseTransport, self))

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def is_closing(self) -> bool:
        return False


@pytest.mark.gen_test
async def test_a_redis_comes_and_goes() -> None:
    async with RedisServer() as redis:
        assert await redis.ask(b"SET", b"a", b"1") == b"+OK\r\n"
        await redis.freeze()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await redis.ask(b"GET", b"a")
        redis.thaw()
        assert await redis.ask(b"GET", b"a") == b"$1\r\n1\r\n"
        await redis.kill()
        with pytest.raises(ConnectionRefusedError):
            await redis.ask(b"GET", b"a")
        await redis.start()
        assert await redis.ask(b"GET", b"a") == b"$-1\r\n", "it has forgotten"


def test_what_is_started_ends_with_its_starter() -> None:
    """Also where the starter is killed and can do nothing about it."""
    if shutil.which("setpriv") is None:
        assert tied(["sleep", "100"]) == ["sleep", "100"]
        return
    script = "import sys, time; from soak.hosts import started; print(started(sys.argv[1:]).pid, flush=True); "
    starter = subprocess.Popen(
        [sys.executable, "-c", script + "time.sleep(100)", "sleep", "100"],
        stdout=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )
    assert starter.stdout is not None
    with starter.stdout as said:
        pid = int(said.readline())
        starter.kill()
        starter.wait()
    end = time.monotonic() + 5
    while Path(f"/proc/{pid}/stat").exists() and time.monotonic() < end:
        if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
