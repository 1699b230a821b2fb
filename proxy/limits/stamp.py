"""When a state of limits was saved, and what its times are on the clock of another day."""

from __future__ import annotations

from array import array
from typing import NamedTuple


class Stamp(NamedTuple):
    """When a state was saved. No charge in it is later than ``monotonic_s``."""

    boot_id: str
    monotonic_s: float
    wall_s: float

    def shift(self, now: Stamp) -> float:
        """What to add to times of then, to have them on the clock of now.

        After a reboot the monotonic clock began anew: the wall clock says what has passed, but never less than
        nothing.
        """
        if self.boot_id == now.boot_id and self.monotonic_s <= now.monotonic_s:
            return 0.0
        return now.monotonic_s - max(now.wall_s - self.wall_s, 0.0) - self.monotonic_s


def shifted(value: bytes, seconds: float, is_sliding: bool) -> bytes:
    """An account on another clock. Of `gcra` the first float is a time, and the last, when the account expires."""
    account = array("d", value)
    if is_sliding:
        return array("d", [time + seconds for time in account]).tobytes()
    account[0] += seconds
    account[-1] += seconds
    return account.tobytes()
