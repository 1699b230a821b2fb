"""The admin token: what callers of ``/-/`` must show, and the file where a running gateway leaves its own.

The file is ``DIRECTORY/sluice-UID/admin-PORT.token``; DIRECTORY is ``$XDG_RUNTIME_DIR``, else ``/dev/shm``, else the
temporary directory. Only the user the gateway runs as can read it.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")


class TokenFile:
    """A new random token, in its file until `remove`.

    Raises OSError: if no directory can be had for it, or one is there that others could have put there or look into.
    """

    def __init__(self, port: int, environ: Mapping[str, str]) -> None:
        self.token = secrets.token_urlsafe(32)
        self.path = _private_directory(environ) / _name(port)
        # Whoever left a file for this port is gone: the port is ours.
        self.path.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self.path, flags, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{self.token}\n")

    def remove(self) -> None:
        """Remove the file, unless another gateway's is there by now."""
        with suppress(OSError):
            if self.path.read_text("ascii").strip() == self.token:
                self.path.unlink()

    def __repr__(self) -> str:
        return f"<TokenFile {self.path}>"


def find_token(port: int, environ: Mapping[str, str]) -> str:
    """The token of the gateway whose admin listener has this port and that runs as the same user.

    Raises OSError: FileNotFoundError if there is none.
    """
    found: list[tuple[int, str]] = []
    refused: PermissionError | None = None
    for root in _roots(environ):
        directory = root / _directory_name()
        try:
            _check(directory)
            file = directory / _name(port)
            found.append((file.stat().st_mtime_ns, file.read_text("ascii").strip()))
        except FileNotFoundError:
            continue
        except PermissionError as error:
            # Anybody can put a directory of our name into the temporary one: that must not hide a token elsewhere.
            refused = refused or error
    if found:
        # A gateway that was killed leaves its file behind, and the next one may have had another place.
        return max(found)[1]
    if refused is not None:
        raise refused
    raise FileNotFoundError(
        errno.ENOENT, "no gateway of this user has left a token; set admin.token, or run as its user", _name(port)
    )


def _name(port: int) -> str:
    return f"admin-{port}.token"


def _directory_name() -> str:
    return f"sluice-{os.geteuid()}"


def _roots(environ: Mapping[str, str]) -> Iterator[Path]:
    """Where the directory may be, the best place first."""
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        yield Path(runtime)
    yield _SHARED_MEMORY
    yield Path(environ.get("TMPDIR") or "/tmp")


def _private_directory(environ: Mapping[str, str]) -> Path:
    """The directory, made if need be."""
    failed: OSError | None = None
    for root in _roots(environ):
        directory = root / _directory_name()
        try:
            with suppress(FileExistsError):
                directory.mkdir(mode=0o700)
        except OSError as error:
            failed = error
            continue
        _check(directory)
        return directory
    assert failed is not None
    raise OSError(failed.errno, "there is no place for the admin token; set admin.token", failed.filename)


def _check(directory: Path) -> None:
    """Raises PermissionError unless nobody else can have made the directory, or change what is in it."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(errno.EPERM, "it is no directory; remove it", str(directory))
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to somebody else; remove it", str(directory))
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "others may look into it; its mode must be 0700", str(directory))
