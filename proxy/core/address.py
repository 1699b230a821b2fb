"""Addresses: parsing them strictly, and finding the client's behind trusted proxies.

The peer's address is the only one nobody can forge. A header such as ``X-Forwarded-For`` is believed only if the
peer is a trusted proxy, and then only up to the rightmost hop that is not one (the leftmost is the client's own
word). Of all such headers exactly one family is read: a proxy that sets one rarely takes away the others.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

from proxy.core.forwarded import forwarded_hops
from proxy.core.headers import Headers

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


class Networks:
    """A list of networks, however long: a question costs one look for each prefix length in it, not for each entry.

    Of several that hold an address the first of the list is the answer.
    """

    def __init__(self, networks: Iterable[Network]) -> None:
        # By IP version and by the bits behind the prefix: the place and the network, by the prefix.
        self._held: dict[int, dict[int, dict[int, tuple[int, Network]]]] = {4: {}, 6: {}}
        for place, network in enumerate(networks):
            shift = network.max_prefixlen - network.prefixlen
            prefixes = self._held[network.version].setdefault(shift, {})
            prefixes.setdefault(int(network.network_address) >> shift, (place, network))

    def find(self, address: Address) -> Network | None:
        """The first network that holds the address, or None."""
        bits = int(address)
        best: tuple[int, Network] | None = None
        for shift, prefixes in self._held[address.version].items():
            found = prefixes.get(bits >> shift)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
        return None if best is None else best[1]


@lru_cache(maxsize=4096)
def normalise_peer(host: str) -> str:
    """A socket's peer address in the form every stage compares: unmapped, without zone; ``unix`` for none."""
    try:
        return str(parse_address(host))
    except ValueError:
        return UNIX


class TrustedProxies:
    """Who is believed when it says whose request it passes on: networks, and perhaps the peer of a unix socket."""

    def __init__(self, networks: Iterable[Network] = (), unix: bool = False) -> None:
        self._networks = tuple(networks)
        self._find = Networks(self._networks).find
        self._unix = unix
        self.holds: Callable[[str], bool] = lru_cache(maxsize=4096)(self._holds)
        """Whether a normalised address, or the word ``unix``, is a trusted proxy's."""

    @classmethod
    def parse(cls, entries: Iterable[str]) -> TrustedProxies:
        """Addresses, networks and the word ``unix``, strictly written. Raises ValueError."""
        words = list(entries)
        return cls(map(parse_network, [word for word in words if word != UNIX]), UNIX in words)

    def _holds(self, ip: str) -> bool:
        if ip == UNIX:
            return self._unix
        return self._find(parse_address(ip)) is not None

    def __bool__(self) -> bool:
        return self._unix or bool(self._networks)

    def __repr__(self) -> str:
        return f"<TrustedProxies {[UNIX] * self._unix + [str(network) for network in self._networks]}>"


def client_address(peer_ip: str, forwarded_for: list[bytes], trusted: TrustedProxies | tuple[Network, ...]) -> str:
    """The client's address: the peer's, or the rightmost untrusted hop if the peer is a trusted proxy.

    ``forwarded_for`` holds the values of the ``X-Forwarded-For`` lines in order. A hop that is not an address
    ends the walk: the last hop that could be believed is the answer, never one further left. If every hop is
    trusted, the leftmost is the answer.
    """
    return _walk(peer_ip, _plain_hops(forwarded_for), trusted)


def _walk(peer_ip: str, hops: Iterable[str], trusted: TrustedProxies | tuple[Network, ...]) -> str:
    """The first of the peer and the hops behind it (nearest first) that is not trusted, or the last believable."""
    known = trusted if isinstance(trusted, TrustedProxies) else TrustedProxies(trusted)
    client = peer_ip
    if not known.holds(client):
        return client
    for hop in hops:
        try:
            client = str(parse_address(hop))
        except ValueError:
            return client
        if not known.holds(client):
            return client
    return client


def _plain_hops(lines: list[bytes]) -> Iterator[str]:
    for hop in reversed(b",".join(lines).split(b",")):
        yield hop.strip().decode("latin-1")


ClientFinder = Callable[[str, Headers], tuple[str, str]]
"""(peer_ip, headers) → (client_ip, the lines that were looked at, for the log)."""

CLIENT_IP_HEADERS = ("x-forwarded-for", "forwarded", "cf-connecting-ip")
"""The header families a trusted proxy may tell the client's address in."""


def client_finder(header: str, trusted: TrustedProxies) -> ClientFinder:
    """The function that finds the client of a request, by the one header family that is read.

    ``x-forwarded-for`` and ``forwarded`` (RFC 7239) are walked from the right, as `client_address` does;
    ``cf-connecting-ip`` counts if it is one line with one address. Raises ValueError for any other name.
    """
    if header not in CLIENT_IP_HEADERS:
        raise ValueError(f"{header!r}: write one of {', '.join(CLIENT_IP_HEADERS)}")
    hops_of = {"x-forwarded-for": _plain_hops, "forwarded": forwarded_hops, "cf-connecting-ip": _only_hop}[header]
    name = header.encode("ascii")

    def find(peer_ip: str, headers: Headers) -> tuple[str, str]:
        lines = headers.get_all(name)
        if not lines:
            return peer_ip, ""
        return _walk(peer_ip, hops_of(lines), trusted), b", ".join(lines).decode("latin-1")

    return find


def _only_hop(lines: list[bytes]) -> Iterator[str]:
    if len(lines) == 1:
        yield lines[0].decode("latin-1")


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
