"""CPU time of a request with one worker and with two, at the same rate, each on both cores."""

from __future__ import annotations

from bench.client import JSONClient
from bench.open_loop import OpenLoop, schedule
from bench.peers.peer import Peer
from bench.process import used_s
from bench.section import Bench, Sample, Section, check, difference, gateway

RATE = 2000
SLOW_RATE = 20
"""Requests a second. As many for one worker as for two, and less than one can do: under all that fits, two would
contend with the load for the cores, and with each other for what one has alone."""

_FIGURES = {1: "one_worker_us", 2: "two_workers_us"}
_RATIO = "second_worker"
_CONNECTIONS = 64
_WARM_UP_S = 0.3


class Workers(Section):
    """Both have the same cores and the same requests at the same times, so that nothing but their number differs.

    The two take turns, and it is the ratio of each round that counts: what else the machine does meets both.
    """

    name = "workers"
    transports = quick_transports = ("plain",)

    async def measure(self, bench: Bench, transport: str) -> None:
        """One figure for each number of workers, and their ratio."""
        bench.stop_fleet()
        started: list[Peer] = []
        for kind in bench.kinds:
            if not kind.has_workers or (kind.is_slow and bench.plan.is_quick):
                continue
            for workers, figure in _FIGURES.items():
                cores = bench.cores.gateway | bench.cores.others
                try:
                    started.append(bench.start(kind, transport, workers=workers, cores=cores)[0])
                except (RuntimeError, OSError) as error:
                    bench.trouble_with(figure, kind.name, transport, error)
        costs_us: dict[tuple[str, int, int], float] = {}

        async def once(peer: Peer, number: int) -> bool:
            sample = await _timed(bench, peer, transport, number)
            if number:
                bench.record(sample)
            if sample.value is None:
                return False
            costs_us[peer.name, number, peer.workers] = sample.value
            one_us, two_us = (costs_us.get((peer.name, number, workers)) for workers in _FIGURES)
            if number and one_us and two_us:
                bench.record(Sample(_RATIO, peer.name, transport, number, two_us / one_us))
            return True

        # Round 0 is to warm up.
        await bench.in_turns(_RATIO, transport, started, once, first=0, rounds=bench.plan.pairs)
        for peer in started:
            bench.stop(peer)


async def _timed(bench: Bench, peer: Peer, transport: str, number: int) -> Sample:
    """Microseconds of CPU for a request; none if they did not keep up. Raises RuntimeError for a wrong answer."""
    assert peer.process is not None
    figure = _FIGURES[peer.workers]
    seconds = bench.plan.seconds if number else min(_WARM_UP_S, bench.plan.seconds)
    times_s = schedule(SLOW_RATE if peer.is_slow else RATE, seconds, number)
    load = await OpenLoop.connect(JSONClient, gateway(peer), _CONNECTIONS, bench.next_number())
    try:
        sent_before = bench.upstream.counters()
        before = peer.process.family
        tally = await load.run(times_s, seconds)
        after = peer.process.family
        sent = difference(bench.upstream.counters(), sent_before)
    finally:
        load.close()
    check(tally, sent, "answers")
    if number and load.dropped:
        return Sample(figure, peer.name, transport, number, None, f"cannot: {load.pace:.0f}/s")
    cpu_s = used_s(before, after)
    details = {"units": tally.answers, "cpu_s": cpu_s, "seconds": tally.seconds}
    return Sample(figure, peer.name, transport, number, cpu_s / tally.answers * 1e6, details=details)
