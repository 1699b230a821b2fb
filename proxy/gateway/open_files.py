"""Open files: how many a process may have, and how many clients that is enough for."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress

from proxy.wire.listener import MAX_SURPLUS

RESERVED_FILES = 64
"""Open files that are no connections: listeners, logs, libraries."""


def open_file_limit() -> int:
    """How many files this process may have open, once it has raised its own limit as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def room_for_clients(files: int) -> tuple[int, int]:
    """How many clients so many open files are enough for, and how many more that are only told there is no room.

    Each one that is served may need a second file, for its connection upstream.
    """
    reserved = min(RESERVED_FILES, files // 4)
    surplus = min(MAX_SURPLUS, files // 8)
    return max((files - reserved - surplus) // 2, 1), surplus
