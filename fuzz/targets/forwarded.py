"""The ``Forwarded`` header (RFC 7239): whose addresses it names, nearest proxy first.

The oracle reads a well-formed header from the left, character by character. Besides that, whatever stands in the
header: what the nearest proxy appends is read as it was meant, and changes nothing of what was there before.

An input is one line of the header per line.
"""

from __future__ import annotations

from fuzz.target import Target, require
from proxy.core.address import TrustedProxies, client_finder
from proxy.core.forwarded import forwarded_hops
from proxy.core.headers import Headers, field

_TOKEN = frozenset(b"!#$%&'*+.^_`|~-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_PORT = frozenset("._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DIGITS = frozenset("0123456789")
_TRUSTED = TrustedProxies.parse(["10.0.0.0/8", "::1"])


class _Malformed(Exception):
    pass


class _Reader:
    """Reads a list of elements from the left."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self._at = 0

    def elements(self) -> list[list[tuple[bytes, bytes]]]:
        """The pairs of every element. Raises _Malformed."""
        found = [self._element()]
        while self._next() == b",":
            self._at += 1
            found.append(self._element())
        if self._next():
            raise _Malformed
        return found

    def _next(self) -> bytes:
        return self._text[self._at : self._at + 1]

    def _blanks(self) -> None:
        while self._next() in (b" ", b"\t"):
            self._at += 1

    def _element(self) -> list[tuple[bytes, bytes]]:
        pairs: list[tuple[bytes, bytes]] = []
        self._blanks()
        while True:
            if self._next() and self._next()[0] in _TOKEN:
                name = self._token()
                if self._next() != b"=":
                    raise _Malformed
                self._at += 1
                pairs.append((name.lower(), self._string() if self._next() == b'"' else self._token()))
            self._blanks()
            if self._next() != b";":
                return pairs
            self._at += 1
            self._blanks()

    def _token(self) -> bytes:
        start = self._at
        while self._next() and self._next()[0] in _TOKEN:
            self._at += 1
        if start == self._at:
            raise _Malformed
        return self._text[start : self._at]

    def _string(self) -> bytes:
        value = b""
        self._at += 1
        while (byte := self._next()) != b'"':
            if not byte:
                raise _Malformed
            if byte == b"\\":
                self._at += 1
                byte = self._next()
                if not byte:
                    raise _Malformed
            value += byte
            self._at += 1
        self._at += 1
        return value


def _hop(pairs: list[tuple[bytes, bytes]]) -> str:
    """The address of an element, "" if it names none."""
    values = [value for name, value in pairs if name == b"for"]
    if len(values) != 1:
        return ""
    node = values[0].decode("latin-1")
    if node.startswith("["):
        address, bracket, port = node[1:].partition("]")
        if not bracket or ":" not in address or "[" in address:
            return ""
    else:
        address, colon, rest = node.partition(":")
        port = colon + rest
        if not address or not set(address) <= _DIGITS | {"."}:
            return ""
    return address if not port or _is_port(port) else ""


def _is_port(text: str) -> bool:
    if not text.startswith(":"):
        return False
    port = text[1:]
    if port.startswith("_"):
        return len(port) > 1 and set(port[1:]) <= _PORT
    return 1 <= len(port) <= 5 and set(port) <= _DIGITS


def _expected(text: bytes) -> list[str] | None:
    try:
        elements = _Reader(text).elements()
    except _Malformed:
        return None
    return [_hop(pairs) for pairs in reversed(elements)]


def try_forwarded(data: bytes) -> None:
    """Read it; see the module's docstring."""
    lines = data.split(b"\n")
    hops = list(forwarded_hops(lines))
    expected = _expected(b",".join(lines))
    require(expected is None or hops == expected, "read otherwise than from the left", (hops, expected))
    appended = list(forwarded_hops([*lines, b'for="[2001:db8::7]:80";by=10.0.0.1']))
    require(appended == ["2001:db8::7", *hops], "what stands further left changes an element", (appended, hops))
    joined = list(forwarded_hops([b",".join(lines) + b", for=203.0.113.7"]))
    require(joined == ["203.0.113.7", *hops], "what stands further left changes an element", (joined, hops))
    find = client_finder("forwarded", _TRUSTED)
    headers = Headers([field(b"Forwarded", line) for line in lines] + [field(b"Forwarded", b"for=203.0.113.7")])
    require(find("10.0.0.1", headers)[0] == "203.0.113.7", "a client behind a trusted proxy chose its address")
    require(find("192.0.2.1", headers)[0] == "192.0.2.1", "an untrusted peer chose its address")


WORDS = (
    b"for=", b"For=", b"by=", b"host=", b"proto=https", b"192.0.2.43", b'"[2001:db8:cafe::17]:4711"',
    b'"192.0.2.43:80"', b"unknown", b"_gazonk", b'"_SEVKISEK"', b"for=10.0.0.1", b'for="[::1]"', b";", b",", b", ",
    b"=", b'"', b'\\"', b"\\", b"\\\\", b" ", b"\t", b"\n", b":", b":99999", b":_x", b"[", b"]", b"\0", b"\x80",
    b"for=x;for=y", b'","', b'";"', b"()",
)  # fmt: skip

TARGET = Target("forwarded", "the Forwarded header", try_forwarded, WORDS, 512)
