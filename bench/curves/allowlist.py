"""A longer allowlist: clients it has seen lately, and clients it meets for the first time.

Verdicts are remembered for the last few thousand addresses, so those who come again cost the same however long the
list is. What the list itself costs is what a new address does: every request here has another one, told by a trusted
proxy, for the connections of a load have but a few.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from bench.curves.gateway import Config, Place, config, gateways
from bench.curves.load import Requests, post
from bench.curves.sampling import Plan, asking, sample
from bench.curves.verdict import Curve
from bench.request import QUESTION

NETWORKS = (10, 100, 1000, 10_000)
KNOWN = 50
"""Clients that come again and again; each was met before the measurement begins."""


def networks(count: int) -> list[str]:
    """So many different networks of 65,536 IPv4 addresses, in no order; none of loopback."""
    chosen = random.Random(count).sample(range(1 << 8, 127 << 8), count)
    return [f"{number >> 8}.{number & 255}.0.0/16" for number in chosen]


def settings(entries: Sequence[str], upstream_port: int) -> Config:
    """A gateway that admits them, and believes its peers about who they speak for."""
    return config(upstream_port, ip_allowlist={"allow": list(entries)}, trusted_proxies=["127.0.0.0/8"])


def clients(entries: Sequence[str], known: int | None) -> Requests:
    """Requests of clients in random networks of the list: so many of them in turns, or hardly one twice."""
    chance = random.Random(1)
    marker = "0.0.0.0"
    before, after = post(QUESTION, f"X-Forwarded-For: {marker}").split(marker.encode())
    prefixes = [entry.removesuffix("0.0/16").encode() for entry in entries]

    def new() -> bytes:
        host = chance.randrange(1 << 16)
        return b"%b%b%d.%d%b" % (before, chance.choice(prefixes), host >> 8, host & 255, after)

    if known is None:
        return new
    some = [new() for _ in range(known)]
    return lambda: chance.choice(some)


async def curves(place: Place, plan: Plan) -> list[Curve]:
    """The cost of a request by the number of networks."""
    lists = {count: networks(count) for count in (NETWORKS[::3] if plan.is_rough else NETWORKS)}
    wanted = {f"allowlist-{count}": settings(entries, place.upstream_port) for count, entries in lists.items()}
    found = []
    with gateways(place, wanted) as started:
        for name, who, known in (
            ("allowlist", "known clients", KNOWN),
            ("allowlist-new", "a new address each time", None),
        ):
            series = {
                count: asking(gateway.port, clients(entries, known), gateway.cpu_s)
                for (count, entries), gateway in zip(lists.items(), started, strict=True)
            }
            points = await sample(series, plan)
            found.append(Curve(name, f"more allowlist networks, {who}", "networks", points, "flat"))
    return found
