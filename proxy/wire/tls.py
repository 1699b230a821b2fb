"""TLS for clients: one context at a time, made anew when its files change."""

from __future__ import annotations

import logging
import os
import ssl
from typing import Literal, get_args

log = logging.getLogger("sluice.wire")

CHECK_EVERY_S = 2.0
"""How often the files are looked at, at most, and only when a connection comes."""
MinVersion = Literal["1.2", "1.3"]
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_State = tuple[int, int, int, int, int]


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

    def context(self, now_s: float) -> ssl.SSLContext:
        """The context for a connection that comes now (on the loop's clock); made anew if the files have changed.

        Files that cannot be used (half of a pair, half of a file) leave the context as it was, with one warning for
        each change.
        """
        if now_s >= self._look_again_s:
            self._look_again_s = now_s + CHECK_EVERY_S
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._reload()
        return self._context

    def _reload(self) -> None:
        try:
            self._context = self._load()
        except OSError as error:
            log.warning("the certificate in use stays, because %s cannot be used: %s", error.filename, error.strerror)
        else:
            log.info("new connections are served with the changed certificate %s", self.cert)

    def _paths(self) -> tuple[str, ...]:
        return (self.cert, self.key) if self.client_ca is None else (self.cert, self.key, self.client_ca)

    def _look(self) -> tuple[_State | None, ...]:
        """What tells a file from the one that was there before; None for one that is not there."""
        return tuple(map(_state_of, self._paths()))

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self.min_version]
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        for path in self._paths():
            # OpenSSL does not say which file it could not read.
            with open(path, "rb"):
                pass
        _load_certificates(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.cert)
        self._load_pair(context)
        if self.client_ca is not None:
            _load_certificates(context, self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _load_pair(self, context: ssl.SSLContext) -> None:
        """Load the certificate, which is known to be one, with its key."""
        try:
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


def _load_certificates(context: ssl.SSLContext, path: str) -> None:
    """Load certificates as CAs. Raises ssl.SSLError if there are none."""
    try:
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
