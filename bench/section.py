"""What a section of the bench is, and what it works with: a plan, running peers, and a place for its samples."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.client import Gateway, Tally
from bench.peers.peer import Peer
from bench.process import Cores
from bench.upstream_process import Upstream

TRANSPORTS = ("plain", "tls")
"""How the peers reach the upstream. Clients always come without TLS."""

FAILED = "failed"
"""What a sample says that has no value because something was not as it must be."""

PAUSE_S = 0.2
"""Between two turns: closed connections are to be dealt with before the next peer's."""


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    rounds: int = 3
    seconds: float = 1.5
    """How long a round asks; half of it where peers are slow and only CPU time counts."""
    rate: int = 1000
    """Requests a second at which latency is measured."""
    streams: int = 500
    """How many are open while first bytes are timed."""
    silent: int = 1000
    """How many are weighed."""
    crowd: int = 10_240
    """How many two workers carry together."""
    starts: int = 5
    pairs: int = 5
    """How many rounds compare one worker with two."""
    settle_s: float = 0.5
    """How long what was begun comes to rest before memory is looked at."""
    silent_s: float = 5.0
    """How long the crowd's CPU time is measured while it is silent."""
    is_quick: bool = False


@dataclass(frozen=True)
class Sample:
    """One figure of one peer in one round; ``value`` None with what it did instead in ``said``."""

    figure: str
    peer: str
    transport: str
    round: int
    value: float | None
    said: str = ""
    details: Mapping[str, float] = field(default_factory=dict)


class Bench:
    """One run: who is measured, with what, and what came out. Whatever it started ends with `close`."""

    def __init__(
        self, kinds: Iterable[type[Peer]], plan: Plan, cores: Cores, directory: Path, upstream: Upstream
    ) -> None:
        self.kinds = list(kinds)
        self.plan = plan
        self.cores = cores
        self.upstream = upstream
        self.samples: list[Sample] = []
        self.problems: list[str] = []
        self.versions: dict[str, str] = {}
        self._directory = directory
        self._running: list[Peer] = []
        self._fleet: list[Peer] = []
        self._fleet_transport = ""
        self._numbers = 0
        self._took_s: dict[tuple[str, str], float] = {}

    def next_number(self) -> int:
        """One that was not used before: for the addresses of a round, or the directory of a peer."""
        self._numbers += 1
        return self._numbers

    def start(
        self, kind: type[Peer], transport: str, *, workers: int = 1, cores: set[int] | None = None
    ) -> tuple[Peer, float]:
        """Start a peer, on the gateway's core unless others are given; it, and in how many seconds it answered.

        Raises RuntimeError.
        """
        directory = self._directory / f"{kind.name}-{self.next_number()}"
        directory.mkdir()
        peer = kind(directory, self.upstream.targets[transport], workers=workers)
        took_s = peer.start(self.cores.gateway if cores is None else cores)
        self._running.append(peer)
        self.versions.setdefault(peer.name, peer.version())
        self._took_s.setdefault((peer.name, transport), took_s)
        return peer, took_s

    def first_start_s(self, kind: type[Peer], transport: str) -> float | None:
        """In how many seconds it answered when it was first started; None if it was not yet."""
        return self._took_s.get((kind.name, transport))

    def stop(self, peer: Peer) -> None:
        """End a peer that was started."""
        self._running.remove(peer)
        peer.stop()

    def fleet(self, transport: str) -> list[Peer]:
        """All peers with one worker each; they run until another transport is asked for, or `stop_fleet`."""
        if self._fleet_transport != transport:
            self.stop_fleet()
            for kind in self.kinds:
                try:
                    self._fleet.append(self.start(kind, transport)[0])
                except (RuntimeError, OSError) as error:
                    self.trouble(f"{kind.name}, {transport}", error)
            self._fleet_transport = transport
        return list(self._fleet)

    def stop_fleet(self) -> None:
        """End them."""
        for peer in self._fleet:
            self.stop(peer)
        self._fleet = []
        self._fleet_transport = ""

    def close(self) -> None:
        """End whatever runs."""
        while self._running:
            self._running.pop().stop()

    def record(self, sample: Sample) -> None:
        """Keep a sample, and show it."""
        self.samples.append(sample)
        value = sample.said if sample.value is None else f"{sample.value:,.4g}"
        print(
            f"{sample.transport:5}  {sample.figure:17} round {sample.round}  {sample.peer:8} {value:>9}", flush=True
        )

    def trouble(self, where: str, error: Exception) -> None:
        """Keep what went wrong, and show it; the run goes on, but does not end well."""
        self.problems.append(f"{where}: {error}")
        print(f"bench: {where}: {error}", flush=True)

    def trouble_with(self, figure: str, peer: str, transport: str, error: Exception) -> None:
        """The same, where a figure is missing for it."""
        self.trouble(f"{peer}, {figure}, {transport}", error)
        self.record(Sample(figure, peer, transport, 0, None, FAILED))

    async def in_turns(
        self,
        figure: str,
        transport: str,
        peers: Sequence[Peer],
        once: Callable[[Peer, int], Awaitable[bool | None]],
        *,
        first: int = 1,
        rounds: int | None = None,
        slow_rounds: int | None = None,
    ) -> None:
        """Round by round, all peers one after another; who fails, or whose ``once`` is False, has no further turn.

        The rounds are numbered from ``first`` to ``rounds``, which is the plan's unless given.
        """
        taking_part = list(peers)
        for number in range(first, (self.plan.rounds if rounds is None else rounds) + 1):
            for peer in list(taking_part):
                if peer.is_slow and slow_rounds is not None and number > slow_rounds:
                    continue
                try:
                    goes_on = await once(peer, number)
                except (RuntimeError, OSError) as error:
                    self.trouble_with(figure, peer.name, transport, error)
                    goes_on = False
                if goes_on is False:
                    taking_part.remove(peer)
                await asyncio.sleep(PAUSE_S)


class Section(ABC):
    """One kind of measurement."""

    name: str
    transports: tuple[str, ...] = TRANSPORTS
    quick_transports: tuple[str, ...] = TRANSPORTS
    """Those of a quick run."""

    @abstractmethod
    async def measure(self, bench: Bench, transport: str) -> None:
        """Record samples."""


def gateway(peer: Peer) -> Gateway:
    """A peer as its clients see it."""
    return Gateway(peer.port, peer.fields, peer.is_faithful)


def rss_bytes(peer: Peer) -> int:
    """The resident memory of a running peer."""
    assert peer.process is not None
    return peer.process.rss_bytes()


def difference(after: Mapping[str, int], before: Mapping[str, int]) -> dict[str, int]:
    """What the upstream sent between two looks."""
    return {kind: count - before[kind] for kind, count in after.items()}


def check(tally: Tally, sent: Mapping[str, int], counter: str) -> None:
    """Raises RuntimeError unless everything was answered well and both ends counted the same.

    ``counter`` is what the upstream counts these answers by.
    """
    if tally.failures:
        found = ", ".join(f"{count} × {what}" for what, count in tally.failures.most_common(5))
        hint = ""
        if any(what.endswith(" 429") for what in tally.failures):
            hint = " (the limits count exactly and are reached: measure fewer seconds)"
        raise RuntimeError(f"{found}{hint}")
    expected: dict[str, Any] = dict.fromkeys(sent, 0) | {"events": tally.events, counter: tally.answers}
    if not tally.answers or sent != expected:
        raise RuntimeError(
            f"the client counts {tally.answers} answers with {tally.events} events, the upstream sent {dict(sent)}"
        )
