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

from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import lmdb

from proxy.limits.instance import PAGE_BYTES, ReservedFile, file_system, prepare_lock_file
from proxy.limits.store import Clock

FIRST_BYTES: Final = 1024 * 1024
"""Room for some ten thousand subjects."""
MOST_STEP_BYTES: Final = 16 * 1024 * 1024
"""Giving a file so much takes some 10 ms, in which nobody is served whose account needs a new page."""
AGAIN_S: Final = 0.1
"""Between two attempts to make the file larger, where the file system has no room."""
T = TypeVar("T")


class TableFile:
    """An lmdb environment in a directory, of up to ``max_bytes``, that may grow while it is open.

    Growing ends all transactions of this process: it is for the thread that writes, between two of them. If it
    ``is_broken``, because it could not be mapped so, it has to be opened anew. Raises OSError and lmdb.Error.
    """

    def __init__(self, path: Path, clock: Clock, max_bytes: int) -> None:
        prepare_lock_file(path)
        self._clock = clock
        self._no_room: OSError | None = None
        self._again_at = 0.0
        self.is_broken = False
        self._max_bytes = max_bytes // PAGE_BYTES * PAGE_BYTES
        self._is_mapped = file_system(path) == "tmpfs"
        self._file = ReservedFile(path / "data.mdb")
        try:
            with self._file.alone():
                self.env = self._open(path)
        except BaseException:
            self._file.close()
            raise

    def _open(self, path: Path) -> lmdb.Environment:
        size = self._max_bytes
        if self._is_mapped:
            size = max(self._file.size, min(FIRST_BYTES, size))
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
                self._file.reserve(size)
            except BaseException:
                env.close()
                raise
        return env

    def tried(self, work: Callable[[], T], most_bytes: int = MOST_STEP_BYTES) -> T:
        """Do something with the table, however large it has to be; it grows by ``most_bytes`` at a time at most."""
        has_looked = False
        while True:
            try:
                return work()
            except lmdb.MapResizedError:
                self.adopt()
            except lmdb.MapFullError:
                if has_looked:
                    if not self._grow(most_bytes):
                        raise
                else:
                    # A process killed while it read keeps what it saw from being used again, until somebody looks.
                    self.env.reader_check()
                    has_looked = True

    def _grow(self, most_bytes: int) -> bool:
        """Map what another process made of the file, or make it larger; False if it is as large as it may be."""
        if not self._is_mapped or self._size >= self._max_bytes:
            return False
        now = self._clock()
        if self._no_room is not None and now < self._again_at:
            raise self._no_room
        try:
            with self._file.alone():
                size = self._file.size
                if size <= self._size:
                    size = min(self._size + min(self._size, most_bytes), self._max_bytes)
                self._map(size)
        except OSError as error:
            self._no_room = OSError(error.errno, error.strerror)
            self._again_at = now + AGAIN_S
            raise
        return True

    def adopt(self) -> None:
        """Map the file as large as another process has made it."""
        with self._file.alone():
            self._map(self._file.size if self._is_mapped else 0)

    @property
    def is_behind(self) -> bool:
        """Whether another process has made it larger."""
        return self._is_mapped and self._file.size > self._size

    def _map(self, size: int) -> None:
        if self._is_mapped:
            self._file.reserve(size)
        try:
            self.env.set_mapsize(size)
        except lmdb.Error:
            self.is_broken = True
            raise
        self._size = size

    def forsake(self) -> None:
        """In a forked child: have no part in the lock on the file, which its parent may die with."""
        self._file.close()

    def close(self) -> None:
        """Close the environment."""
        self.env.close()
        self._file.close()
