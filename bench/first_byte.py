"""How soon a stream begins while many others are open."""

from __future__ import annotations

import asyncio

from bench.client import SSEClient
from bench.held import Held
from bench.open_loop import OpenLoop, quantile, schedule
from bench.peers.peer import Peer
from bench.section import Bench, Sample, Section, check, difference, gateway
from bench.upstream import Mode

_OPEN = Mode(events=0, interval_s=1.0, at_once=True)
_PROBE = Mode(events=10, at_once=True)
_CONNECTIONS = 64
_WARM_UP_S = 0.5
RATE = 200
SLOW_RATE = 10
_QUANTILES = {"first_byte_p50_ms": 0.5, "first_byte_p99_ms": 0.99}


class _Prober(SSEClient):
    expected = _PROBE.events


class FirstByte(Section):
    """Time from the planned sending to the first event: some gateways send the head before they have an answer."""

    name = "first_byte"
    quick_transports = ("plain",)

    async def measure(self, bench: Bench, transport: str) -> None:
        """The median and the 99th percentile, beside open streams with an event a second each."""

        async def once(peer: Peer, number: int) -> None:
            latencies_s, pace = await _probed(bench, peer, number)
            for figure, part in _QUANTILES.items():
                if pace is not None:
                    bench.record(Sample(figure, peer.name, transport, number, None, f"cannot: {pace:.0f}/s"))
                    continue
                details = {"streams": len(latencies_s), "rate": rate(peer)}
                value = quantile(latencies_s, part) * 1e3
                bench.record(Sample(figure, peer.name, transport, number, value, details=details))

        await bench.in_turns("first_byte_p99_ms", transport, bench.fleet(transport), once, slow_rounds=1)


def rate(peer: Peer) -> int:
    """How many streams a second are asked of it beside those that are open."""
    return SLOW_RATE if peer.is_slow else RATE


async def _probed(bench: Bench, peer: Peer, seed: int) -> tuple[list[float], float | None]:
    """The times in seconds; and how many began a second, if some were never asked for as too few did, else None."""
    # The connections to the upstream that carry the others are taken: the first probes need new ones.
    seconds = _WARM_UP_S + bench.plan.seconds
    times_s = schedule(rate(peer), seconds, seed)
    held = Held(gateway(peer), bench.next_number())
    probes = await OpenLoop.connect(_Prober, gateway(peer), _CONNECTIONS, bench.next_number())
    sent_before = bench.upstream.counters()
    try:
        bench.upstream.stream(_OPEN)
        await held.open(bench.plan.streams)
        await asyncio.sleep(bench.plan.settle_s)
        bench.upstream.stream(_PROBE)
        tally = await probes.run(times_s, seconds, warm_up_s=_WARM_UP_S)
        bench.upstream.finish()
        held_tally = await held.ended()
    finally:
        # A gateway that failed may still hold streams that would never end.
        bench.upstream.finish()
        bench.upstream.stream()
        held.close()
        probes.close()
    sent = difference(bench.upstream.counters(), sent_before)
    pace = probes.pace if probes.dropped else None
    tally.answers += held_tally.answers
    tally.events += held_tally.events
    check(tally, sent, "streams")
    return probes.latencies_s, pace
