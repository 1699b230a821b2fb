"""A longer chain: from the default's four stages to twelve, all at work."""

from __future__ import annotations

from collections.abc import Mapping

from bench.curves.gateway import EVENLY, Config, Place, config, gateways
from bench.curves.load import post
from bench.curves.sampling import Plan, asking, sample
from bench.curves.verdict import Curve
from bench.request import QUESTION, SERVER_KEY

STAGES = (4, 6, 8, 10, 12)
_ADDED = ("limit", "ip_allowlist", "limit", "key")
"""The types of the stages that are added, in turn. Every second one is a limit, which costs most, so that each step
of two has one."""

_VALUES: Mapping[str, Mapping[str, object]] = {
    "limit": EVENLY,
    "ip_allowlist": {"allow": ["127.0.0.0/8"]},
    "key": {"server_keys": [SERVER_KEY], "prefer": "server"},
}


def settings(stages: int, upstream_port: int) -> Config:
    """A chain of so many stages, four at least: the ordinary ones, then more of the same types by other names."""
    sections: dict[str, object] = {}
    for number in range(stages - 4):
        kind = _ADDED[number % len(_ADDED)]
        sections[f"{kind}_{number + 2}"] = {"type": kind, **_VALUES[kind]}
    chain = ["ip_allowlist", "limit", "key", *sections, "upstream"]
    return config(upstream_port, chain=chain, stages=sections)


async def curves(place: Place, plan: Plan) -> list[Curve]:
    """The cost of a request by the length of the chain."""
    sizes = plan.some(STAGES)
    request = post(QUESTION)
    with gateways(place, {f"chain-{size}": settings(size, place.upstream_port) for size in sizes}) as started:
        series = {
            size: asking(gateway.port, lambda: request, gateway.cpu_s)
            for size, gateway in zip(sizes, started, strict=True)
        }
        points = await sample(series, plan)
    note = "Half of what is added are limits of three windows in the shared store, the rest allowlists and keys."
    return [Curve("chain", "a chain of more stages", "stages", points, note=note)]
