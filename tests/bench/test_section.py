"""Who has a turn, and when; what a start costs; what is left running."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest

from bench import section
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
