"""More header lines: on requests up to the most the gateway takes, on those it refuses for it, and on answers."""

from __future__ import annotations

import asyncio
from functools import partial

from bench.curves.gateway import Place, config, gateways
from bench.curves.load import CONNECTIONS, Requests, get, numbered, refusals
from bench.curves.sampling import Plan, Series, asking, sample
from bench.curves.upstream import FEWEST_LINES
from bench.curves.verdict import Curve
from proxy.wire.head import MAX_FIELDS

MOST = 500
FORWARDED = tuple(sorted({2, 10, 25, 50, min(MAX_FIELDS, MOST)}))
"""Lines of a request, of which one is another each time: else a short head would be known from the last time, and a
long one not. The gateway refuses more."""
REFUSED = tuple(lines for lines in (MAX_FIELDS + 1, 200, 350, MOST) if lines > MAX_FIELDS)
ANSWERED = (FEWEST_LINES, 10, 50, 150, MOST)
"""Lines of an answer."""


def _always(request: bytes) -> Requests:
    return lambda: request


async def _refused(port: int, request: bytes, seconds: float) -> int:
    return sum(await asyncio.gather(*(refusals(port, request, seconds) for _ in range(CONNECTIONS))))


async def curves(place: Place, plan: Plan) -> list[Curve]:
    """The cost of a request by its header lines, and by those of its answer."""
    with gateways(place, {"headers": config(place.upstream_port)}) as (gateway,):
        port, cpu_s = gateway.port, gateway.cpu_s
        sizes = {lines: asking(port, numbered(get(lines)), cpu_s) for lines in plan.some(FORWARDED)}
        note = "No head is the same as one before: what is measured is the reading, and not whether it is remembered."
        found = [Curve("headers", "more header lines on a request", "lines", await sample(sizes, plan), note=note)]
        if REFUSED:
            sizes = {lines: Series(partial(_refused, port, get(lines)), cpu_s) for lines in plan.some(REFUSED)}
            note = (
                f"More than {MAX_FIELDS} lines are answered with a 431, and the connection ends: each has a new one."
            )
            title = "more header lines than the gateway takes"
            found.append(Curve("headers-refused", title, "lines", await sample(sizes, plan), note=note))
        sizes = {lines: asking(port, _always(get(1, f"/v1/lines/{lines}")), cpu_s) for lines in plan.some(ANSWERED)}
        found.append(Curve("headers-answer", "more header lines on an answer", "lines", await sample(sizes, plan)))
    return found
