"""The interface every limit store keeps; ``tests/limits`` holds the contract suite for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from proxy.core.rate import Decision, Remaining, Window

Clock = Callable[[], float]
"""Seconds on a monotonic clock."""


class LimitStore(Protocol):
    """Remembers admitted requests per subject and decides on the next one, all windows at once."""

    def acquire(self, subject: str, windows: tuple[Window, ...]) -> Decision | Awaitable[Decision]:
        """Admit one request and charge it in every window, or refuse it and charge nothing."""
        ...

    def remaining(self, subject: str, windows: tuple[Window, ...]) -> tuple[Remaining, ...]:
        """What each window has left for the subject, without charging. May be empty if not known cheaply."""
        ...
