"""CPU time of a request, of a chunk of a stream, of an upload; and the memory a peer has meanwhile."""

from __future__ import annotations

from typing import NamedTuple

from bench.client import Client, JSONClient, NewHeadClient, SSEClient, UploadClient
from bench.load import Load
from bench.peers.peer import Peer
from bench.process import used_s
from bench.section import Bench, Sample, Section, check, difference, gateway, rss_bytes

WARM_UP_S = 0.5


class Kind(NamedTuple):
    """One kind of request: the figure it gives, who asks, what the upstream counts, and how many connections do."""

    figure: str
    client: type[Client]
    counter: str
    connections: int
    slow_connections: int


JSON = Kind("json_us", JSONClient, "answers", 64, 8)
NEW_HEAD = Kind("json_new_us", NewHeadClient, "answers", 64, 8)
SSE = Kind("sse_us", SSEClient, "streams", 64, 2)
UPLOAD = Kind("upload_us", UploadClient, "uploads", 8, 2)


class CPU(Section):
    """The peers in turns under as much as each can do, or for streams, as the upstream gives."""

    name = "cpu"

    async def measure(self, bench: Bench, transport: str) -> None:
        """Four figures, and the most memory seen meanwhile."""
        peers = bench.fleet(transport)
        peak: dict[str, int] = {}
        for kind in (JSON, NEW_HEAD, SSE, UPLOAD):
            # Whoever spends a millisecond on a request remembers nothing that would show.
            asked = peers if kind != NEW_HEAD else [peer for peer in peers if not peer.is_slow and peer.is_faithful]

            async def once(peer: Peer, number: int, kind: Kind = kind) -> None:
                sample, rss = await loaded(bench, peer, kind, transport, number)
                if number:
                    bench.record(sample)
                    peak[peer.name] = max(rss, peak.get(peer.name, 0))

            # Round 0 is to warm up.
            await bench.in_turns(kind.figure, transport, asked, once, first=0)
        for name, rss in peak.items():
            bench.record(Sample("rss_load_mib", name, transport, 1, rss / 2**20))


async def loaded(bench: Bench, peer: Peer, kind: Kind, transport: str, number: int) -> tuple[Sample, int]:
    """One round; microseconds of CPU for a request or a chunk, and the memory in the midst of it.

    Raises RuntimeError if an answer is not what it must be.
    """
    assert peer.process is not None
    seconds = (
        min(WARM_UP_S, bench.plan.seconds / 2) if number == 0 else bench.plan.seconds / (2 if peer.is_slow else 1)
    )
    connections = kind.slow_connections if peer.is_slow else kind.connections
    load = await Load.connect(kind.client, gateway(peer), connections, bench.next_number())
    seen: list[int] = []
    try:
        sent_before = bench.upstream.counters()
        before = peer.process.family
        tally = await load.run(seconds, midway=lambda: seen.append(rss_bytes(peer)))
        after = peer.process.family
        sent = difference(bench.upstream.counters(), sent_before)
    finally:
        load.close()
    check(tally, sent, kind.counter)
    units = tally.events or tally.answers
    cpu_s = used_s(before, after)
    details = {"units": units, "cpu_s": cpu_s, "seconds": tally.seconds, "busy": cpu_s / tally.seconds}
    if tally.reads:
        details["units_per_read"] = tally.events / tally.reads
    return Sample(kind.figure, peer.name, transport, number, cpu_s / units * 1e6, details=details), seen[0]
