"""The PROXY header: both versions, whole, in pieces, and everything that is nearly one."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.proxy_protocol import MAX_BYTES, ProxyHeader, read_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LONGEST_V1 = b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".ljust(105, b"x") + b"\r\n"


def v2(command: int, family: int, block: bytes, *, version: int = 2) -> bytes:
    return SIGNATURE + bytes([version << 4 | command, family]) + struct.pack("!H", len(block)) + block


def inet(source: str = "192.0.2.7", port: int = 4711, tlvs: bytes = b"") -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton("198.51.100.1")
    return v2(1, 0x11, addresses + struct.pack("!HH", port, 443) + tlvs)


def inet6(source: str = "2001:db8::7", port: int = 4711, tlvs: bytes = b"") -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "::1")
    return v2(1, 0x21, addresses + struct.pack("!HH", port, 443) + tlvs)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def crc32c(data: bytes) -> int:
    """Bit by bit, as the polynomial is written down."""
    remainder = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            carry = (remainder ^ byte >> bit) & 1
            remainder = remainder >> 1 ^ (0x82F63B78 if carry else 0)
    return remainder ^ 0xFFFFFFFF


def with_checksum(make: bytes) -> bytes:
    """A header whose last TLV is an empty checksum, with the checksum put in."""
    return make[:-4] + struct.pack("!I", crc32c(make))


WHOLE: list[tuple[bytes, tuple[str, int] | None]] = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", ("192.0.2.7", 4711)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", ("192.0.2.7", 0)),
    (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n", ("2001:db8::7", 4711)),
    (b"PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::1 1 2\r\n", ("2001:db8::7", 1)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 2\r\n", ("192.0.2.7", 1)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN whatever \x00 stands here\r\n", None),
    (LONGEST_V1, None),
    (inet(), ("192.0.2.7", 4711)),
    (inet6(), ("2001:db8::7", 4711)),
    (inet6("::ffff:192.0.2.7"), ("192.0.2.7", 4711)),
    (inet(tlvs=tlv(4, b"") + tlv(0xEA, b"vpce-1")), ("192.0.2.7", 4711)),
    (inet(tlvs=tlv(4, bytes(MAX_BYTES - 16 - 12 - 3))), ("192.0.2.7", 4711)),
    (with_checksum(inet(tlvs=tlv(0x20, b"x" * 9) + tlv(3, bytes(4)))), ("192.0.2.7", 4711)),
    (with_checksum(inet6(tlvs=tlv(3, bytes(4)))), ("2001:db8::7", 4711)),
    # a health check of the proxy's own: its addresses, if any, are to be thrown away
    (v2(0, 0, b""), None),
    (v2(0, 0x11, b"\xff"), None),
    (v2(1, 0, b""), None),
    (v2(1, 0, b"anything"), None),
    (v2(1, 0x31, bytes(216)), None),
]

BROKEN: list[bytes] = [
    b"GET / HTTP/1.1\r\n",
    b"\x16\x03\x01\x02\x00",
    b" PROXY TCP4",
    b"proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXX",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY UNKNOWNS\r\n",
    b"PROXY unknown\r\n",
    b"PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
    b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4\t1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 ::1 ::1 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
    b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY TCP6 [::1] ::1 1 2\r\n",
    b"PROXY TCP4 \xb2.2.3.4 5.6.7.8 1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \xb2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rGET",
    b"PROXY UNKNOWN a\nb\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY UNKNOWN a\r\r\n",
    LONGEST_V1.replace(b"xxx\r\n", b"xxxx\r\n"),
    b"PROXY UNKNOWN".ljust(107, b"x"),
    v2(1, 0x11, bytes(12), version=1),
    v2(1, 0x11, bytes(12), version=3),
    v2(2, 0x11, bytes(12)),
    v2(15, 0x11, bytes(12)),
    v2(1, 0x10, bytes(12)),
    v2(1, 0x12, bytes(12)),
    v2(1, 0x01, bytes(12)),
    v2(1, 0x41, bytes(12)),
    v2(1, 0x11, bytes(11)),
    v2(1, 0x21, bytes(35)),
    v2(1, 0x31, bytes(215)),
    v2(0, 0, bytes(MAX_BYTES - 15)),
    SIGNATURE + b"\x21\x11\xff\xff",
    SIGNATURE[:11] + b"\x00",
    inet(tlvs=b"\x04"),
    inet(tlvs=b"\x04\x00"),
    inet(tlvs=b"\x04\x00\x01"),
    inet(tlvs=tlv(4, b"xx") + b"\x04\xff\xff" + bytes(9)),
    inet(tlvs=tlv(3, bytes(4))),
    inet(tlvs=tlv(3, bytes(3))),
    with_checksum(inet(tlvs=tlv(3, bytes(4))))[:-1] + b"\x00",
    with_checksum(inet(tlvs=tlv(3, bytes(4)))).replace(socket.inet_aton("192.0.2.7"), socket.inet_aton("10.0.0.7")),
]


def read_in_pieces(data: bytes) -> tuple[ProxyHeader | None, int]:
    """What one more byte at a time leads to, and after how many."""
    for end in range(len(data) + 1):
        header = read_header(data[:end])
        if header is not None:
            return header, end
    return None, len(data)


@pytest.mark.parametrize(("data", "source"), WHOLE)
class TestWhole:
    def test_the_source_is_told_and_where_the_header_ends(self, data: bytes, source: tuple[str, int] | None) -> None:
        assert read_header(data) == ProxyHeader(source, len(data))

    def test_what_follows_is_not_the_headers(self, data: bytes, source: tuple[str, int] | None) -> None:
        assert read_header(data + b"\x16\x03\x01PROXY \r\n") == ProxyHeader(source, len(data))

    def test_until_it_is_whole_there_is_no_answer(self, data: bytes, source: tuple[str, int] | None) -> None:
        assert read_in_pieces(data) == (ProxyHeader(source, len(data)), len(data))


@pytest.mark.parametrize("data", BROKEN)
class TestBroken:
    def test_all_at_once(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"PROXY header"):
            read_header(data)

    def test_in_pieces_it_is_never_whole(self, data: bytes) -> None:
        with pytest.raises(ValueError, match=r"PROXY header"):
            read_in_pieces(data)


def test_a_header_that_is_longer_than_any_is_refused_when_it_says_so() -> None:
    with pytest.raises(ValueError, match="longer than 536 bytes"):
        read_header(SIGNATURE + b"\x21\x11" + struct.pack("!H", MAX_BYTES - 15))


def test_the_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_nothing_received_is_repeated_in_an_error() -> None:
    with pytest.raises(ValueError, match="PROXY header") as caught:
        read_header(b"PROXY TCP4 \x1b[31mred 5.6.7.8 1 2\r\n")
    assert "red" not in str(caught.value)


@given(
    st.one_of(
        st.binary(max_size=600),
        st.binary(max_size=120).map(lambda tail: b"PROXY TCP4 " + tail),
        st.binary(max_size=600).map(lambda tail: SIGNATURE + tail),
        st.binary(max_size=300).map(lambda tail: inet(tlvs=tail)),
    )
)
def test_any_bytes_have_one_outcome_however_they_are_cut(data: bytes) -> None:
    """Nothing but ValueError is raised, no more than `MAX_BYTES` are ever asked for, and pieces change nothing."""
    try:
        whole = read_header(data)
    except ValueError:
        with pytest.raises(ValueError, match=r"PROXY header"):
            read_in_pieces(data)
        return
    found, _ = read_in_pieces(data)
    assert found == whole
    if whole is None:
        assert len(data) < MAX_BYTES
    else:
        assert whole.size <= min(len(data), MAX_BYTES)
        assert read_header(data[: whole.size]) == whole


@given(st.ip_addresses(), st.integers(0, 65_535), st.binary(max_size=40))
def test_any_source_is_read_back(address: object, port: int, tail: bytes) -> None:
    text = str(address)
    family, other = ("TCP6", "::1") if ":" in text else ("TCP4", "127.0.0.1")
    line = f"PROXY {family} {text} {other} {port} 443\r\n".encode()
    for header in (line, inet6(text, port) if ":" in text else inet(text, port)):
        found = read_header(header + tail)
        assert found is not None
        assert found.size == len(header)
        assert found.source is not None
        # An IPv4-mapped address is the IPv4 address.
        mapped = getattr(address, "ipv4_mapped", None)
        assert found.source == (str(mapped or address), port)
