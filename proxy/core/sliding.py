"""sliding: never more than L requests in any window of length W, wherever it begins.

The account is a ring of the times of the subject's last admitted requests, oldest first. The window (L, W) has room
exactly if the L-th most recent of them is at least W ago, so one ring of max(L) times answers all windows of a rule
by one look each. Whatever a full ring drops is too old for every window (its place is beyond the largest L, and of
each window's length there are never more than its L), so giving back a charge needs nothing that is gone.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

from proxy.core.rate import Remaining, Rule, Window

MAX_LIMIT = 10_000
"""The largest L of one window: a ring holds 8 bytes for each."""


class Sliding:
    """The algorithm `sliding`: exact in every window, 8 bytes for each request of the largest L."""

    name = "sliding"

    def wait(self, account: array[float], rule: Rule, now: float) -> tuple[float, Window | None]:
        """(seconds until one more request fits into every window, the window that refuses); (0, None) if it fits."""
        length = len(account)
        worst = 0.0
        refusing: Window | None = None
        for window in rule.windows:
            limit = window.limit
            if length >= limit:
                wait = account[-limit] + window.seconds - now
                if wait > worst:
                    worst = wait
                    refusing = window
        return worst, refusing

    def charge(self, account: array[float], rule: Rule, now: float) -> None:
        """Record one admitted request."""
        surplus = len(account) - rule.capacity + 1
        if surplus > 0:
            del account[:surplus]
        account.append(now)

    def admit(self, account: array[float], rule: Rule, now: float) -> tuple[Remaining, ...] | None:
        """Record one request if it fits, and say what each window has left; None if it does not fit."""
        length = len(account)
        for _, limit, seconds in rule.windows:
            if length >= limit and account[-limit] + seconds - now > 0.0:
                return None
        self.charge(account, rule, now)
        return self.remaining(account, rule, now)

    def give_back(self, account: array[float], rule: Rule, at: float) -> bool:
        """Undo the charge made at ``at``; False if it is not there any more."""
        index = bisect_left(account, at)
        if index == len(account) or account[index] != at:
            return False
        del account[index]
        return True

    def remaining(self, account: array[float], rule: Rule, now: float) -> tuple[Remaining, ...]:
        """What each window has left. O(log L)."""
        return tuple([_remaining(account, window, now) for window in rule.windows])

    def still(self, account: array[float], rule: Rule, now: float) -> array[float]:
        """A copy of the account, without what counts no more."""
        return account[bisect_right(account, now - rule.longest_s) :]

    def last(self, account: array[float]) -> float:
        """When the account was charged last."""
        return account[-1]


def _remaining(ring: array[float], window: Window, now: float) -> Remaining:
    _, limit, seconds = window
    length = len(ring)
    begin = now - seconds
    if not length or ring[-1] <= begin:
        return Remaining(window, limit, 0.0)
    # Most rings hold nothing older than the longest window.
    first = 0 if ring[0] > begin else bisect_right(ring, begin)
    # Rules that share an account may have admitted more than this one does: its next unit comes with the L-th last.
    return Remaining(window, max(limit - length + first, 0), ring[max(first, length - limit)] - begin)


SLIDING = Sliding()
