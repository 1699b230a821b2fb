"""The measurement: peers in turns, CPU time against what came back, and both ends counting."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.load import Client, JSONClient, Load, SSEClient, Tally
from bench.peer import Peer
from bench.process import Cores, Process, used_s

_SETTLE_S = 1.0
_START_S = 10.0
WARM_UP_S = 1.0


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    seconds: float = 6.0
    connections: int = 64


@dataclass(frozen=True)
class Sample:
    """One peer in one round of one kind; ``units`` are answers, or events in streams."""

    peer: str
    kind: str
    round: int
    units: int
    cpu_s: float
    seconds: float
    units_per_read: float | None = None

    @property
    def cpu_us(self) -> float:
        """CPU time of one unit, in microseconds."""
        return self.cpu_s / self.units * 1e6

    @property
    def rate(self) -> float:
        """Units in a second."""
        return self.units / self.seconds

    @property
    def busy(self) -> float:
        """Which part of its core the gateway used."""
        return self.cpu_s / self.seconds


class Upstream:
    """The bench's upstream in its own process."""

    def __init__(self, directory: Path, cores: set[int]) -> None:
        env = {"PATH": os.environ["PATH"]}
        argv = [sys.executable, "-m", "bench.upstream"]
        self.process = Process(argv, cores, env=env, log=directory / "upstream.log")
        deadline = time.monotonic() + _START_S
        while not self.process.said().endswith("\n"):
            self.process.check()
            if time.monotonic() > deadline:
                self.process.stop()
                raise RuntimeError("the bench's upstream does not start")
            time.sleep(0.02)
        self.port = int(self.process.said())

    def counters(self) -> dict[str, int]:
        """What it has sent so far, by kind."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        connection.request("GET", "/counters")
        counters: dict[str, int] = json.loads(connection.getresponse().read())
        connection.close()
        return counters


@contextmanager
def running(peers: Sequence[type[Peer]], directory: Path, cores: Cores) -> Iterator[tuple[Upstream, list[Peer]]]:
    """The upstream and the peers as processes; at the end none of them is left."""
    with ExitStack() as stack:
        upstream = Upstream(directory, cores.others)
        stack.callback(upstream.process.stop)
        started = []
        for kind in peers:
            own = directory / kind.name
            own.mkdir()
            peer = kind(own, upstream.port)
            stack.callback(peer.stop)
            peer.start(cores.gateway)
            started.append(peer)
        time.sleep(_SETTLE_S)
        yield upstream, started


def idle_rss_bytes(peer: Peer) -> int:
    """The resident memory of a peer that has served one request."""
    assert peer.process is not None
    return peer.process.rss_bytes()


async def measure(upstream: Upstream, peers: Sequence[Peer], plan: Plan) -> list[Sample]:
    """Every sample of the plan. Raises RuntimeError on the first answer that is not what it must be."""
    kinds: dict[str, type[Client]] = {"json": JSONClient, "sse": SSEClient}
    for peer in peers:
        for kind in kinds.values():
            load = await Load.connect(kind, peer.port, plan.connections, 0)
            await load.run(min(WARM_UP_S, plan.seconds))
            load.close()
    samples = []
    for number in range(1, plan.rounds + 1):
        for name, kind in kinds.items():
            for peer in peers:
                sample = await _sample(upstream, peer, name, kind, number, plan)
                samples.append(sample)
                print(
                    f"round {number}  {name:4}  {peer.name:8} {sample.cpu_us:7.1f} µs  "
                    f"{sample.rate:9,.0f}/s  core {sample.busy:4.0%}",
                    flush=True,
                )
    return samples


async def _sample(upstream: Upstream, peer: Peer, name: str, kind: type[Client], number: int, plan: Plan) -> Sample:
    assert peer.process is not None
    load = await Load.connect(kind, peer.port, plan.connections, number)
    try:
        sent_before = upstream.counters()
        before = peer.process.family
        tally = await load.run(plan.seconds)
        after = peer.process.family
        sent_after = upstream.counters()
    finally:
        load.close()
    sent = {key: sent_after[key] - sent_before[key] for key in sent_after}
    check(f"{peer.name}, {name}, round {number}", tally, sent)
    units = tally.events or tally.answers
    per_read = tally.events / tally.reads if tally.reads else None
    # Closed connections are to be dealt with before the next peer's turn.
    await asyncio.sleep(0.2)
    return Sample(peer.name, name, number, units, used_s(before, after), tally.seconds, per_read)


def check(where: str, tally: Tally, sent: dict[str, int]) -> None:
    """Raises RuntimeError unless everything was answered well and both ends counted the same."""
    if tally.failures:
        found = ", ".join(f"{count} × {what}" for what, count in tally.failures.most_common(5))
        hint = ""
        if any(" 429" in what for what in tally.failures):
            hint = " (the limits count exactly and are reached: measure fewer seconds or more connections)"
        raise RuntimeError(f"{where}: {found}{hint}")
    answers = sent["streams"] if tally.events else sent["answers"]
    if not tally.answers or (answers, sent["events"], sent["refusals"]) != (tally.answers, tally.events, 0):
        raise RuntimeError(
            f"{where}: the client counts {tally.answers} answers with {tally.events} events, the upstream sent {sent}"
        )
