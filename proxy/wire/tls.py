"""TLS for clients: one context at a time, made anew when its files change."""

from __future__ import annotations

import errno
import logging
import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

from proxy.wire.endpoint import OUT_OF_ROOM

log = logging.getLogger("sluice.wire")

CHECK_EVERY_S = 2.0
"""How often the files are looked at, at most, and only when a connection comes."""
MinVersion = Literal["1.2", "1.3"]
_PASSING = OUT_OF_ROOM | {errno.EIO}
"""Errors that say nothing of the files: the same ones may be read the next time."""
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_State = tuple[int, int, int, int, int]
_Seen = tuple[_State | None, ...]


class ServerTls:
    """Certificate and key of a listener, and the CAs whose client certificates are demanded, if any.

    Each connection is accepted with the context of its time: a new certificate serves new connections and leaves
    running ones alone. A new context also has new ticket keys, so that no session outlives the CA that let it in.

    Raises OSError (`ssl.SSLError` where a file can be read but not used) with the file's path as its ``filename``,
    and ValueError for an unknown version.
    """

    def __init__(self, cert: str, key: str, client_ca: str | None = None, min_version: MinVersion = "1.2") -> None:
        if min_version not in get_args(MinVersion):
            raise ValueError(f"{min_version!r}: write one of {', '.join(get_args(MinVersion))}")
        self.cert = cert
        self.key = key
        self.client_ca = client_ca
        self.min_version: MinVersion = min_version
        # Looked at before loading: what changes while it is loaded will be seen as a change.
        self._seen = self._look()
        self._context = self._load()
        self._look_again_s = 0.0
        self._complaint: tuple[_Seen, str] | None = None

    def context(self, now_s: float) -> ssl.SSLContext:
        """The context for a connection that comes now (on the loop's clock); made anew if the files have changed.

        Files that cannot be used (half of a pair, half of a file) leave the context as it was, with one warning for
        each change; they are tried again when they change. Files that could not be read for want of descriptors or
        memory are tried again at the next look.
        """
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + CHECK_EVERY_S
            seen = self._look()
            if seen != self._seen and self._reload(seen):
                self._seen = seen
        return self._context

    def _reload(self, seen: _Seen) -> bool:
        """Make the context anew; whether these files are done with, for good or ill."""
        try:
            self._context = self._load()
        except OSError as error:
            complaint = (seen, str(error))
            if complaint != self._complaint:
                self._complaint = complaint
                text = "the certificate in use stays, because %s cannot be used: %s"
                log.warning(text, error.filename, error.strerror)
            # OpenSSL's errors have numbers of their own.
            return isinstance(error, ssl.SSLError) or error.errno not in _PASSING
        log.info("new connections are served with the changed certificate %s", self.cert)
        return True

    def _paths(self) -> tuple[str, ...]:
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)

    def _look(self) -> _Seen:
        """What tells a file from the one that was there before; None for one that is not there."""
        return tuple(map(_state_of, self._paths()))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self.min_version]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        for path in self._paths():
            _check_readable(path)
        _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.cert)
        self._load_pair(context)
        if self.client_ca is not None:
            _load_certificates(context, self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load_pair(self, context: ssl.SSLContext) -> None:
        """Load the certificate, which is known to be one, with its key."""
        try:
            with _named(self.cert):
                context.load_cert_chain(self.cert, self.key, _no_password)
        except _EncryptedError:
            raise _unusable(self.key, "it is encrypted, and there is nobody to ask for its password") from None
        except ssl.SSLError as error:
            if error.reason is None:
                raise _unusable(self.key, "it holds no private key in PEM form") from None
            if error.reason == "KEY_VALUES_MISMATCH":
                raise _unusable(self.key, f"it is not the key of {self.cert}") from None
            raise _unusable(self.cert, f"OpenSSL refuses it: {error.reason}") from None

    def __repr__(self) -> str:
        return f"<ServerTls {self.cert}>"


def _state_of(path: str) -> _State | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check_readable(path: str) -> None:
    """Open a file as OpenSSL will, which does not say which one it could not read, and waits for a pipe's writer.

    Raises OSError with the path as its ``filename``.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(mode):
        raise _unusable(path, "it is no regular file")


@contextmanager
def _named(path: str) -> Iterator[None]:
    """What the system refuses OpenSSL comes without a name: give it this one."""
    try:
        yield
    except ssl.SSLError:
        raise
    except OSError as error:
        error.filename = error.filename or path
        raise


def _load_certificates(context: ssl.SSLContext, path: str) -> None:
    """Load certificates as CAs. Raises ssl.SSLError if there are none."""
    try:
        with _named(path):
            context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise _unusable(path, "it holds no certificates in PEM form") from None


class _EncryptedError(Exception):
    """The key is encrypted."""


def _no_password() -> str:
    """In the place of OpenSSL's own way, which is to ask on the terminal."""
    raise _EncryptedError


def _unusable(path: str, why: str) -> ssl.SSLError:
    error = ssl.SSLError(1, why)
    error.filename = path
    return error
