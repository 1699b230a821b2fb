"""The file of the shared store's table, as large as need be, and mapped for writing.

lmdb writes to the pages of a tmpfs through its map, which saves a system call for each page of a commit and their
copies (measured hot: 1.1 µs instead of 3.7 for a transaction that reads and writes one account). A write to a mapped
page for which the file system has no memory is a SIGBUS. So lmdb's map ends where the file ends, and all of the file
has its memory before lmdb maps it: beyond, lmdb itself refuses, with MapFullError, and then the file grows by a step.

lmdb cuts the file to the size of the map whenever it maps it. Who maps it does so under a lock on the file, with the
size it has: it never shrinks under another process. A process killed at any instant leaves what the others mapped as
it was: what it wrote lies in pages that no transaction before reached, and which of the two headers is the last one
says a number that is written last.

Elsewhere than on a tmpfs, where a file that was given its room may still find none (those that copy on write), lmdb
writes by system calls, to a file of any size.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

from proxy.limits.instance import PAGE_BYTES, file_system, prepare_lock_file

FIRST_BYTES: Final = 1024 * 1024
"""Room for some ten thousand subjects."""
MOST_STEP_BYTES: Final = 16 * 1024 * 1024
"""Giving a file so much takes some 10 ms, in which nobody is served whose account needs a new page."""


class TableFile:
    """An lmdb environment in a directory, of up to ``max_bytes``, that may grow while it is open.

    Growing ends all transactions of this process: it is for the thread that writes, between two of them. Raises
    OSError and lmdb.Error.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        prepare_lock_file(path)
        self._max_bytes = max_bytes // PAGE_BYTES * PAGE_BYTES
        self._is_mapped = file_system(path) == "tmpfs"
        self._file = os.open(path / "data.mdb", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with self._alone():
                self.env = self._open(path)
        except BaseException:
            os.close(self._file)
            raise

    def _open(self, path: Path) -> lmdb.Environment:
        size = self._max_bytes
        if self._is_mapped:
            size = max(os.fstat(self._file).st_size, min(FIRST_BYTES, size))
        env = lmdb.open(
            str(path),
            map_size=size,
            mode=0o600,
            sync=False,  # Nothing here outlives the machine.
            metasync=False,
            readahead=False,
            writemap=self._is_mapped,
            max_spare_txns=2,
        )
        # Not before: lmdb takes a new file for one only while it is empty. So far nothing is written but by calls.
        self._size = size
        if self._is_mapped:
            try:
                self._reserve(size)
            except BaseException:
                env.close()
                raise
        return env

    def grow(self, most_bytes: int = MOST_STEP_BYTES) -> bool:
        """Map what another process has made of the file, or else make it twice as large, by ``most_bytes`` at most.

        False if it is as large as it may be.
        """
        if not self._is_mapped or self._size >= self._max_bytes:
            return False
        with self._alone():
            size = os.fstat(self._file).st_size
            if size <= self._size:
                size = min(self._size + min(self._size, most_bytes), self._max_bytes)
            self._map(size)
        return True

    def adopt(self) -> None:
        """Map the file as large as another process has made it."""
        with self._alone():
            self._map(os.fstat(self._file).st_size if self._is_mapped else 0)

    @property
    def is_behind(self) -> bool:
        """Whether another process has made it larger."""
        return self._is_mapped and os.fstat(self._file).st_size > self._size

    def _map(self, size: int) -> None:
        if self._is_mapped:
            self._reserve(size)
        self.env.set_mapsize(size)
        self._size = size

    def _reserve(self, size: int) -> None:
        """Give the file its memory up to a size. Where there is too little, it is as it was."""
        status = os.fstat(self._file)
        # Whoever was killed between opening a new file and this has left it without; nobody else had it mapped.
        start = status.st_size if status.st_blocks * 512 >= status.st_size else 0
        if start < size:
            os.posix_fallocate(self._file, start, size - start)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else maps the file meanwhile."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
