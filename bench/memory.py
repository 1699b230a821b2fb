"""Memory: idle after one request, and for each stream that is open and silent. Under load see ``cpu.py``."""

from __future__ import annotations

import asyncio

from bench.held import Held
from bench.peers.peer import Peer
from bench.section import Bench, Sample, Section, check, difference, gateway, rss_bytes
from bench.upstream import Mode

SILENT = Mode(events=0, interval_s=0, at_once=True)

_FIRST = 10
_SLOW = 4
"""The tenth part of the streams is opened before the first look, and slow peers have a quarter of all."""


class Memory(Section):
    """It begins with peers that were just started: what they once used they would not ask the system for again."""

    name = "memory"

    async def measure(self, bench: Bench, transport: str) -> None:
        """Once: memory does not depend on what else the machine does."""
        bench.stop_fleet()
        peers = bench.fleet(transport)
        await asyncio.sleep(bench.plan.settle_s)
        for peer in peers:
            bench.record(Sample("rss_idle_mib", peer.name, transport, 1, rss_bytes(peer) / 2**20))
        for peer in peers:
            try:
                value = await _per_stream(bench, peer)
            except (RuntimeError, OSError) as error:
                bench.trouble_with("rss_stream_kib", peer.name, transport, error)
            else:
                # Whoever collects garbage may have less memory in the end than at the start.
                said = "" if value > 0 else "not seen"
                kib = value / 2**10 if value > 0 else None
                bench.record(Sample("rss_stream_kib", peer.name, transport, 1, kib, said))


async def _per_stream(bench: Bench, peer: Peer) -> float:
    count = bench.plan.silent // (_SLOW if peer.is_slow else 1)
    held = Held(gateway(peer), bench.next_number())
    sent_before = bench.upstream.counters()
    bench.upstream.stream(SILENT)
    try:
        # What the first streams bring into memory is the same for ten and for ten thousand.
        await held.open(max(1, count // _FIRST))
        await asyncio.sleep(bench.plan.settle_s)
        before = rss_bytes(peer)
        await held.open(count)
        await asyncio.sleep(bench.plan.settle_s)
        after = rss_bytes(peer)
        bench.upstream.finish()
        tally = await held.ended()
    finally:
        # A gateway that failed may still hold streams that would never end.
        bench.upstream.finish()
        bench.upstream.stream()
        held.close()
    check(tally, difference(bench.upstream.counters(), sent_before), "streams")
    return (after - before) / count
