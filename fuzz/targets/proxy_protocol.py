"""The PROXY protocol's header, versions 1 and 2, before a connection.

The oracle is a reading of HAProxy's proxy-protocol.txt by ``inet_pton`` and slices. Besides that: a header cut short
is unfinished and nothing else, what follows it changes nothing, and no refusal repeats what was received.
"""

from __future__ import annotations

import re
import socket

from fuzz.target import Target, require
from fuzz.targets.address import bits_of
from proxy.core.proxy_protocol import MAX_BYTES, ProxyHeader, read_header

_V1 = re.compile(rb"PROXY (TCP4|TCP6) ([^ \r\n]+) ([^ \r\n]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n")
_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
_SIZES = {1: (4, 8), 2: (16, 32), 3: (None, None)}
_BLOCKS = {1: 12, 2: 36, 3: 216}

Expected = tuple[tuple[str, int] | None, int]
"""(source, size) of a header that must be accepted."""


def _version_1(data: bytes) -> Expected | None:
    end = data.find(b"\r\n") + 2
    if not 2 <= end <= 107:
        return None
    line = data[:end]
    if _UNKNOWN.fullmatch(line):
        return None, end
    match = _V1.fullmatch(line)
    if match is None or int(match[4]) > 65535 or int(match[5]) > 65535:
        return None
    family = socket.AF_INET if match[1] == b"TCP4" else socket.AF_INET6
    try:
        source, _ = (socket.inet_pton(family, word.decode("ascii")) for word in (match[2], match[3]))
    except (OSError, UnicodeDecodeError, ValueError):
        return None
    return (_shown(source), int(match[4])), end


def _shown(packed: bytes) -> str:
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    if packed[:12] == bytes(10) + b"\xff\xff":
        family, packed = socket.AF_INET, packed[12:]
    return socket.inet_ntop(family, packed)


def _version_2(data: bytes) -> Expected | None:
    """The header, but for its TLVs: those are judged by `_tlvs_fit`, and a checksum is left to the code itself."""
    if len(data) < 16:
        return None
    command, family, protocol = data[12], data[13] >> 4, data[13] & 15
    size = 16 + data[14] * 256 + data[15]
    if command not in (0x20, 0x21) or size > MAX_BYTES or len(data) < size:
        return None
    if command == 0x20 or data[13] == 0:
        return None, size
    if family not in _BLOCKS or protocol != 1 or size < 16 + _BLOCKS[family]:
        return None
    if not _tlvs_fit(data[16 + _BLOCKS[family] : size]):
        return None
    length, port = _SIZES[family]
    if length is None or port is None:
        return None, size
    return (_shown(data[16 : 16 + length]), data[16 + port] * 256 + data[17 + port]), size


def _tlvs_fit(fields: bytes) -> bool:
    while fields:
        if len(fields) < 3:
            return False
        length = 3 + fields[1] * 256 + fields[2]
        if len(fields) < length:
            return False
        fields = fields[length:]
    return True


def _has_checksum(data: bytes) -> bool:
    """Whether some field could be a checksum: then the code may refuse what the oracle accepts."""
    return b"\x03" in data[28:]


def _outcome(data: bytes) -> tuple[str, ProxyHeader | None]:
    try:
        header = read_header(data)
    except ValueError as error:
        return str(error), None
    return ("header" if header is not None else "more"), header


def _same_address(ours: str, theirs: str) -> bool:
    return bits_of(ours) is not None and bits_of(ours) == bits_of(theirs)


def try_proxy_protocol(data: bytes) -> None:
    """Read it whole and in prefixes; see the module's docstring."""
    said, header = _outcome(data)
    is_v2 = data.startswith(_SIGNATURE)
    expected = _version_2(data) if is_v2 else _version_1(data)
    if header is None:
        if said == "more":
            require(len(data) < MAX_BYTES, "a header without an end")
        elif len(data) > 24 and data[16:24] not in b"a PROXY header is of TCP4, TCP6 or UNKNOWN, with":
            require(data[16:24].decode("latin-1") not in said, "a refusal repeats what was received", said)
        require(expected is None or (is_v2 and _has_checksum(data)), "a header is refused", (said, expected))
        return
    require(expected is not None, "no header, and accepted", header)
    assert expected is not None
    source, size = expected
    require(header.size == size, "the header ends elsewhere", (header, size))
    require((header.source is None) == (source is None), "a source is lost or invented", (header, source))
    if header.source is not None and source is not None:
        same = _same_address(header.source[0], source[0]) and header.source[1] == source[1]
        require(same, "another source", (header.source, source))
    for end in {0, 1, 5, 6, 12, 15, 16, size // 2, size - 1}:
        if end < size:
            require(_outcome(data[:end])[0] == "more", "a header cut short is not unfinished", end)
    require(_outcome(data[:size] + b"GET / HTTP/1.1\r\n") == ("header", header), "what follows changes the header")


WORDS = (
    b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"UNKNOWN\r\n", b"192.0.2.1 ", b"203.0.113.9 ", b"::1 ",
    b"2001:db8::1 ", b"::ffff:10.0.0.1 ", b"56324 443\r\n", b"0 65535\r\n", b"65536", b"\r\n", b"\n", b"\r", b" ",
    b"  ", _SIGNATURE, b"\x20", b"\x21", b"\x11", b"\x21\x11\x00\x0c", b"\x21\x21\x00\x24", b"\x21\x31\x00\xd8",
    b"\x20\x00\x00\x00", b"\x12", b"\x00\x0c", b"\xff\xff", b"\x03\x00\x04\x00\x00\x00\x00", b"\x04\x00\x01x",
    b"\x01\x00\x02h2", b"\x00" * 12,
)  # fmt: skip

TARGET = Target("proxy_protocol", "the PROXY protocol's header", try_proxy_protocol, WORDS, 800)
