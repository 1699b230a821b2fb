"""Added latency: how much later answers come than straight from the upstream, at a rate nobody's pace changes."""

from __future__ import annotations

from bench.client import Gateway, JSONClient
from bench.open_loop import OpenLoop, quantile, schedule
from bench.peers.peer import Peer
from bench.request import SERVER_KEY
from bench.section import Bench, Sample, Section, check, difference, gateway

_CONNECTIONS = 64
_WARM_UP_S = 0.3
_QUANTILES = {"added_p50_ms": 0.5, "added_p99_ms": 0.99}


class Latency(Section):
    """Each round begins with the upstream alone, in the clear: what the way through a gateway adds to that."""

    name = "latency"
    quick_transports = ("plain",)

    async def measure(self, bench: Bench, transport: str) -> None:
        """The median and the 99th percentile."""
        peers = bench.fleet(transport)
        alone: dict[int, list[float]] = {}

        async def once(peer: Peer, number: int) -> bool:
            if number not in alone:
                straight = Gateway(bench.upstream.targets["plain"].port, {"Authorization": f"Bearer {SERVER_KEY}"})
                alone[number] = (await _timed(bench, straight, number))[0]
            latencies_s, pace = await _timed(bench, gateway(peer), number)
            for figure, part in _QUANTILES.items():
                if pace is not None:
                    bench.record(Sample(figure, peer.name, transport, number, None, f"cannot: {pace:.0f}/s"))
                    continue
                through_ms, straight_ms = (quantile(values, part) * 1e3 for values in (latencies_s, alone[number]))
                details = {"through_ms": through_ms, "straight_ms": straight_ms}
                bench.record(Sample(figure, peer.name, transport, number, through_ms - straight_ms, details=details))
            # Others had bad luck perhaps.
            return pace is None or not peer.is_slow

        await bench.in_turns("added_p99_ms", transport, peers, once)


async def _timed(bench: Bench, asked: Gateway, seed: int) -> tuple[list[float], float | None]:
    """The latencies in seconds; and how many answers a second there were, if too few came in time, else None."""
    seconds = _WARM_UP_S + bench.plan.seconds
    times_s = schedule(bench.plan.rate, seconds, seed)
    load = await OpenLoop.connect(JSONClient, asked, _CONNECTIONS, bench.next_number())
    try:
        sent_before = bench.upstream.counters()
        tally = await load.run(times_s, seconds, warm_up_s=_WARM_UP_S)
        sent = difference(bench.upstream.counters(), sent_before)
    finally:
        load.close()
    check(tally, sent, "answers")
    return load.latencies_s, None if load.has_kept_up else load.pace
