"""The saved state of the shared store: a file in the directory that survives a reboot, written beside the requests.

The live table stays in memory. A thread of one worker walks it by small slices, each a short transaction, and writes
what it finds to a new file, which then takes the place of the old one. Every account is as it was at one moment; no
two need the same moment. A copy by lmdb itself would be one long transaction, in which no page is used twice: at
10,000 decisions a second that fills 256 MiB in a second or two. And a file of our own is checked as a whole before
anything in it is believed, while lmdb trusts the pages it opens.

Format: ``sluice limits 1`` and a newline; for each account two little-endian sizes (2 and 4 bytes), its key, its
value (`proxy.limits.table`); a JSON object with the names of the spaces and the clocks; the place of that object
(8 bytes); the BLAKE2b digest of all before it (32 bytes).
"""

from __future__ import annotations

import json
import logging
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import lmdb

from proxy.limits import table
from proxy.limits.stamp import Stamp, shifted
from proxy.limits.store import Clock

log = logging.getLogger("sluice")

NAME = "limits.saved"
UNREADABLE = "limits.unreadable"
MAGIC = b"sluice limits 1\n"
DIGEST_BYTES = 32
INTERVAL_S = 5.0
LEAST_INTERVAL_S = 1.0
DUTY = 20
"""Saving takes at most this part of the time."""
SLICE = 200
SLICE_BYTES = 256 * 1024
PAUSE_S = 0.002
"""Between slices: the thread must not keep the worker's loop from running."""
AGAIN_S = 0.05
PATIENCE = 10
"""So often a slice is read again, so long apart."""

_SIZES = struct.Struct("<HI")
_PLACE = struct.Struct("<Q")
T = TypeVar("T")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class SnapshotError(Exception):
    """The file is no saved state that this version can read."""


