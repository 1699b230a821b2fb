"""Addresses: the walk through ``X-Forwarded-For``, single addresses, networks, and who lies within which.

The oracle is the C library's ``inet_pton`` and arithmetic on integers: it shares no code with ``ipaddress``.

An input is text: the peer on the first line, trusted networks on the second (separated by commas), and each
following line is one ``X-Forwarded-For`` line.
"""

from __future__ import annotations

import re
import socket

from fuzz.target import Finding, Target, require
from proxy.core.address import (
    UNIX,
    Network,
    Networks,
    client_address,
    normalise_peer,
    parse_address,
    parse_network,
    subject_key,
)

Bits = tuple[int, int]
"""(32 or 128, the address as an integer)"""
_MAPPED = 0xFFFF << 32
_PREFIX = re.compile(r"0*[0-9]{1,3}\Z", re.ASCII)
_SUBJECT = subject_key(64)


def bits_of(text: str) -> Bits | None:
    """An address by the C library, IPv4-mapped ones as IPv4; None if it is none."""
    bare = text
    if "%" in text:
        bare, _, zone = text.partition("%")
        if ":" not in bare or not zone:
            return None
    if not bare.isascii() or "\0" in bare:
        return None
    try:
        if ":" not in bare:
            return 32, int.from_bytes(socket.inet_pton(socket.AF_INET, bare))
        value = int.from_bytes(socket.inet_pton(socket.AF_INET6, bare))
    except OSError:
        return None
    return (32, value & 0xFFFFFFFF) if value >> 32 == 0xFFFF else (128, value)


def block_of(text: str) -> tuple[int, int, int] | None:
    """A network as (32 or 128, its first address, its prefix length); None if it is none."""
    address, slash, length = text.partition("/")
    if "%" in address or not address.isascii() or "\0" in address:
        return None
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    size = 128 if ":" in address else 32
    try:
        value = int.from_bytes(socket.inet_pton(family, address))
    except OSError:
        return None
    prefix = size
    if slash:
        if not _PREFIX.match(length) or int(length) > size:
            return None
        prefix = int(length)
    if value & ((1 << (size - prefix)) - 1):
        return None
    if size == 128 and prefix >= 96 and value >> 32 == 0xFFFF:
        return 32, value & 0xFFFFFFFF, prefix - 96
    return size, value, prefix


def _lies_within(address: Bits, block: tuple[int, int, int]) -> bool:
    size, first, prefix = block
    return address[0] == size and (address[1] ^ first) >> (size - prefix) == 0


def _bits(text: str) -> Bits:
    found = bits_of(text)
    if found is None:
        raise Finding("what came out is no address", text)
    return found


def _walk(peer: str, hops: list[bytes], blocks: list[tuple[int, int, int]]) -> Bits | None:
    """Who the client is, the plain way: from the right, as long as the last one believed is a trusted proxy."""
    believed = bits_of(peer)
    chain = [part.strip(b" \t\n\r\x0b\x0c") for line in hops for part in line.split(b",")]
    while believed is not None and any(_lies_within(believed, block) for block in blocks) and chain:
        text = chain.pop()
        hop = bits_of(text.decode("latin-1"))
        if hop is None:
            break
        believed = hop
    return believed


def check_address(text: str) -> None:
    """One address: accepted exactly if the C library accepts it, and the same number."""
    expected = bits_of(text)
    try:
        address = parse_address(text)
    except ValueError:
        require(expected is None, "an address is refused", text)
        return
    found = (address.max_prefixlen, int(address))
    require(found == expected, "an address is another one, or none", (text, found, expected))
    require(parse_address(str(address)) == address, "an address does not survive being written out", text)
    subject = _SUBJECT(str(address))
    size, value = found
    inside = block_of(subject)
    require(
        inside is not None and _lies_within((size, value), inside), "a subject does not hold its address", subject
    )


def check_network(text: str) -> Network | None:
    """One network: accepted exactly if the plain way accepts it, and the same block."""
    expected = block_of(text)
    try:
        network = parse_network(text)
    except ValueError:
        require(expected is None, "a network is refused", text)
        return None
    found = (network.max_prefixlen, int(network.network_address), network.prefixlen)
    require(found == expected, "a network is another one, or none", (text, found, expected))
    return network


def try_address(data: bytes) -> None:
    """Walk, parse and compare; see the module's docstring."""
    peer_line, *rest = data.split(b"\n")
    trusted_line = rest[0] if rest else b""
    hops = rest[1:]
    peer = peer_line.decode("latin-1")
    check_address(peer)
    networks: list[Network] = []
    blocks: list[tuple[int, int, int]] = []
    for entry in trusted_line.decode("latin-1").split(","):
        network = check_network(entry.strip())
        block = block_of(entry.strip())
        if network is not None and block is not None:
            networks.append(network)
            blocks.append(block)
    for part in b",".join(hops).split(b","):
        check_address(part.decode("latin-1"))
    normal = normalise_peer(peer)
    client = client_address(normal, hops, tuple(networks))
    expected = _walk(normal, hops, blocks)
    if normal == UNIX:
        require(client == UNIX, "a peer without an address became one", client)
        return
    require(_bits(client) == expected, "the walk ends at another client", (client, expected))
    holder = Networks(networks).find(parse_address(client))
    require((holder is not None) == any(_lies_within(_bits(client), block) for block in blocks), "who holds it")


WORDS = (
    b"10.0.0.1", b"192.168.1.254", b"203.0.113.7", b"0.0.0.0", b"255.255.255.255", b"127.0.0.1", b"::1", b"::",
    b"fe80::1%eth0", b"%25eth0", b"%", b"::ffff:10.0.0.1", b"::ffff:0:0/96", b"64:ff9b::7f00:1", b"2002:7f00:1::",
    b"2001:db8::/32", b"10.0.0.0/8", b"0.0.0.0/0", b"::/0", b"/32", b"/33", b"/128", b"/129", b"/0.255.255.255",
    b"/", b"010.0.0.1", b"0x7f.1", b"127.1", b"2130706433", b"\xef\xbc\x91", b"1.2.3.4:99", b'"[::1]:80"', b"[::1]",
    b"unknown", b"_hidden", b"unix", b"any", b",", b", ", b" ", b"\t", b"\n", b"\r", b"\0", b":", b".", b"::ffff:",
)  # fmt: skip

TARGET = Target("address", "addresses, networks and X-Forwarded-For", try_address, WORDS, 1024)
