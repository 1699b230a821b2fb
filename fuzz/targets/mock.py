"""One event loop for all inputs of a process, the cuts every input is fed in, and what h11 does otherwise."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import Any, TypeVar

import h11

from proxy.core.headers import Field

T = TypeVar("T")
_BLANK_BEFORE_EXTENSION = re.compile(r"illegal chunk header: bytearray\(b[\"'][0-9A-Fa-f]+(?: |\\t)+;")
_loop: list[asyncio.AbstractEventLoop] = []


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run this to its end."""
    if not _loop:
        _loop.append(asyncio.new_event_loop())
    return _loop[0].run_until_complete(coroutine)


def close() -> None:
    """Let go of the loop."""
    while _loop:
        _loop.pop().close()


def cuts(data: bytes) -> list[list[bytes]]:
    """The data whole, in two parts at a place that depends on it, and byte by byte."""
    place = sum(data[:64]) % (len(data) or 1)
    return [[data], [part for part in (data[:place], data[place:]) if part], [bytes((byte,)) for byte in data]]


def as_h11(fields: list[Field]) -> list[tuple[bytes, bytes]]:
    """(name, value) of every line as h11 has them: it writes the value of Transfer-Encoding in lower case."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, _, value in fields]


def differs_on_purpose(error: h11.RemoteProtocolError) -> bool:
    """Whether h11 refuses what we accept on purpose:

    - trailers named Content-Length or Transfer-Encoding, which it judges as if they were headers; here trailers of
      requests are dropped and those of answers mean nothing;
    - blanks before a chunk's extension, which RFC 9112 section 7.1.1 has (BWS).
    """
    names = []
    trace = error.__traceback__
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    # Of h11's readers only those of bodies are objects that are called.
    return "__call__" in names and (
        "normalize_and_validate" in names or _BLANK_BEFORE_EXTENSION.search(str(error)) is not None
    )
