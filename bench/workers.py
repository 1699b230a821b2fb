"""CPU time of a request with one worker and with two, which have both cores while the load runs there too."""

from __future__ import annotations

from dataclasses import replace

from bench.cpu import JSON, loaded
from bench.peers.peer import Peer
from bench.section import Bench, Section

_FIGURES = {1: "one_worker_us", 2: "two_workers_us"}


class Workers(Section):
    """Both have the same cores, so that nothing but their number differs."""

    name = "workers"
    transports = quick_transports = ("plain",)

    async def measure(self, bench: Bench, transport: str) -> None:
        """One figure for each number of workers."""
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

        async def once(peer: Peer, number: int) -> None:
            sample, _ = await loaded(bench, peer, JSON, transport, number)
            if number:
                bench.record(replace(sample, figure=_FIGURES[peer.workers]))

        await bench.in_turns("two_workers_us", transport, started, once, first=0)
        for peer in started:
            bench.stop(peer)
