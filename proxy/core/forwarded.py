"""The ``Forwarded`` header (RFC 7239), read from its right end.

The left end is whatever a client wrote, perhaps with a quote it never closes; the right end is what the nearest
proxy appended. Read from the left, that quote would swallow the proxy's own words. Read from the right, nothing
that stands further left can change what an element means: outside of a quoted string neither ``"`` nor ``\\`` may
stand in an element, and inside of one every ``"`` has a ``\\`` before it, so where a string begins is plain.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_PAIR = re.compile(rb'(?:(%b)=(?:(%b)|"((?:[^"\\]|\\.)*)"))?[ \t]*(;[ \t]*|\Z)' % (_TOKEN, _TOKEN), re.DOTALL)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_NODE = re.compile(r"(?:([0-9.]+)|\[([^\[\]]*:[^\[\]]*)\])(?::(?:[0-9]{1,5}|_[0-9A-Za-z._-]+))?")


def forwarded_hops(lines: list[bytes]) -> Iterator[str]:
    """The addresses of the ``for=`` parameters, nearest proxy first.

    ``lines`` are the values of the header's lines in order. A hop is "" where an element is malformed, has no
    ``for`` or has it twice, or where it is ``unknown`` or an obfuscated name. Ports are dropped.
    """
    for element in _from_right(b",".join(lines)):
        yield _address(element)


def _from_right(text: bytes) -> Iterator[bytes]:
    """The elements of a list, last first. A comma inside of a quoted string separates nothing.

    Takes time in proportion to the bytes read: each search goes on where the one before it stopped.
    """
    end = len(text)
    comma, quote = text.rfind(b","), text.rfind(b'"')
    while True:
        if quote > comma:
            start = _string_start(text, quote)
            quote = text.rfind(b'"', 0, start)
            if comma > start:
                comma = text.rfind(b",", 0, start)
            continue
        yield text[comma + 1 : end]
        if comma < 0:
            return
        end = comma
        comma = text.rfind(b",", 0, end)


def _string_start(text: bytes, close: int) -> int:
    """Where the quoted string that ends at ``close`` begins; 0 if it never does."""
    start = close
    while (start := text.rfind(b'"', 0, start)) >= 0:
        before = start
        while before and text[before - 1] == 0x5C:
            before -= 1
        if (start - before) % 2 == 0:
            return start
    return 0


def _address(element: bytes) -> str:
    """The address an element's ``for`` parameter names, as text; "" if it names none."""
    text = element.strip(b" \t")
    found: list[bytes] = []
    at = 0
    while True:
        pair = _PAIR.match(text, at)
        if pair is None:
            return ""
        name, token, quoted, separator = pair.groups()
        if name is not None and name.lower() == b"for":
            found.append(token if token is not None else _QUOTED_PAIR.sub(rb"\1", quoted))
        at = pair.end()
        if not separator:
            break
    if len(found) != 1:
        return ""
    node = _NODE.fullmatch(found[0].decode("latin-1"))
    return (node[1] or node[2]) if node else ""
