"""The private directory of one running gateway for its shared limits, and what others left behind.

``/dev/shm/sluice-<uid>/limits-<random>/``: memory, ours alone (0700), made by the supervisor and removed by it at
the end. A lock on the file ``owner`` in it tells a living gateway from a killed one; the kernel lets go of it when
the supervisor and the workers it forked are gone. What is left of killed ones is removed at the next start.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")
MOST_BYTES: Final = 256 * 1024 * 1024
"""The size of a table nobody gave a size."""
LEAST_BYTES: Final = 1024 * 1024
PAGE_BYTES: Final = 4096
LOCK_BYTES: Final = 32 * 1024
"""lmdb's lock file: a place of 64 bytes for each transaction that reads, so about 500 of them."""

MORE_ROOM = (
    "make it larger (Docker: `--shm-size 512m`, Compose: `shm_size: 512m`, Kubernetes: an emptyDir with "
    "`medium: Memory` mounted there)"
)

PREFIX = "limits-"
OWNER = "owner"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Instance:
    """The directory of this gateway, ours until `close`. ``warning`` says what is amiss with it, if anything."""

    def __init__(self, path: Path, owner: int, warning: str) -> None:
        self.path = path
        self.warning = warning
        self._owner = owner
        self._pid = os.getpid()

    @property
    def descriptor(self) -> int:
        """The open file that says it is ours, for the workers to keep: a state must not outlive its owner's lock."""
        return self._owner

    def close(self) -> None:
        """Remove the directory. In a forked child: nothing."""
        if self._owner >= 0 and os.getpid() == self._pid:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._owner)
            self._owner = -1

    def __repr__(self) -> str:
        return f"<Instance {self.path}>"


