"""Where a body ends: readers for the three framings of RFC 9112 section 6.

Each reader's ``read(data, pieces)`` looks at the next bytes of a connection and answers the offset behind the
body's last byte, or -1 if the body goes on. The payload is appended to ``pieces``; with None nothing is copied,
which is how an answer's bytes are passed on as they came.
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Protocol

MAX_LINE = 4096
"""Longest chunk-size line with its extensions, and longest block of trailers, in bytes."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
_SIZE_LINE = re.compile(
    rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?)*\r\n" % (_TOKEN, _TOKEN, _QUOTED)
)
_SIZE_LINE_BEGUN = re.compile(rb"(?:[0-9A-Fa-f]{1,15}(?:[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?)?\r?)?\Z")
_TRAILERS = re.compile(rb"(?:%b:[\t\x20-\x7e\x80-\xff]*\r\n)*\r\n" % _TOKEN)


_LONGEST_PLAIN = 10
"""Bytes of a size line that is remembered: of eight digits, without extensions."""


class FramingError(ValueError):
    """The bytes do not follow the framing their head announced."""


class Framing(Enum):
    """How a message says where its body ends."""

    NONE = "none"  # there is no body
    LENGTH = "length"
    CHUNKED = "chunked"
    CLOSE = "close"  # the end of the connection is the end of the body


# Names of their own: on Python 3.11 a look into the class of an Enum costs as much as three calls.
NO_BODY, BY_LENGTH, BY_CHUNKS, BY_CLOSE = Framing


class BodyReader(Protocol):
    """Finds the end of one body."""

    @property
    def is_between_chunks(self) -> bool:
        """Whether a chunk of ours could stand where the body is now, without breaking it."""
        ...

    def read(self, data: bytes, pieces: list[bytes] | None) -> int:
        """Take the next bytes; see the module's docstring. Raises FramingError."""
        ...


class LengthReader:
    """A body of a known number of bytes."""

    __slots__ = ("remaining",)
    is_between_chunks = False

    def __init__(self, length: int) -> None:
        self.remaining = length

    def read(self, data: bytes, pieces: list[bytes] | None) -> int:
        """Take the next bytes; see the module's docstring."""
        end = self.remaining
        length = len(data)
        if length < end:
            self.remaining = end - length
            if pieces is not None:
                pieces.append(data)
            return -1
        self.remaining = 0
        if pieces is not None and end:
            pieces.append(data if length == end else data[:end])
        return end


class CloseReader:
    """A body that ends with its connection."""

    __slots__ = ()
    is_between_chunks = True  # if it is passed on in chunks, those are ours

    def read(self, data: bytes, pieces: list[bytes] | None) -> int:
        """Take the next bytes; the end is never among them."""
        if pieces is not None:
            pieces.append(data)
        return -1


def reader_for(framing: Framing, length: int) -> BodyReader | None:
    """The reader of a body framed so; None if there is no body to read."""
    if framing is BY_CHUNKS:
        return ChunkedReader()
    if framing is BY_CLOSE:
        return CloseReader()
    return LengthReader(length) if framing is BY_LENGTH and length else None


@lru_cache(maxsize=1024)
def _plain_size(line: bytes) -> int:
    """The size in a chunk's line; a number that fits no chunk for 0, and for a line that is none."""
    size = _SIZE_LINE.fullmatch(line)
    return (size and int(size[1], 16)) or -MAX_LINE


class ChunkedReader:
    """A body in chunks (RFC 9112 section 7.1), read strictly: CRLF only, plain hexadecimal sizes.

    Extensions and trailers are bounded and checked for form, and mean nothing here.
    """

    __slots__ = ("_in_trailers", "_line", "_remaining")

    def __init__(self) -> None:
        self._remaining = 0  # of the current chunk, its closing CRLF included
        self._line = b""  # the beginning of a size line or of the trailers that is not whole yet
        self._in_trailers = False

    @property
    def is_between_chunks(self) -> bool:
        """Whether a chunk of ours could stand where the body is now, without breaking it."""
        return not (self._remaining or self._line or self._in_trailers)

    def whole_chunk(self, data: bytes) -> bytes | None:
        """The payload if these bytes are exactly one chunk more, as those of a stream of events mostly are.

        They are taken then; else None, and `read` has to take them.
        """
        if self._remaining or self._line or self._in_trailers:
            return None
        start = data.find(b"\r") + 2
        if not 3 <= start <= _LONGEST_PLAIN or start + _plain_size(data[:start]) + 2 != len(data):
            return None
        return data[start:-2] if data.endswith(b"\r\n") else None

    def read(self, data: bytes, pieces: list[bytes] | None) -> int:
        """Take the next bytes; see the module's docstring. Raises FramingError."""
        carried = len(self._line)
        if carried:
            data = self._line + data
            self._line = b""
        length = len(data)
        position = 0
        while position < length:
            if self._in_trailers:
                return self._read_trailers(data, position, carried)
            if self._remaining:
                position = self._read_chunk(data, position, pieces)
                continue
            line = _SIZE_LINE.match(data, position)
            if line is None:
                self._keep(data, position, _SIZE_LINE_BEGUN)
                return -1
            if line.end() - position > MAX_LINE:
                raise FramingError("a chunk's size line is too long")
            size = int(line[1], 16)
            position = line.end()
            if size:
                self._remaining = size + 2
            else:
                self._in_trailers = True
        return -1

    def _read_chunk(self, data: bytes, position: int, pieces: list[bytes] | None) -> int:
        """Take what is there of the current chunk and of the CRLF behind it; the offset behind it."""
        end = position + self._remaining
        payload_end = end - 2
        if pieces is not None and payload_end > position:
            pieces.append(data[position:payload_end])
        length = len(data)
        if end <= length:
            if data[max(payload_end, position) : end] != b"\r\n"[-min(2, self._remaining) :]:
                raise FramingError("a chunk does not end with CRLF")
            self._remaining = 0
            return end
        if length > payload_end and data[length - 1] != 13:
            raise FramingError("a chunk does not end with CRLF")
        self._remaining = end - length
        return length

    def _read_trailers(self, data: bytes, position: int, carried: int) -> int:
        trailers = _TRAILERS.match(data, position)
        if trailers is not None:
            if trailers.end() - position > MAX_LINE:
                raise FramingError("the trailers are too long")
            return trailers.end() - carried
        if b"\r\n\r\n" in data[position:] or data.startswith(b"\r\n", position):
            raise FramingError("the trailers are malformed")
        self._keep(data, position, None)
        return -1

    def _keep(self, data: bytes, position: int, begun: re.Pattern[bytes] | None) -> None:
        """Keep an unfinished line for the next bytes, unless it can no longer become a good one."""
        rest = data[position:]
        if len(rest) > MAX_LINE:
            raise FramingError("a chunk's size line or the trailers are too long")
        if begun is not None and not begun.match(rest):
            raise FramingError("a chunk's size is malformed")
        self._line = rest
