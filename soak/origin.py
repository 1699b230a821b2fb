"""The upstream of the figures: keeps the book's ledger, and answers each request by what it was issued for."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from soak.answers import NONCE
from soak.book import Book
from tests.support.upstream import FakeUpstream, Received, Wire

T = TypeVar("T")


@dataclass(frozen=True)
class Asked(Generic[T]):
    """One request at the upstream."""

    nonce: str
    purpose: T
    received: Received
    random: random.Random
    later: list[Callable[[], Awaitable[None]]]
    """What the upstream does when every request of the round is answered."""


class Origin(FakeUpstream, Generic[T]):
    """``head`` is called with a head, ``whole`` with a whole request; None as purpose = nobody issued it."""

    def __init__(
        self,
        book: Book[T],
        whole: Callable[[Asked[T], Wire], Awaitable[None]],
        head: Callable[[Asked[T], Wire], Awaitable[None]] | None = None,
        *,
        seed: int = 0,
        receive_buffer: int = 0,
        send_buffer: int = 0,
    ) -> None:
        super().__init__(receive_buffer=receive_buffer, send_buffer=send_buffer)
        self._book = book
        self._whole = whole
        self._head = head
        self._random = random.Random(seed)
        self.script = self._answer
        self.early = self._begin
        self._later: list[Callable[[], Awaitable[None]]] = []
        self.strangers = 0
        """Requests that were never issued: made up or mangled on the way."""

    async def _begin(self, received: Received, wire: Wire) -> None:
        nonce = received.get("x-nonce")
        if nonce is None:  # the chat route does not pass the client's headers on
            return
        self._book.begun[nonce] += 1
        if nonce in self._book.issued and self._head is not None:
            await self._head(self._asked(nonce, received), wire)

    async def _answer(self, received: Received, wire: Wire) -> None:
        self.ledger.clear()
        found = NONCE.search(received.body)
        nonce = found[0].decode() if found else ""
        if nonce not in self._book.issued or received.get("x-nonce") not in (nonce, None):
            self.strangers += 1
            wire.reset()
            return
        self._book.receive(nonce)
        await self._whole(self._asked(nonce, received), wire)

    def _asked(self, nonce: str, received: Received) -> Asked[T]:
        return Asked(nonce, self._book.issued[nonce], received, self._random, self._later)

    async def end_round(self) -> None:
        """Do what was put off until every request of the round is answered."""
        later, self._later = self._later, []
        for act in later:
            await act()