def open_instance(root: Path = MEMORY, fallback: Path | None = None) -> Instance:
    """Make a directory for the shared limits of a gateway that starts, once those of dead ones are removed.

    It is in ``root`` if that is a file system in memory where we may write, else in ``fallback`` (default: the
    directory for temporary files), with a warning. Opens no lmdb. Raises OSError, whose text says what to do.
    """
    warning = ""
    if not (is_in_memory(root) and os.access(root, os.W_OK | os.X_OK)):
        given, root = root, fallback or Path(tempfile.gettempdir())
        warning = f"{given} is no memory file system to write to: the shared limits are in {root}" + (
            "" if is_in_memory(root) else ", on a disk, where every decision may wait for it"
        )
    home = root / f"sluice-{os.getuid()}"
    with _held(home) as home_fd:
        _remove_dead(home_fd)
        name = PREFIX + secrets.token_hex(8)
        os.mkdir(name, 0o700, dir_fd=home_fd)
        owner = os.open(home / name / OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(owner, fcntl.LOCK_EX)
    made = Instance(home / name, owner, warning)
    try:
        prepare_lock_file(made.path)
    except OSError as error:
        made.close()
        raise OSError(error.errno, f"no room for shared limits in {root}: {error.strerror}; {MORE_ROOM}") from None
    return made


class HeldDirectory:
    """A directory in which no other gateway saves its limits, until `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._pid = os.getpid()

    @property
    def descriptor(self) -> int:
        """The open file by which it is held, for the workers to keep: one that lives may still save."""
        return self._lock

    def close(self) -> None:
        """Let another gateway have it. In a forked child: nothing."""
        if self._lock >= 0 and os.getpid() == self._pid:
            # The children that inherited the file hold the same lock: closing it would leave it to them.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = -1


def hold_directory(path: Path) -> HeldDirectory:
    """Take a directory for saved limits, made if need be, and private to this user from now on.

    Raises OSError, whose text says what to do: it is another user's, or another running gateway has it.
    """
    path = path.resolve()
    path.mkdir(0o700, parents=True, exist_ok=True)
    directory = open_private(path)
    try:
        lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise BlockingIOError(
                f"another running gateway saves its limits in {path}: give each a directory of its own"
            ) from None
        for name in os.listdir(directory):
            if name.endswith(".new"):  # Of a gateway that was killed while it saved.
                os.unlink(name, dir_fd=directory)
    finally:
        os.close(directory)
    return HeldDirectory(path, lock)


def prepare_lock_file(path: Path) -> None:
    """Give lmdb's lock file its memory before it is mapped.

    lmdb writes to it through a map; where the file system had nothing left for it, that would be a SIGBUS. Raises
    OSError.
    """
    file = os.open(path / "lock.mdb", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        # Only when it is new: closing the file would drop the locks by which lmdb knows the readers of this process.
        if os.fstat(file).st_size < LOCK_BYTES:
            os.posix_fallocate(file, 0, LOCK_BYTES)
    finally:
        os.close(file)


class ReservedFile:
    """A file of a directory of ours, made if need be, that has its memory before anybody maps it. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    @property
    def size(self) -> int:
        """How large it is, in bytes."""
        return os.fstat(self._file).st_size

    def reserve(self, size: int) -> None:
        """Give it its memory up to a size, at least its own. Where there is too little, it is as it was."""
        status = os.fstat(self._file)
        # Whoever was killed between making a file large and this has left it without; nobody else had it mapped.
        start = status.st_size if status.st_blocks * 512 >= status.st_size else 0
        if start < size:
            os.posix_fallocate(self._file, start, size - start)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else is here meanwhile, in any process."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def room_for(path: Path, wanted: int) -> int:
    """How many bytes the table in this directory may have: ``wanted``, or for 0 what suits the file system.

    Raises ValueError, with what to do, if there is not so much free.
    """
    status = os.statvfs(path)
    free = status.f_bavail * status.f_frsize
    if not status.f_blocks:  # A tmpfs without a size.
        free = max(wanted, 2 * MOST_BYTES)
    size = wanted or min(MOST_BYTES, free // 2)
    if size < LEAST_BYTES or size > free:
        raise ValueError(
            f"the shared limits want {_shown(max(size, LEAST_BYTES))}, but {path} has {_shown(free)} free: "
            f"{MORE_ROOM}, or ask for less"
        )
    # lmdb counts in pages.
    return size // PAGE_BYTES * PAGE_BYTES


def is_in_memory(path: Path) -> bool:
    """Whether a directory is on a file system in memory."""
    return file_system(path) in ("tmpfs", "ramfs")


def file_system(path: Path) -> str:
    """The kind of file system a directory is on, such as ``tmpfs``; "" if that cannot be told."""
    try:
        real = os.path.realpath(path, strict=True)
        mounts = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape")
    except OSError:
        return ""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, where, found, *_ = line.split(" ")
        where = where.encode("latin-1", "surrogateescape").decode("unicode_escape") if "\\" in where else where
        is_above = where == "/" or real == where or real.startswith(where + "/")
        # Of several mounts on one place the last is on top.
        if is_above and len(where) >= len(best):
            best, kind = where, found
    return kind


@contextmanager
def _held(home: Path) -> Iterator[int]:
    """The directory of all our gateways, which nobody else changes meanwhile."""
    with suppress(FileExistsError):
        home.mkdir(0o700)
    file = open_private(home)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)


def open_private(path: Path) -> int:
    """A file descriptor of a directory that is ours alone; it is made so if it is ours. Raises OSError."""
    try:
        file = os.open(path, _DIRECTORY)
    except OSError as error:
        raise OSError(
            error.errno, f"{path} must be a directory of this user, and no link: {error.strerror}"
        ) from None
    status = os.fstat(file)
    if status.st_uid != os.getuid():
        os.close(file)
        raise PermissionError(f"{path} belongs to another user (uid {status.st_uid}): remove it, or run as that user")
    if stat.S_IMODE(status.st_mode) != 0o700:
        os.fchmod(file, 0o700)
    return file


def _remove_dead(home: int) -> None:
    """Remove the directories of gateways that are gone."""
    for name in os.listdir(home):
        try:
            status = os.stat(name, dir_fd=home, follow_symlinks=False)
        except FileNotFoundError:  # A gateway that ends removes its own without asking.
            continue
        if not name.startswith(PREFIX) or not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            continue
        if _is_dead(name, home):
            shutil.rmtree(name, ignore_errors=True, dir_fd=home)


def _is_dead(name: str, home: int) -> bool:
    try:
        owner = os.open(f"{name}/{OWNER}", os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=home)
    except FileNotFoundError:
        # Killed while it made the directory: we hold the lock under which that is done.
        return True
    except OSError:
        return False
    try:
        fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(owner)
    return True


def _shown(size: int) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"
