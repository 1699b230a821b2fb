"""Sluice alone: ten thousand open streams over two workers, their memory and what they cost while nothing happens."""

from __future__ import annotations

import asyncio
import resource

from bench.held import Held
from bench.memory import SILENT
from bench.peers.peer import Peer
from bench.peers.sluice import Sluice
from bench.process import used_s
from bench.section import Bench, Sample, Section, check, difference, gateway, rss_bytes

_WORKERS = 2
_EVENTS_S = 15.0
_SPARE_FILES = 200


class Streams(Section):
    """Clients, gateway and upstream are processes of their own: each has its own limit of open files."""

    name = "streams"
    quick_transports = ("plain",)

    async def measure(self, bench: Bench, transport: str) -> None:
        """MiB in all, and the share of a core while each is silent, and while each has an event every 15 s."""
        if Sluice not in bench.kinds:
            return
        bench.stop_fleet()
        try:
            peer, _ = bench.start(Sluice, transport, workers=_WORKERS, cores=bench.cores.gateway | bench.cores.others)
        except (RuntimeError, OSError) as error:
            bench.trouble_with("crowd_mib", Sluice.name, transport, error)
            return
        try:
            figures = await _crowd(bench, peer)
        except (RuntimeError, OSError) as error:
            bench.trouble_with("crowd_mib", Sluice.name, transport, error)
        else:
            for figure, value in figures.items():
                details = {"streams": bench.plan.crowd}
                bench.record(Sample(figure, Sluice.name, transport, 1, value, details=details))
        finally:
            bench.stop(peer)


async def _crowd(bench: Bench, peer: Peer) -> dict[str, float]:
    files = bench.plan.crowd + _SPARE_FILES
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < files:
        raise RuntimeError(f"this needs {files} open files in one process: raise the limit (ulimit -Hn)")
    held = Held(gateway(peer), bench.next_number())
    sent_before = bench.upstream.counters()
    bench.upstream.stream(SILENT)
    try:
        await held.open(bench.plan.crowd)
        await asyncio.sleep(bench.plan.settle_s)
        figures = {
            "crowd_mib": rss_bytes(peer) / 2**20,
            "crowd_silent_cpu": await _share_of_a_core(peer, bench.plan.silent_s),
        }
        if not bench.plan.is_quick:
            bench.upstream.beat(_EVENTS_S)
            figures["crowd_events_cpu"] = await _share_of_a_core(peer, _EVENTS_S)
        bench.upstream.finish()
        tally = await held.ended()
    finally:
        # A gateway that failed may still hold streams that would never end.
        bench.upstream.finish()
        bench.upstream.stream()
        held.close()
    check(tally, difference(bench.upstream.counters(), sent_before), "streams")
    return figures


async def _share_of_a_core(peer: Peer, seconds: float) -> float:
    """In percent."""
    assert peer.process is not None
    before = peer.process.family
    await asyncio.sleep(seconds)
    return used_s(before, peer.process.family) / seconds * 100
