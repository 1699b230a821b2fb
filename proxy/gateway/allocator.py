"""What the C library's allocator is told of the work of a worker."""

from __future__ import annotations

import ctypes

_M_MMAP_THRESHOLD = -3  # <malloc.h>
LARGE_BYTES = 131_072
"""From here on a block has pages of its own."""


def map_large_blocks() -> None:
    """Have glibc map every large block by itself for good, and not only until the first such is freed (mallopt(3)).

    uvloop has 256 KiB for each TLS connection, of which a stream touches the first page. Out of the heap they would
    begin where the handshake before has left its used pages: measured, that is 6 KiB more for each stream.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
    except (AttributeError, OSError, TypeError):
        # Only glibc has it.
        return
