"""How keys and paths are called where limits count them."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from urllib.parse import unquote_to_bytes

KEY_PREFIX = "sha256:"
KEY_DIGITS = 32
CHAT_PATH = "/v1/chat/completions"
"""Where requests of the chat route go, and so what they count as: nobody gets a second bucket by either way."""

_SLASHES = re.compile(rb"/{2,}")
_PARAMETERS = re.compile(rb";[^/]*")
_LONGEST = 512


def key_id(credential: str) -> str:
    """What stands for a key where it is counted: 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(credential.encode("utf-8", "replace")).hexdigest()[:KEY_DIGITS]


def path_of(target: bytes) -> str:
    """The path that is counted, of a target that came: all ways to write one place are one path.

    Without query, percent-encoding (RFC 3986 section 2.3), parameters of segments (section 3.3), doubled slashes, one
    at the end, and case: some servers tell these apart and some do not, and nobody shall get another bucket by them.
    Dot segments never come so far.
    """
    path = target.partition(b"?")[0]
    # What is remembered is short, so that nobody can fill the memory with paths.
    return _path(path) if len(path) <= _LONGEST else _path.__wrapped__(path)


@lru_cache(maxsize=4096)
def _path(path: bytes) -> str:
    plain = _PARAMETERS.sub(b"", unquote_to_bytes(path))
    return _SLASHES.sub(b"/", plain).rstrip(b"/").lower()[:_LONGEST].decode("latin-1") or "/"
