"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """Seconds on a monotonic clock; call it to read it.

    It starts far from zero, so that code which takes 0.0 for "never" is found out.
    """

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Move on. Raises ValueError for a step back, which no monotonic clock takes."""
        if seconds < 0:
            raise ValueError("a monotonic clock never goes back")
        self.now_s += seconds
