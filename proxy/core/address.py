"""Addresses: parsing them strictly, and finding the client's behind trusted proxies.

The peer's address is the only one nobody can forge. ``X-Forwarded-For`` is believed only if the peer is a
trusted proxy, and then only up to the rightmost hop that is not one (the leftmost is the client's own word).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY = "any"
UNIX = "unix"
"""The peer of a unix socket: it has no address, and only the word itself matches it."""

_PLAIN = re.compile(r"[0-9a-fA-F:.]+\Z")


def parse_address(text: str) -> Address:
    """One address, strictly written; IPv4-mapped IPv6 becomes IPv4, a zone is dropped. Raises ValueError."""
    before, _, zone = text.partition("%")
    bare = before if ":" in before and zone else text
    if not _PLAIN.match(bare):
        raise ValueError(f"{text!r} is not an IP address")
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address") from None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def parse_network(text: str) -> Network:
    """One address or CIDR network, strictly written: no host bits, no netmask form. Raises ValueError."""
    address, slash, prefix = text.partition("/")
    if slash and not (prefix.isascii() and prefix.isdigit()):
        raise ValueError(f"{text!r}: write the prefix length as a number, like 10.0.0.0/8")
    if not _PLAIN.match(address):
        raise ValueError(f"{text!r} is not an IP address or a network like 10.0.0.0/8 or 2001:db8::/32")
    try:
        network = ipaddress.ip_network(text, strict=False)
        strict = network.network_address == ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address or a network like 10.0.0.0/8 or 2001:db8::/32") from None
    if not strict:
        raise ValueError(f"{text!r} has bits set behind the prefix; did you mean {network}?")
    return _unmapped(network)


def _unmapped(network: Network) -> Network:
    """The IPv4 network that an IPv4-mapped IPv6 network stands for; any other network as it is."""
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}")
    return network


def contains(networks: Iterable[Network], address: Address) -> Network | None:
    """The first network that holds the address, or None."""
    for network in networks:
        if network.version == address.version and address in network:
            return network
    return None


@lru_cache(maxsize=4096)
def normalise_peer(host: str) -> str:
    """A socket's peer address in the form every stage compares: unmapped, without zone; ``unix`` for none."""
    try:
        return str(parse_address(host))
    except ValueError:
        return UNIX


def client_address(peer_ip: str, forwarded_for: list[bytes], trusted: tuple[Network, ...]) -> str:
    """The client's address: the peer's, or the rightmost untrusted hop if the peer is a trusted proxy.

    ``forwarded_for`` holds the values of the ``X-Forwarded-For`` lines in order. A hop that is not an address
    ends the walk: the last hop that could be believed is the answer, never one further left. If every hop is
    trusted, the leftmost is the answer.
    """
    client = peer_ip
    if not _trusted(client, trusted):
        return client
    for hop in reversed(b",".join(forwarded_for).split(b",")):
        try:
            client = str(parse_address(hop.strip().decode("ascii")))
        except ValueError:
            return client
        if not _trusted(client, trusted):
            return client
    return client


def _trusted(ip: str, trusted: tuple[Network, ...]) -> bool:
    return ip != UNIX and contains(trusted, parse_address(ip)) is not None


def subject_key(prefix_v6: int) -> Callable[[str], str]:
    """A cached function from a client address to the subject a limit counts.

    IPv4 addresses count one by one; IPv6 addresses count by network of ``prefix_v6`` bits, because one
    customer usually holds a whole /64.
    """

    @lru_cache(maxsize=65536)
    def subject(client_ip: str) -> str:
        if ":" not in client_ip or prefix_v6 == 128:
            return client_ip
        return str(ipaddress.ip_network(f"{client_ip}/{prefix_v6}", strict=False))

    return subject
