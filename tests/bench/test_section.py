"""Who has a turn, and when; what a start costs; what is left running."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from bench import section, workers
from bench.peers.peer import Peer, Target
from bench.process import Cores
from bench.section import Bench, Plan, Sample
from bench.start_up import StartUp
from bench.upstream_process import Upstream


class Named(Peer):
    """A gateway that only says that it runs."""

    has_workers = False
    running: list[str] = []  # noqa: RUF012
    starts: list[str] = []  # noqa: RUF012

    def configure(self) -> list[str]:
        raise AssertionError("it is no process")

    def version(self) -> str:
        return "1"

    def start(self, cores: set[int]) -> float:
        self.running.append(self.name)
        self.starts.append(self.name)
        return 0.5

    def stop(self) -> None:
        self.running.remove(self.name)


class First(Named):
    name = "first"


class Second(Named):
    name = "second"


class Slow(Named):
    name = "slow"
    is_slow = True


class NoUpstream:
    """Where one would be."""

    targets = {"plain": Target(1), "tls": Target(2, Path("ca.pem"))}  # noqa: RUF012


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(section, "PAUSE_S", 0)
    monkeypatch.setattr(Named, "running", [])
    monkeypatch.setattr(Named, "starts", [])
    return Bench(
        [First, Second, Slow], Plan(rounds=3, starts=3), Cores({0}, {0}), tmp_path, cast(Upstream, NoUpstream())
    )


def test_the_peers_take_turns(bench: Bench) -> None:
    turns: list[tuple[str, int]] = []

    async def once(peer: Peer, number: int) -> None:
        turns.append((peer.name, number))

    asyncio.run(bench.in_turns("json_us", "plain", bench.fleet("plain"), once, slow_rounds=1))
    assert turns == [
        *(("first", 1), ("second", 1), ("slow", 1)),
        *(("first", 2), ("second", 2)),
        *(("first", 3), ("second", 3)),
    ]


def test_who_fails_has_no_further_turn_and_no_figure(bench: Bench) -> None:
    turns: list[str] = []

    async def once(peer: Peer, number: int) -> bool:
        turns.append(f"{peer.name} {number}")
        if turns[-1] == "first 1":
            raise RuntimeError("3 × status 502")
        return turns[-1] != "slow 2"

    asyncio.run(bench.in_turns("json_us", "tls", bench.fleet("tls"), once, first=0))
    assert turns == [
        *("first 0", "second 0", "slow 0", "first 1", "second 1", "slow 1"),
        *("second 2", "slow 2", "second 3"),
    ]
    assert bench.problems == ["first, json_us, tls: 3 × status 502"]
    assert bench.samples == [Sample("json_us", "first", "tls", 0, None, "failed")]


def test_a_fleet_runs_until_another_is_asked_for(bench: Bench) -> None:
    peers = bench.fleet("plain")
    assert [peer.name for peer in bench.fleet("plain")] == Named.running == ["first", "second", "slow"]
    others = bench.fleet("tls")
    assert not set(map(id, peers)) & set(map(id, others))
    assert [peer.target.port for peer in others] == [2, 2, 2]
    assert Named.running == ["first", "second", "slow"]
    bench.start(First, "plain")
    bench.close()
    assert Named.running == []


def test_slow_peers_start_once(bench: Bench) -> None:
    asyncio.run(StartUp().measure(bench, "plain"))
    assert Named.starts == ["first", "second", "slow", "first", "second", "first", "second"]
    assert [sample.value for sample in bench.samples] == [0.5] * 7
    assert Named.running == []


def test_the_first_start_of_a_slow_peer_is_enough(bench: Bench) -> None:
    bench.fleet("plain")
    asyncio.run(StartUp().measure(bench, "plain"))
    assert Named.starts.count("slow") == 1
    assert [sample.peer for sample in bench.samples].count("slow") == 1


class Paired(Named):
    """It can run two workers."""

    name = "paired"
    has_workers = True


def test_workers_are_compared_round_by_round(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # What else the machine does doubles every cost from one round to the next, and meets both alike.
    async def timed(bench: Bench, peer: Peer, transport: str, number: int) -> Sample:
        turns.append((number, peer.workers))
        figure = {1: "one_worker_us", 2: "two_workers_us"}[peer.workers]
        return Sample(figure, peer.name, transport, number, 2.0**number * (1.05 if peer.workers == 2 else 1.0))

    turns: list[tuple[int, int]] = []
    monkeypatch.setattr(workers, "_timed", timed)
    bench.kinds = [First, Paired]
    asyncio.run(workers.Workers().measure(bench, "plain"))
    assert turns == [(number, count) for number in range(6) for count in (1, 2)]
    ratios = [sample for sample in bench.samples if sample.figure == "second_worker"]
    assert [sample.round for sample in ratios] == [1, 2, 3, 4, 5]
    assert [sample.value for sample in ratios] == [pytest.approx(1.05)] * 5
    assert {sample.peer for sample in ratios} == {"paired"}
    assert Named.running == []


def test_workers_that_do_not_keep_up_are_not_compared(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def timed(bench: Bench, peer: Peer, transport: str, number: int) -> Sample:
        if peer.workers == 1 and number:
            return Sample("one_worker_us", peer.name, transport, number, None, "cannot: 900/s")
        return Sample("two_workers_us", peer.name, transport, number, 30.0)

    monkeypatch.setattr(workers, "_timed", timed)
    bench.kinds = [Paired]
    asyncio.run(workers.Workers().measure(bench, "plain"))
    assert [sample.said for sample in bench.samples if sample.figure == "one_worker_us"] == ["cannot: 900/s"]
    assert not any(sample.figure == "second_worker" for sample in bench.samples)
    assert bench.problems == []
