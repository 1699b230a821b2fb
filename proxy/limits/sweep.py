"""Dropping expired accounts of the shared store, a slice at a time, beside the requests.

A slice reads a few hundred accounts, then deletes at most 64 that expired in a transaction that looks again: that is
how long a request of another process may wait for it (measured: about 0.1 ms).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final

import lmdb

from proxy.limits import table
from proxy.limits.store import Clock

MOST_READ = 400
MOST_DROPPED = 64
LOOK = 16

IDLE_S: Final = 0.1
"""Between slices while there is little to do."""
BUSY_S: Final = 0.01
"""Between slices that were full of expired accounts, or while the table is more than half full."""
CROWDED_S: Final = 0.002
"""Between slices when both are so."""
READERS_S = 1.0
"""How often to look for readers that were killed: until then they keep the pages they read from being used again."""


class Sweep:
    """One walk after the other over the table."""

    def __init__(self, clock: Clock, is_crowded: Callable[[], bool]) -> None:
        self._clock = clock
        self._is_crowded = is_crowded
        self._position = table.FIRST
        self._readers_at = clock()
        self.swept = 0

    def step(self, env: lmdb.Environment) -> float:
        """Look at one slice; in how many seconds to look at the next. Raises lmdb.Error."""
        now = self._clock()
        if now >= self._readers_at:
            self._readers_at = now + READERS_S
            env.reader_check()
        expired = self._expired(env, now)
        if expired:
            with env.begin(write=True) as txn:
                dropped = drop(txn, expired, now)
            self.swept += dropped
        if self._is_crowded():
            return CROWDED_S if len(expired) == MOST_DROPPED else BUSY_S
        return BUSY_S if len(expired) == MOST_DROPPED else IDLE_S

    def _expired(self, env: lmdb.Environment, now: float) -> list[bytes]:
        found: list[bytes] = []
        read = 0
        last = b""
        with env.begin(buffers=True) as txn:
            for key, value in islice(table.walk(txn, self._position), MOST_READ):
                read += 1
                if table.expires_at(value) <= now:
                    found.append(bytes(key))
                    if len(found) == MOST_DROPPED:
                        break
                if read == MOST_READ:
                    last = bytes(key)
        if len(found) == MOST_DROPPED:
            last = found[-1]
        self._position = last + b"\x00" if last else table.FIRST
        return found


def drop(txn: table.Txn, keys: list[bytes], now: float) -> int:
    """Delete those of the accounts that expired; how many."""
    fewer: dict[int, int] = {}
    dropped = 0
    for key in keys:
        value = txn.get(key)
        if value is not None and table.expires_at(value) <= now:
            txn.delete(key)
            dropped += 1
            if key[2] != table.SHARED:
                number = table.number_of(key)
                fewer[number] = fewer.get(number, 0) + 1
    for number, count in fewer.items():
        table.Space(number, "").add(txn, -count)
    return dropped


def make_room(txn: table.Txn, space: table.Space, now: float, kept: set[bytes]) -> int:
    """Drop expired accounts from the next few of a full space, except those in ``kept``; how many.

    Each new subject that finds no room pays for a look, so that room is found without waiting for the sweep.
    """
    read = 0
    found = []
    position = space.plain
    for key, value in islice(table.walk(txn, space.position), LOOK):
        if table.number_of(key) != space.number:
            break
        read += 1
        position = key
        if table.expires_at(value) <= now and key not in kept:
            found.append(key)
    space.position = position + b"\x00" if read == LOOK else space.plain
    return drop(txn, found, now) if found else 0
