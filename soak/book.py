"""The book: which request was issued, what the upstream's ledger has of it, how it ended for its client, and whether
the three agree."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from soak.answers import MARK, NONCE
from tests.support.raw import Answer, Outcome

SAYS = ("no", "unknown", "yes")
T = TypeVar("T")


class End(Enum):
    """How a request ended for its client."""

    OK = "whole"
    PASSED = "upstream's error"
    ERROR = "our error"
    CUT = "cut"
    LEFT = "client left"
    SHORT = "short but clean"
    FOREIGN = "another's answer"
    MUTE = "error without a word on billing"
    HUNG = "no end"


NEVER = frozenset({End.SHORT, End.FOREIGN, End.MUTE, End.HUNG})
"""Ends that are never right: an answer lost without notice, mixed up, or not telling."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client of one request saw. ``said`` is what an error of ours said about billing."""

    nonce: str
    end: End
    status: int = 0
    said: str = ""


def classify(nonce: str, outcome: Outcome) -> Seen:
    """What an outcome means for the request ``nonce``."""
    answer = outcome.answer
    if answer is None or not outcome.is_whole:
        return Seen(nonce, End.CUT, answer.status if answer else 0)
    named = NONCE.findall(answer.body)
    if any(name != nonce.encode() for name in named):
        return Seen(nonce, End.FOREIGN, answer.status)
    if answer.status >= 400:
        return Seen(nonce, *_error(answer, is_named=bool(named)))
    return Seen(nonce, End.OK if named and MARK in answer.body else End.SHORT, answer.status)


def _error(answer: Answer, *, is_named: bool) -> tuple[End, int, str]:
    said = answer.get("x-sluice-upstream-sent")
    if said is not None:
        return (End.ERROR if said in SAYS else End.MUTE), answer.status, said
    return (End.PASSED if is_named else End.MUTE), answer.status, ""


class Book(Generic[T]):
    """Numbers requests, and keeps what is known of each. ``T`` is what a request was issued for."""

    def __init__(self, seed: int) -> None:
        self._prefix = f"n{seed & 0xFFFFFFFF:08x}"
        self._number = 0
        self.issued: dict[str, T] = {}
        self.begun: Counter[str] = Counter()
        """Heads that the upstream has seen."""
        self.received: Counter[str] = Counter()
        """The ledger: requests that the upstream has fully received."""
        self.seen: list[Seen] = []
        self._arrivals: dict[str, asyncio.Event] = {}

    def issue(self, purpose: T) -> str:
        """The nonce of a new request."""
        self._number += 1
        nonce = f"{self._prefix}-{self._number:07d}"
        self.issued[nonce] = purpose
        return nonce

    def arrival(self, nonce: str) -> asyncio.Event:
        """Set when the upstream has the request."""
        return self._arrivals.setdefault(nonce, asyncio.Event())

    def receive(self, nonce: str) -> None:
        """Note a fully received request."""
        self.received[nonce] += 1
        self.arrival(nonce).set()

    def close(self, judge: Callable[[Seen], Iterable[str]] | None = None) -> Verdict:
        """Judge everything since the last call, and begin a new page. To be called when nothing is under way."""
        verdict = Verdict()
        for seen in self.seen:
            verdict.ends[seen.end] += 1
            for what in (*self.violations(seen), *(judge(seen) if judge else ())):
                verdict.note(what, seen, self.received[seen.nonce])
        for nonce in self.issued.keys() - {seen.nonce for seen in self.seen}:
            verdict.note("the client was told nothing", Seen(nonce, End.HUNG), self.received[nonce])
        verdict.requests = len(self.issued)
        for page in (self.issued, self.begun, self.received, self.seen, self._arrivals):
            page.clear()
        return verdict

    def violations(self, seen: Seen) -> Iterable[str]:
        """What is wrong with a request, whatever it was issued for."""
        count = self.received[seen.nonce]
        if count > 1:
            yield "duplicated"
        if seen.end in NEVER:
            yield seen.end.value
        if seen.end is End.OK and not count:
            yield "answered but not in the ledger"
        if seen.said == "no" and (count or self.begun[seen.nonce]):
            yield "upstream-sent: no, but it was"


@dataclass
class Verdict:
    """What came of the requests of one page."""

    requests: int = 0
    ends: Counter[End] = field(default_factory=Counter)
    violations: Counter[str] = field(default_factory=Counter)
    evidence: list[str] = field(default_factory=list)

    def note(self, what: str, seen: Seen, received: int) -> None:
        """Write a violation down; the first few with all that is known."""
        self.violations[what] += 1
        if self.violations[what] <= 2:
            said = f", says {seen.said}" if seen.said else ""
            self.evidence.append(
                f"{what}: {seen.nonce} ended {seen.end.value!r} ({seen.status}{said}), {received} in the ledger"
            )

    def add(self, other: Verdict) -> None:
        """Take another page in."""
        self.requests += other.requests
        self.ends.update(other.ends)
        self.violations.update(other.violations)
        self.evidence.extend(other.evidence)

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {end.value}" for end, count in self.ends.most_common())
        wrong = ", ".join(f"{count} × {what}" for what, count in self.violations.most_common())
        return f"{self.requests} requests: {ends}" + (f"; WRONG: {wrong}" if wrong else "")
