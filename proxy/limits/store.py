"""The interface every limit store keeps; ``tests/limits/contract.py`` is the contract suite for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from proxy.core.figure import Figure
from proxy.core.rate import Claim, Claims, Decision, Remaining

Clock = Callable[[], float]
"""Seconds on a monotonic clock."""


MOST_TAKEN = 64
"""Floats that a subject takes along from an account it shared. While there are more it stays there: copies of a ring
of thousands would be as many as there are subjects."""


class StoreError(Exception):
    """The store could not be asked, or has no room. The text names no secret."""


class Standing(NamedTuple):
    """Where a subject stands with one rule: what its windows have left, and whether the store knows it at all."""

    left: tuple[Remaining, ...]
    is_known: bool


class LimitStore(Protocol):
    """Remembers admitted requests per rule and subject, and decides on the next one, all its claims at once.

    Each method may raise `StoreError`, or its awaitable may.
    """

    async def open(self) -> None:
        """Reach what has to be reached, so that the first request need not wait for it. Raises nothing."""
        ...

    def acquire(self, claims: Claims) -> Decision | Awaitable[Decision]:
        """Admit one request and charge every claim of it, or refuse it and charge none."""
        ...

    def give_back(self, claims: Claims, decision: Decision) -> None:
        """The request that was admitted so was certainly not sent: undo its charges, as far as that is safe."""
        ...

    def standing(self, claim: Claim) -> Standing | Awaitable[Standing]:
        """Where a subject stands, without charging."""
        ...

    def reset(self, claim: Claim) -> bool | Awaitable[bool]:
        """Forget a subject; whether there was anything to forget."""
        ...

    def figures(self) -> list[Figure]:
        """What the store counts, for the metrics."""
        ...

    async def close(self) -> None:
        """Let go of what the store holds; give-backs under way come first."""
        ...
