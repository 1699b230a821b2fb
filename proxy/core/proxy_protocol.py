"""The PROXY protocol: the header a load balancer puts before a connection to say whose it is.

Versions 1 (a line of text) and 2 (binary) of HAProxy's proxy-protocol.txt, read strictly: a header that is not
exactly as the text has it is an error, because what it says decides who is let in.
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

from proxy.core.address import parse_address

MAX_BYTES = 536
"""The longest header read, in bytes: what fits the smallest segment every host takes (section 2)."""
_V1_MAX_BYTES = 107  # section 2.1, with its CRLF
_V1_PREFIX = b"PROXY "
_V2_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V2_FIXED = 16
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
_LOCAL, _PROXY = 0, 1
_INET, _INET6, _UNIX = 1, 2, 3
_STREAM = 1
_ADDRESS_BYTES = {_INET: 12, _INET6: 36, _UNIX: 216}
_CRC32C = 3


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A whole header. ``source`` is (address, port), or None where the connection's own counts."""

    source: tuple[str, int] | None
    size: int
    """Bytes of the header; what follows belongs to the connection."""


def read_header(data: bytes) -> ProxyHeader | None:
    """Read the header that ``data`` begins with; None if it is right so far, but not whole.

    Then all of ``data`` belongs to the header. At most `MAX_BYTES` are needed. Raises ValueError for anything that
    is no header; its text never repeats what was received.
    """
    if data.startswith(_V1_PREFIX):
        return _read_v1(data)
    if data.startswith(_V2_SIGNATURE):
        return _read_v2(data)
    if _V1_PREFIX.startswith(data) or _V2_SIGNATURE.startswith(data):
        return None
    raise ValueError("it does not begin with a PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    """Section 2.1: ``PROXY TCP4 <source> <destination> <source port> <destination port>`` and a CRLF."""
    line, ended, _ = data[:_V1_MAX_BYTES].partition(b"\r\n")
    if b"\n" in line or b"\r" in line[:-1] or (ended and b"\r" in line):
        raise ValueError("the line of a PROXY header ends with CRLF")
    if not ended:
        if len(data) >= _V1_MAX_BYTES:
            raise ValueError(f"the line of a PROXY header has at most {_V1_MAX_BYTES} bytes")
        return None
    size = len(line) + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        # What follows is to be ignored, whatever it is.
        return ProxyHeader(None, size)
    if words[1] not in (b"TCP4", b"TCP6") or len(words) != 6:
        raise ValueError("a PROXY header is of TCP4, TCP6 or UNKNOWN, with two addresses and two ports")
    source = _v1_address(words[1], words[2])
    _v1_address(words[1], words[3])
    _v1_port(words[5])
    return ProxyHeader((source, _v1_port(words[4])), size)


def _v1_address(family: bytes, word: bytes) -> str:
    text = word.decode("latin-1")
    wanted = 4 if family == b"TCP4" else 6
    try:
        if "%" in text or ipaddress.ip_address(text).version != wanted:
            raise ValueError
        return str(parse_address(text))
    except ValueError:
        raise ValueError(f"an address of the PROXY header is no IPv{wanted} address") from None


def _v1_port(word: bytes) -> int:
    if not _PORT.fullmatch(word) or int(word) > 65_535:
        raise ValueError("a port of the PROXY header is no port")
    return int(word)


def _read_v2(data: bytes) -> ProxyHeader | None:
    """Section 2.2: signature, version and command, family and protocol, length; then addresses and TLVs."""
    if len(data) > 12 and (data[12] >> 4 != 2 or data[12] & 15 not in (_LOCAL, _PROXY)):
        raise ValueError("the PROXY header has an unknown version or command")
    if len(data) < _V2_FIXED:
        return None
    command, (family, protocol) = data[12] & 15, divmod(data[13], 16)
    size = _V2_FIXED + int.from_bytes(data[14:16], "big")
    if size > MAX_BYTES:
        raise ValueError(f"the PROXY header says it is longer than {MAX_BYTES} bytes")
    if command == _PROXY and (family, protocol) != (0, 0) and (family not in _ADDRESS_BYTES or protocol != _STREAM):
        raise ValueError("the PROXY header is of no stream over IPv4, IPv6 or a unix socket")
    if len(data) < size:
        return None
    if command == _LOCAL or family == 0:
        # A connection of the proxy's own (a health check), or one of which it knows nothing.
        return ProxyHeader(None, size)
    addresses = _V2_FIXED + _ADDRESS_BYTES[family]
    if size < addresses:
        raise ValueError("the PROXY header is too short for its addresses")
    _check_tlvs(data[:size], addresses)
    return ProxyHeader(_v2_source(family, data[_V2_FIXED:addresses]), size)


def _v2_source(family: int, block: bytes) -> tuple[str, int] | None:
    if family == _UNIX:
        return None
    length, ports = (4, 8) if family == _INET else (16, 32)
    (port,) = struct.unpack_from("!H", block, ports)
    return str(parse_address(str(ipaddress.ip_address(block[:length])))), port


def _check_tlvs(header: bytes, start: int) -> None:
    """Whether the type-length-value fields fill the rest exactly, and the checksum is right if there is one."""
    at = start
    while at < len(header):
        if at + 3 > len(header):
            raise ValueError("a field of the PROXY header is cut off")
        kind, length = struct.unpack_from("!BH", header, at)
        value, at = at + 3, at + 3 + length
        if at > len(header):
            raise ValueError("a field of the PROXY header is longer than the header")
        if kind == _CRC32C:
            if length != 4:
                raise ValueError("the checksum of the PROXY header has four bytes")
            # It is taken over the whole header, with its own four bytes as zeros (section 2.2.3).
            if _crc32c(header[:value] + bytes(4) + header[at:]) != int.from_bytes(header[value:at], "big"):
                raise ValueError("the checksum of the PROXY header is wrong")


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc32c_table()


def _crc32c(data: bytes) -> int:
    """The Castagnoli checksum (RFC 9260 appendix A)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 255]
    return value ^ 0xFFFFFFFF
