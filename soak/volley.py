"""Many calls of one client released together on many connections, and who was let through."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from soak.lane import Lane, Seen, post
from soak.ledger import Ledger

ADMITTED, REFUSED = 200, 429
LIMIT_S = 60.0
"""A call that has no answer after this is lost."""


@dataclass
class Outcome:
    """What became of the calls: how many of each status, and the bodies of those that were let through."""

    statuses: Counter[int] = field(default_factory=Counter)
    admitted: list[bytes] = field(default_factory=list)

    def told(self, body: bytes) -> Seen:
        """Notes the answer to the call with this body."""

        def seen(status: int, answer: bytes) -> None:
            self.statuses[status] += 1
            if status == ADMITTED:
                self.admitted.append(body)

        return seen


def faults(limit: int, calls: int, outcome: Outcome, ledger: Counter[bytes]) -> list[str]:
    """What is wrong, judged by what the clients were told and by what the upstream got."""
    found = []
    admitted = outcome.statuses[ADMITTED]
    if admitted != limit:
        found.append(f"{admitted} admitted, {admitted - limit:+d}")
    if ledger.total() != limit:
        found.append(f"{ledger.total()} at the upstream, {ledger.total() - limit:+d}")
    if ledger != Counter(outcome.admitted):
        found.append("the upstream got others than were let through")
    others = {status: n for status, n in outcome.statuses.items() if status not in (ADMITTED, REFUSED)}
    if others or outcome.statuses.total() != calls:
        lost = calls - outcome.statuses.total()
        found.append(f"answers other than {ADMITTED} and {REFUSED}: {others}, {lost} without an answer")
    return found


async def volley(
    lanes: Sequence[Lane], ledger: Ledger, client_ip: str, name: str, calls: int, choose: random.Random
) -> tuple[Outcome, Counter[bytes]]:
    """Release so many calls in one moment, each on a lane chosen at random; what was told, and what arrived.

    No call waits for the answer to another: all of them are written before any answer is read. Raises TimeoutError.
    """
    outcome = Outcome()
    loads: dict[Lane, list[bytes]] = {}
    for number in range(calls):
        loads.setdefault(choose.choice(lanes), []).append(b'{"call": "%b-%06d"}' % (name.encode(), number))
    written = [(lane, b"".join([post(client_ip, body) for body in bodies]), bodies) for lane, bodies in loads.items()]
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    left = calls

    def counted(seen: Seen) -> Seen:
        def one_more(status: int, answer: bytes) -> None:
            nonlocal left
            seen(status, answer)
            left -= 1
            if not left and not done.done():
                done.set_result(None)

        return one_more

    for lane, requests, bodies in written:
        lane.send([requests], [counted(outcome.told(body)) for body in bodies])
    async with asyncio.timeout(LIMIT_S):
        await done
    return outcome, ledger.take(b'{"call": "%b' % name.encode())
