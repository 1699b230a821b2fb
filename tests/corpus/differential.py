"""The same bytes to us and to others: what we accept they read alike, what a proxy hands on we count alike."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

from tests.corpus.cases import load
from tests.support.corpus import Case, Lane, Outcome, Reading, Tier, Verdict, Way, canary, gateway_lane
from tests.support.peers import Peer, exchange, in_front_of, peers

PROXIES = ("nginx", "haproxy")
STRICT_PEERS = 2
"""So many must read whatever we accept as we do, lists or no lists."""
_CHAIN_PATIENCE_S = 2.0
_CANARY = Reading("POST", "/v1/canary-0", b"canary")


@dataclass
class Comparison:
    """What others made of the cases we accepted."""

    compared: int = 0
    agreed: Counter[str] = field(default_factory=Counter)
    listed: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def known_differences() -> dict[tuple[str, str], str]:
    """(case, peer) → why that peer reads the case differently, or not at all."""
    return {(entry["case"], peer): entry["reason"] for entry in load("differences.yaml") for peer in entry["peers"]}


def accepted(verdicts: Sequence[Verdict]) -> list[tuple[Case, Outcome]]:
    """The cases of which something was forwarded, and what."""
    return [(verdict.case, outcome) for verdict in verdicts if (outcome := verdict.outcomes[Way.WHOLE]).seen]


async def compare(verdicts: Sequence[Verdict], proxies: Sequence[str] = ()) -> Comparison:
    """Give every accepted case to h11, Tornado and these proxies.

    A fault is a difference that is not listed, one that is listed and is not there, and fewer than two that agree.
    """
    cases = accepted(verdicts)
    known = known_differences()
    result = Comparison(compared=len(cases))
    async with peers(*proxies) as found, asyncio.TaskGroup() as group:
        tasks = [group.create_task(_differences(peer, cases, known)) for peer in found]
    alike = Counter({case.name: len(tasks) for case, _ in cases})
    for peer, task in zip(found, tasks, strict=True):
        different = task.result()
        result.agreed[peer.name] = len(cases) - len(different)
        for name, difference in different.items():
            alike[name] -= 1
            if (name, peer.name) in known:
                result.listed[peer.name] += 1
            else:
                result.faults.append(f"{name}: {peer.name} differs: {difference}")
        result.faults += [
            f"{name}: {peer.name} is listed as different, and is not"
            for name, listed in known
            if listed == peer.name and name in alike and name not in different
        ]
    enough = STRICT_PEERS if len(tasks) > STRICT_PEERS else 1
    result.faults += [
        f"{name}: only {count} others read it as we do" for name, count in alike.items() if count < enough
    ]
    return result


async def _differences(
    peer: Peer, cases: Sequence[tuple[Case, Outcome]], known: Container[tuple[str, str]]
) -> dict[str, str]:
    different = {}
    for case, outcome in cases:
        ours = outcome.seen + [_CANARY] * outcome.canaries
        data = case.data + (b"" if case.tier is Tier.WAITS else canary(0))
        theirs = await peer.read(data, 0 if (case.name, peer.name) in known else len(ours))
        if theirs[: len(ours)] != ours:
            different[case.name] = f"we read {ours}, it reads {theirs}"
    return different


@dataclass
class Chained:
    """What came of the cases behind a proxy."""

    name: str
    sent: int = 0
    passed_on: int = 0
    faults: list[str] = field(default_factory=list)


async def chain(name: str, cases: Sequence[Case]) -> Chained:
    """Send every case to a proxy in front of the gateway; both must count the same number of requests.

    The proxy has handed on as many as it has handed answers of the gateway back: each of those has our request id.
    """
    result = Chained(name, len(cases))
    async with gateway_lane() as lane, in_front_of(lane, name) as port:
        for case in cases:
            result.faults += [f"{case.name}: behind {name} {fault}" for fault in await _chained(lane, port, case)]
        result.passed_on = sum(entry.target != _CANARY.target for entry in lane.upstream.ledger)
    return result


async def _chained(lane: Lane, port: int, case: Case) -> list[str]:
    answered, seen = lane.answered, len(lane.upstream.ledger)

    def counted() -> int:
        return lane.answered - answered

    data = case.data + (b"" if case.tier is Tier.WAITS else canary(0))
    got = await exchange(port, data, lambda got: _answers_in(got) == counted(), _CHAIN_PATIENCE_S)
    faults = lane.upstream.faults[:]
    lane.upstream.faults.clear()
    if not await _becomes(counted, _answers_in(got)):
        faults.append(f"{_answers_in(got)} requests were handed on, and the gateway counts {counted()}")
    entries = lane.upstream.ledger[seen:]
    canaries = [entry for entry in entries if entry.target == _CANARY.target]
    if len(canaries) > 1 or any(entry.body != b"canary" for entry in canaries):
        faults.append(f"the canary was forwarded as {canaries}")
    hidden = {"/v1/x", "/v1/hidden", "/v1/other"} - {reading.target for reading in case.readings}
    return faults + [f"{entry.target} was forwarded" for entry in entries if entry.target in hidden]


def _answers_in(got: bytes) -> int:
    """How many answers of the gateway's are in there. A proxy answers HTTP/0.9 without a head: its body is left."""
    return got.lower().count(b"\r\nx-sluice-request-id: ") or int(got.startswith((b"{", b"ok")))


async def _becomes(count: Callable[[], int], wanted: int) -> bool:
    """Whether a count is what it should be before long: that a client left has two servers to go through."""
    for _ in range(200):
        if count() == wanted:
            return True
        await asyncio.sleep(0.01)
    return False
