"""gcra: requests evenly spaced, any limit, one number a window (the generic cell rate algorithm, ITU-T I.371).

A window (L, W) admits one request every W / L seconds, and ``burst`` of them at once after a pause. In any interval
of t seconds that is never more than burst + t · L / W, so in any W never more than L + burst - 1 (half-open; with
burst 1 never more than L). That holds to the resolution of the clock, however long it runs.

The account is the time of the last charge, then for each window what its bucket held just after it: each request
fills in W, and L leak out in a second. In these units, other than in arrival times, the sums of a burst are whole
numbers: where W / L is not a float, as at 10 a second, steps of it would not add up to the burst that is promised,
and at a million a second they would be off by the grain of the clock each time.
"""

from __future__ import annotations

from array import array
from itertools import repeat

from proxy.core.rate import Remaining, Rule, Window, make


class Gcra:
    """The algorithm `gcra`: smooth, and as small for a million requests an hour as for one."""

    name = "gcra"

    def wait(self, account: array[float], rule: Rule, now: float) -> tuple[float, Window | None]:
        """(seconds until one more request fits into every window, the window that refuses); (0, None) if it fits."""
        worst = 0.0
        refusing: Window | None = None
        if account:
            since = max(now - account[0], 0.0)
            for (window, limit, seconds, burst), held in zip(rule.buckets, account[1:], strict=True):
                wait = (held - since * limit - (burst - 1.0) * seconds) / limit
                # Whoever waited as told, to the next time that the clock can tell, need not wait again.
                if wait > worst and now + wait > now:
                    worst = wait
                    refusing = window
        return worst, refusing

    def charge(self, account: array[float], rule: Rule, now: float) -> None:
        """Record one admitted request."""
        if not account:
            account.extend([0.0] * (1 + len(rule.windows)))
            account[0] = now
        since = max(now - account[0], 0.0)
        account[0] = now
        for index, (_, limit, seconds) in enumerate(rule.windows, 1):
            account[index] = max(account[index] - since * limit, 0.0) + seconds

    def admit(self, account: array[float], rule: Rule, now: float) -> tuple[Remaining, ...] | None:
        """Record one request if it fits, and say what could still be sent at once; None if it does not fit."""
        helds = iter(account)
        last = next(helds, None)
        since = 0.0
        if last is None:
            helds = repeat(0.0)
        elif now > last:
            since = now - last
        charged = [now]
        left = []
        for (window, limit, seconds, burst), held in zip(rule.buckets, helds, strict=False):
            held -= since * limit
            over = held - (burst - 1.0) * seconds
            if over > 0.0 and now + over / limit > now:
                return None
            held = held + seconds if held > 0.0 else seconds
            charged.append(held)
            left.append(_remaining(held, window, limit, seconds, burst, now))
        account[:] = array("d", charged)
        return tuple(left)

    def give_back(self, account: array[float], rule: Rule, at: float) -> bool:
        """Undo the charge made at ``at``, if nothing was admitted since; else False.

        One number does not tell how much of that unit has leaked away since then, and giving back more than is left
        of it would let more through than is promised. It leaks away by itself within burst · W / L seconds.
        """
        if not account or account[0] != at:
            return False
        for index, window in enumerate(rule.windows, 1):
            account[index] -= window.seconds
        return True

    def remaining(self, account: array[float], rule: Rule, now: float) -> tuple[Remaining, ...]:
        """What could be sent at once."""
        since = max(now - account[0], 0.0) if account else 0.0
        helds = account[1:] if account else repeat(0.0)
        return tuple(
            [
                _remaining(held - since * limit, window, limit, seconds, burst, now)
                for (window, limit, seconds, burst), held in zip(rule.buckets, helds, strict=False)
            ]
        )

    def still(self, account: array[float], rule: Rule, now: float) -> array[float]:
        """A copy of the account: it has no more than a number a window."""
        return account[:]

    def last(self, account: array[float]) -> float:
        """When the account was charged last."""
        return account[0]


def _remaining(held: float, window: Window, limit: float, seconds: float, burst: float, now: float) -> Remaining:
    units = burst - held / seconds
    room = int(units) if units > 0.0 else 0
    reset_s = (held - (burst - room - 1.0) * seconds) / limit
    if now + reset_s <= now:
        room += 1
        reset_s += seconds / limit
    return make(Remaining, (window, room, reset_s) if room < burst else (window, int(burst), 0.0))


GCRA = Gcra()
