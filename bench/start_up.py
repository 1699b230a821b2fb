"""Start-up: from the start of the process to the first answer it forwarded."""

from __future__ import annotations

import asyncio

from bench.section import Bench, Sample, Section


class StartUp(Section):
    """The peers take turns, and nothing else runs meanwhile. Of slow ones their first start counts, and that only."""

    name = "start_up"
    transports = quick_transports = ("plain",)

    async def measure(self, bench: Bench, transport: str) -> None:
        """Seconds."""
        bench.stop_fleet()
        for number in range(1, bench.plan.starts + 1):
            for kind in bench.kinds:
                if kind.is_slow and number > 1:
                    continue
                took_s = bench.first_start_s(kind, transport) if kind.is_slow else None
                if took_s is not None:
                    bench.record(Sample("start_s", kind.name, transport, number, took_s))
                    continue
                try:
                    peer, took_s = bench.start(kind, transport)
                except (RuntimeError, OSError) as error:
                    bench.trouble_with("start_s", kind.name, transport, error)
                    continue
                bench.record(Sample("start_s", kind.name, transport, number, took_s))
                bench.stop(peer)
                await asyncio.sleep(0.1)
