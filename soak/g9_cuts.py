"""G9: an answer cut upstream at any byte, in any framing, ends for the client at once, and never looks whole."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import ClassVar

from soak.answers import FRAMINGS, MARK, stream
from soak.book import Book
from soak.caller import LIMIT_S, Leave, question
from soak.figure import Figure, Row, Size, ms, percentile
from soak.origin import Asked, Origin
from soak.process import Gateway, config
from tests.support.raw import RawClient
from tests.support.upstream import Wire

GOAL_S = 0.1
_EVENTS = 96
"""They make an answer of about four kilobytes."""


@dataclass(frozen=True)
class Plan:
    """How many cuts, of all offsets in all framings; 0 = each of them once.

    ``goal_s`` is wider where the tests of a busy machine run beside it.
    """

    cuts: int
    clients: int
    goal_s: float = GOAL_S


@dataclass
class Cut:
    """One cut: after ``offset`` bytes of an answer in one framing, by one end."""

    framing: str
    offset: int
    how: Leave
    at_s: float = 0.0
    took_s: float = field(default=float("inf"))
    fault: str = ""


def answer(nonce: str, framing: str) -> bytes:
    """The answer that is cut."""
    return b"".join(stream(nonce, framing, _EVENTS))


async def cut(asked: Asked[Cut], wire: Wire) -> None:
    """Send as much as there is to be, then end."""
    how = asked.purpose
    await wire.send(answer(asked.nonce, how.framing)[: how.offset])
    # The gateway is to have read it: a reset would overtake it, and the offset would not be the one meant.
    await asyncio.sleep(0.002)
    how.at_s = time.perf_counter()
    wire.close() if how.how is Leave.FIN else wire.reset()


def all_cuts(seed: int) -> list[Cut]:
    """Every offset in every framing, by FIN or by reset in turns, in an order of chance."""
    size = {framing: len(answer(f"n{0:08x}-{0:07d}", framing)) for framing in FRAMINGS}
    hows = list(Leave)
    found = [
        Cut(framing, offset, hows[(offset + turn + seed) % 2])
        for turn, framing in enumerate(FRAMINGS)
        for offset in range(size[framing])
    ]
    random.Random(seed).shuffle(found)
    return found


def is_edge(offset: int) -> bool:
    """Whether something begins or ends about here: the head, or the last events. A part of all cuts has them all."""
    return offset < 3 or 90 < offset < 140 or offset > 4000


class Cuts(Figure[Plan]):
    """Each cut is one request on a connection of its own."""

    name = "G9"
    about = "an answer cut upstream ends at once for the client, and never looks whole"
    plans: ClassVar[Mapping[Size, Plan]] = {"full": Plan(0, 16), "quick": Plan(300, 8), "test": Plan(120, 8, 0.5)}

    async def run(self) -> list[Row]:
        """All cuts."""
        cuts = all_cuts(self.seed)
        if self.plan.cuts:
            edges = [each for each in cuts if is_edge(each.offset)][: self.plan.cuts // 3]
            cuts = (edges + [each for each in cuts if not is_edge(each.offset)])[: self.plan.cuts]
        book: Book[Cut] = Book(self.seed)
        origin = Origin(book, cut, seed=self.seed)
        await origin.start()
        try:
            async with Gateway(config(origin.port)) as gateway:
                left = iter(cuts)

                async def work() -> None:
                    for each in left:
                        await self._one(gateway.port, book, each)

                await asyncio.gather(*(work() for _ in range(self.plan.clients)))
                await gateway.state()
        finally:
            await origin.stop()
        return self._rows(cuts)

    async def _one(self, port: int, book: Book[Cut], each: Cut) -> None:
        nonce = book.issue(each)
        client = await RawClient.connect(port)
        try:
            async with asyncio.timeout(LIMIT_S):
                await client.send(question(nonce))
                outcome = await client.outcome("POST")
            each.took_s = max(0.0, time.perf_counter() - each.at_s)
            answer = outcome.answer
            if outcome.is_whole and answer is not None and answer.status < 400 and MARK not in answer.body:
                each.fault = "looks whole without its terminal event"
        except TimeoutError:
            each.fault = "no end"
        finally:
            client.close()

    def _rows(self, cuts: list[Cut]) -> list[Row]:
        for framing, how in product(FRAMINGS, Leave):
            some = [each for each in cuts if each.framing == framing and each.how is how]
            looks_whole = sum(bool(each.fault) for each in some)
            worst = percentile([each.took_s for each in some], 0.99)
            self.say(f"  {framing:8} {how.value}: {len(some)} cuts, {looks_whole} wrong, p99 {ms(worst)}")
        wrong = [each for each in cuts if each.fault]
        p99_s = percentile([each.took_s for each in cuts], 0.99)
        counts = f"{len(cuts)} cuts, {len(FRAMINGS)} framings, FIN and RST"
        evidence = tuple(
            f"{each.framing}, {each.how.value} after {each.offset} bytes: {each.fault}" for each in wrong[:5]
        )
        soon = f"end at the client p99 <= {ms(self.plan.goal_s)}"
        return [
            Row(self.name, "0 cut answers that look whole", str(len(wrong)), counts, not wrong, evidence),
            Row(self.name, soon, ms(p99_s), counts, p99_s <= self.plan.goal_s),
        ]