class Snapshot:
    """The saved state in a directory of ours. ``clock`` is the store's, ``wall_clock`` in seconds since 1970."""

    def __init__(
        self, directory: Path, clock: Clock, wall_clock: Callable[[], float], *, boot_id: str | None = None
    ) -> None:
        self.path = directory / NAME
        self._clock = clock
        self._wall_clock = wall_clock
        self._boot_id = BOOT_ID.read_text("ascii").strip() if boot_id is None else boot_id

    def _stamp(self) -> Stamp:
        return Stamp(self._boot_id, self._clock(), self._wall_clock())

    def save(self, env: lmdb.Environment, pause: Callable[[], object] = lambda: None) -> int:
        """Write the table to the file, durably; how many accounts. ``pause`` is called between slices.

        Raises OSError and lmdb.Error; the file is then as it was.
        """
        new = self.path.with_name(f"{NAME}.{os.getpid()}.new")
        try:
            with open(os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                count = self._write(file, env, pause)
                file.flush()
                os.fsync(file.fileno())
            new.rename(self.path)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
        _sync_directory(self.path.parent)
        return count

    def _write(self, file: BinaryIO, env: lmdb.Environment, pause: Callable[[], object]) -> int:
        digest = blake2b(MAGIC, digest_size=DIGEST_BYTES)
        file.write(MAGIC)
        count = 0
        place = len(MAGIC)
        for number, part in _slices(env):
            digest.update(part)
            file.write(part)
            count += number
            place += len(part)
            pause()
        names = _read(partial(_names, env))
        # The stamp is taken last: no account was charged after it.
        end = json.dumps({"accounts": count, "spaces": names, **self._stamp()._asdict()}).encode() + _PLACE.pack(
            place
        )
        digest.update(end)
        file.write(end + digest.digest())
        return count

    def fill(self, txn: table.Txn, room_bytes: int) -> None:
        """Put the saved accounts into an empty table, up to a size, as far as they have not expired.

        A file that cannot be read is set aside, and counting starts anew. Raises OSError for a disk that fails.
        """
        try:
            with self.path.open("rb") as file:
                left_out = self._fill(txn, file, _end_of(file), room_bytes)
        except FileNotFoundError:
            return
        except SnapshotError as error:
            aside = self.path.with_name(UNREADABLE)
            self.path.rename(aside)
            log.error(
                "saved limits in %s cannot be read (%s): set aside as %s, counting anew", self.path, error, aside
            )
            return
        if left_out:
            log.warning("saved limits in %s: no room for %d subjects, which are counted anew", self.path, left_out)

    def _fill(self, txn: table.Txn, file: BinaryIO, end: _End, room_bytes: int) -> int:
        """How many had no room."""
        now = self._stamp()
        shift = end.stamp.shift(now)
        subjects: dict[int, int] = {}
        left_out = 0
        sliding = {number for number, name in end.spaces if name.endswith("/sliding")}
        for number, name in end.spaces:
            table.enter(txn, number, name)
        for index, (key, value) in enumerate(_records(file, end.place)):
            if shift:
                value = shifted(value, shift, table.number_of(key) in sliding)
            if table.expires_at(value) <= now.monotonic_s:
                continue
            if left_out or (index % 256 == 0 and table.used_bytes(txn) > room_bytes):
                left_out += 1
                continue
            txn.put(key, value, append=True)
            if key[2] != table.SHARED:
                number = table.number_of(key)
                subjects[number] = subjects.get(number, 0) + 1
        for number, count in subjects.items():
            table.Space(number, "").add(txn, count)
        return left_out


class Saver:
    """Saves the table every few seconds if it changed, in a thread, and once more at the end.

    ``env`` answers the table, which the store may open anew.
    """

    def __init__(
        self, snapshot: Snapshot, env: Callable[[], lmdb.Environment], clock: Clock, interval_s: float = INTERVAL_S
    ) -> None:
        self._snapshot = snapshot
        self._env = env
        self._clock = clock
        self._interval_s = max(interval_s, LEAST_INTERVAL_S)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="limits saver", daemon=True)
        self._saved_txn = -1
        self._is_failing = False
        self.failed = 0

    def start(self) -> None:
        """From now on, until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Save what changed since, and stop. Blocks for about a second per million accounts, and for the disk."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._save(lambda: None)

    def _run(self) -> None:
        wait_s = self._interval_s
        while not self._stop.wait(wait_s):
            began = self._clock()
            self._save(lambda: self._stop.wait(PAUSE_S))
            wait_s = max(self._interval_s, DUTY * (self._clock() - began))

    def _save(self, pause: Callable[[], object]) -> None:
        try:
            env = self._env()
            txn = env.info()["last_txnid"]
            if txn == self._saved_txn:
                return
            self._snapshot.save(env, pause)
        except (OSError, lmdb.Error) as error:
            self.failed += 1
            if not self._is_failing:
                log.error("limits cannot be saved to %s: %s", self._snapshot.path, error)
            self._is_failing = True
            return
        self._saved_txn = txn
        if self._is_failing:
            log.warning("limits are saved to %s again", self._snapshot.path)
        self._is_failing = False


class _End(NamedTuple):
    """What follows the accounts in a file."""

    place: int
    spaces: list[tuple[int, str]]
    stamp: Stamp


def _slices(env: lmdb.Environment) -> Iterator[tuple[int, bytes]]:
    """(how many accounts, their part of a file), each from a short transaction of its own."""
    position: bytes | None = table.FIRST
    while position is not None:
        count, part, position = _read(partial(_slice, env, position))
        yield count, part


def _read(read: Callable[[], T]) -> T:
    """Read from the table, once more if it grows meanwhile: whether here or in another process, that ends reading."""
    for _ in range(PATIENCE):
        with suppress(lmdb.Error):
            return read()
        threading.Event().wait(AGAIN_S)
    return read()


def _names(env: lmdb.Environment) -> list[tuple[int, str]]:
    with env.begin() as txn:
        return [(space.number, space.name) for space in table.spaces(txn)]


def _slice(env: lmdb.Environment, start: bytes) -> tuple[int, bytes, bytes | None]:
    """(how many accounts, their part of a file, where the next slice begins)"""
    parts: list[bytes] = []
    size = 0
    position = None
    with env.begin() as txn:
        for key, value in islice(table.walk(txn, start), SLICE):
            parts += (_SIZES.pack(len(key), len(value)), key, value)
            size += len(value)
            if len(parts) == 3 * SLICE or size > SLICE_BYTES:
                position = key + b"\x00"
                break
    return len(parts) // 3, b"".join(parts), position


def _end_of(file: BinaryIO) -> _End:
    """Check a file as a whole. Raises SnapshotError."""
    size = os.fstat(file.fileno()).st_size
    if file.read(len(MAGIC)) != MAGIC:
        raise SnapshotError("it does not begin as one of this version does")
    left = size - len(MAGIC) - DIGEST_BYTES
    if left < _PLACE.size:
        raise SnapshotError("it is cut short")
    digest = blake2b(MAGIC, digest_size=DIGEST_BYTES)
    while left > 0:
        part = file.read(min(left, 1024 * 1024))
        if not part:
            raise SnapshotError("it is cut short")
        digest.update(part)
        left -= len(part)
    if file.read() != digest.digest():
        raise SnapshotError("it is damaged or cut short: its digest is another")
    file.seek(size - DIGEST_BYTES - _PLACE.size)
    place = _PLACE.unpack(file.read(_PLACE.size))[0]
    file.seek(place)
    try:
        end = json.loads(file.read(size - DIGEST_BYTES - _PLACE.size - place))
        stamp = Stamp(str(end["boot_id"]), float(end["monotonic_s"]), float(end["wall_s"]))
        return _End(place, [(int(number), str(name)) for number, name in end["spaces"]], stamp)
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"its end cannot be read: {error}") from None


def _records(file: BinaryIO, place: int) -> Iterator[tuple[bytes, bytes]]:
    file.seek(len(MAGIC))
    at = len(MAGIC)
    while at < place:
        key_size, value_size = _SIZES.unpack(file.read(_SIZES.size))
        yield file.read(key_size), file.read(value_size)
        at += _SIZES.size + key_size + value_size


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
