"""Longer prompts: request bodies of 1 KiB to 10 MiB."""

from __future__ import annotations

from bench.curves.gateway import Place, config, gateways
from bench.curves.load import CONNECTIONS, post
from bench.curves.sampling import Plan, Series, asking, sample
from bench.curves.verdict import Curve

KIB = (1, 10, 100, 1024, 10_240)
_FRAME = b'{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"%b"}]}'


def prompt(kib: int) -> bytes:
    """A question of so many KiB exactly, in JSON."""
    return _FRAME % (b"a" * (kib * 1024 - len(_FRAME % b"")))


async def curves(place: Place, plan: Plan) -> list[Curve]:
    """The cost of a request by the length of its prompt."""
    with gateways(place, {"prompts": config(place.upstream_port)}) as (gateway,):
        series: dict[int, Series] = {}
        for kib in plan.some(KIB):
            request = post(prompt(kib))
            # The longest ones a few at a time: sixteen would only wait in sockets.
            connections = 4 if kib >= 1024 else CONNECTIONS
            series[kib] = asking(gateway.port, lambda r=request: r, gateway.cpu_s, connections=connections)  # type: ignore[misc]
        points = await sample(series, plan)
    return [Curve("prompts", "longer prompts", "KiB", points, per="KiB")]
