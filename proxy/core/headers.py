"""Header fields as they travel: an ordered list of lines, and the rules on which of them may go on.

Sources: RFC 9110 section 7.6.1 (hop-by-hop fields), RFC 9112 section 6 (framing).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Field = tuple[bytes, bytes, bytes]
"""(name in lower case, the whole line as it came with its CRLF, value without the blanks around it)"""

HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
    }
)
"""Fields that belong to one connection and never cross the gateway."""

FORWARDING = frozenset(
    {
        b"cf-connecting-ip",
        b"cf-connecting-ipv6",
        b"forwarded",
        b"true-client-ip",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-forwarded-port",
        b"x-real-ip",
    }
)
"""Fields that tell where a request came from. They end here: OpenAI need not know our clients' addresses."""

_ALWAYS_END_TO_END = frozenset({b"", b"authorization", b"content-type", b"content-encoding"})
NAMES_NOTHING = (b"keep-alive", b"close")
"""What a Connection field says mostly, by which no other field is declared hop-by-hop."""
REPLACED_IN_REQUESTS = HOP_BY_HOP | FORWARDING | {b"host", b"content-length", b"expect"}
REPLACED_IN_RESPONSES = HOP_BY_HOP | {b"x-sluice-request-id", b"x-sluice-upstream-sent"}
"""What another gateway of our kind says of its own exchange ends here: the client gets our word, and no other."""
REPLACED_IN_INFORMATIONAL = REPLACED_IN_RESPONSES | {b"content-length"}
"""The same for 1xx answers, which have no length (RFC 9110 section 8.6)."""


def field(name: bytes, value: bytes) -> Field:
    """A line of our own making."""
    return (name.lower(), b"%b: %b\r\n" % (name, value), value)


class Seen:
    """What was found out about the lines of a head that comes again and again, but for its Content-Length."""

    __slots__ = ("crossings", "names")

    def __init__(self, headers: Headers) -> None:
        self.names = frozenset(line[0] for line in headers.fields)
        self.crossings: dict[frozenset[bytes], bytes] = {}
        """The lines that may cross, by the names of those that may not."""


class Headers:
    """An ordered list of header lines; names compare in lower case, values are the bytes that came.

    Lines of a `block` are taken apart only when somebody asks for them. ``seen`` is what is known already of lines
    that are, but for the value of Content-Length, the same as before.
    """

    __slots__ = ("_block", "_fields", "_seen")

    def __init__(self, fields: list[Field] | None = None, seen: Seen | None = None) -> None:
        self._block = b""
        self._fields: list[Field] | None = [] if fields is None else fields
        self._seen = seen

    @classmethod
    def of_block(cls, block: bytes) -> Headers:
        """Lines as they stand on the wire, each ended by CRLF."""
        headers = cls.__new__(cls)
        headers._block = block
        headers._fields = headers._seen = None
        return headers

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[str, str]]) -> Headers:
        """Make headers from text pairs (latin-1, as Tornado holds them)."""
        return cls([field(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs])

    @property
    def fields(self) -> list[Field]:
        """Every line, taken apart; changed by the methods here only."""
        fields = self._fields
        if fields is None:
            fields = self._fields = taken_apart(self._block.splitlines(True))
            self._block = b""
        return fields

    def encode(self) -> bytes:
        """The lines as they stand on the wire, each ended by CRLF."""
        return self._block if self._fields is None else encode(self._fields)

    def fold(self) -> None:
        """Keep the lines as a block, which takes a tenth of the memory, until somebody asks for them again."""
        if self._fields is not None and self._seen is None:
            self._block, self._fields = encode(self._fields), None

    def get(self, name: bytes) -> bytes | None:
        """The value of the first line with this lower-case name, or None."""
        if self._seen is not None and name not in self._seen.names:
            return None
        for lower, _, value in self.fields:
            if lower == name:
                return value
        return None

    def get_all(self, name: bytes) -> list[bytes]:
        """The values of every line with this lower-case name, in order."""
        if self._seen is not None and name not in self._seen.names:
            return []
        return [value for lower, _, value in self.fields if lower == name]

    def add(self, name: bytes, value: bytes) -> None:
        """Append one line."""
        self.append(field(name, value))

    def append(self, line: Field) -> None:
        """Append a line that is ready."""
        self._seen = None
        if self._fields is None:
            self._block += line[1]
        else:
            self._fields.append(line)

    def set(self, name: bytes, value: bytes) -> None:
        """Put one line in the place of all lines of that name."""
        self.remove(name.lower())
        self.add(name, value)

    def remove(self, name: bytes) -> None:
        """Drop every line with this lower-case name."""
        self._seen = None
        self._fields = [line for line in self.fields if line[0] != name]

    def crossing(self, replaced: frozenset[bytes]) -> bytes:
        """The lines that may cross, as they stand on the wire; ``replaced`` names those that are replaced."""
        seen = self._seen
        if seen is None or b"content-length" not in replaced:
            return encode(end_to_end(self, replaced))
        lines = seen.crossings.get(replaced)
        if lines is None:
            lines = seen.crossings[replaced] = encode(end_to_end(self, replaced))
        return lines

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Every line as text (latin-1)."""
        for lower, line, value in self.fields:
            yield line[: len(lower)].decode("latin-1"), value.decode("latin-1")

    def __len__(self) -> int:
        return len(self.fields)

    def __repr__(self) -> str:
        # Values may be secrets: only the names are shown.
        return f"<Headers {[line[: len(lower)].decode('latin-1') for lower, line, _ in self.fields]}>"


def taken_apart(lines: Iterable[bytes]) -> list[Field]:
    """The fields in some lines."""
    fields: list[Field] = []
    for line in lines:
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name.lower(), line, value.strip()))
    return fields


def connection_named(headers: Headers) -> frozenset[bytes]:
    """The lower-case names a ``Connection`` field declares hop-by-hop (RFC 9110 section 7.6.1)."""
    named: set[bytes] = set()
    for value in headers.get_all(b"connection"):
        named.update(token.strip().lower() for token in value.split(b","))
    # These are end-to-end whatever a client says of them: without them a request would mean something else.
    return frozenset(named - _ALWAYS_END_TO_END)


def end_to_end(headers: Headers, replaced: frozenset[bytes]) -> list[Field]:
    """The lines that may cross: without the ``replaced`` ones and without those ``Connection`` names."""
    for lower, _, value in headers.fields:
        if lower == b"connection" and value.lower() not in NAMES_NOTHING:
            replaced = replaced | connection_named(headers)
            break
    return [line for line in headers.fields if line[0] not in replaced]


def encode(fields: Iterable[Field]) -> bytes:
    """The lines as they stand on the wire, each ended by CRLF."""
    return b"".join([line for _, line, _ in fields])
