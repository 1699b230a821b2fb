"""Window arithmetic: never more than L requests in any window of length W, wherever it begins.

One ring holds the times of a subject's last admitted requests, oldest first. The window (L, W) has room exactly
if the L-th most recent of them is at least W ago, so one ring of max(L) times answers all windows of a subject
by one look each.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import NamedTuple

MAX_LIMIT = 10_000
"""The largest L of one window: a ring holds 8 bytes for each."""


class Window(NamedTuple):
    """At most ``limit`` requests in any ``seconds`` seconds."""

    name: str
    limit: int
    seconds: int


class Decision(NamedTuple):
    """What a store answers for one request.

    ``retry_after_s`` is 0 when allowed, else the time until the same request would be admitted. ``overflow`` is
    true when the subject shares the bucket of those for which the store had no room.
    """

    allowed: bool
    retry_after_s: float = 0.0
    window: Window | None = None
    overflow: bool = False


class Remaining(NamedTuple):
    """How many requests a window still admits, and in how many seconds the next unit comes back."""

    window: Window
    remaining: int
    reset_s: float


ALLOWED = Decision(True)


def decide(ring: array[float], windows: tuple[Window, ...], now: float) -> Decision:
    """Whether one more request fits into every window now. Charges nothing."""
    length = len(ring)
    worst = 0.0
    refusing: Window | None = None
    for window in windows:
        if length >= window.limit:
            wait = ring[-window.limit] + window.seconds - now
            if wait > worst:
                worst = wait
                refusing = window
    if refusing is None:
        return ALLOWED
    return Decision(False, worst, refusing)


def charge(ring: array[float], capacity: int, now: float) -> None:
    """Record one admitted request; ``capacity`` is the largest limit of the windows."""
    if len(ring) >= capacity:
        del ring[0]
    ring.append(now)


def remaining(ring: array[float], window: Window, now: float) -> Remaining:
    """What ``window`` has left. O(log L)."""
    _, limit, seconds = window
    length = len(ring)
    begin = now - seconds
    if not length or ring[-1] <= begin:
        return Remaining(window, limit, 0.0)
    # Most rings hold nothing older than the longest window.
    first = 0 if ring[0] > begin else bisect_right(ring, begin)
    return Remaining(window, max(limit - length + first, 0), ring[first] - begin)
