"""Addresses: strict parsing, and whose word about the client is believed."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address, ip_network
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.address import (
    CLIENT_IP_HEADERS,
    UNIX,
    Network,
    Networks,
    TrustedProxies,
    client_address,
    client_finder,
    normalise_peer,
    parse_address,
    parse_network,
    subject_key,
)
from proxy.core.headers import Headers

TRUSTED = tuple(map(parse_network, ("10.0.0.0/8", "fd00::/8", "::1")))

# What a lenient reader somewhere takes for an address: none of these is one here.
NOT_ADDRESSES = [
    "", " ", "unknown", "_hidden", "any", "unix", "localhost", "1.2.3.4:99", "[::1]", "[::1]:80", '"[::1]:80"',
    "010.0.0.1", "1.2.3.04", "0x7f.1", "0x7f000001", "127.1", "2130706433", "10", "1.2.3", "1.2.3.4.5",
    "1.2.3.256", "1.2.3.-4", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4\n", "::1\n", "1.2.3.4\x00", "１.2.3.4", "١.2.3.4",
    "1.2.3.4/32", "1.2.3.4%eth0", "1.2.3.4%:", "1.2.3.4%a:b", ":::", "1::2::3", "12345::", "::1 ", "g::1", "%eth0",
    "::ffff:1.2.3.400", "1:2:3:4:5:6:7:8:9", "1.2.3.4,5.6.7.8", "é::1",
]  # fmt: skip

BAD_NETWORKS = [
    ("10.0.0.1/8", r"has bits set behind the prefix; did you mean 10\.0\.0\.0/8\?"),
    ("2001:db8::1/32", r"has bits set behind the prefix; did you mean 2001:db8::/32\?"),
    ("10.0.0.0/0.255.255.255", "write the prefix length as a number"),
    ("10.0.0.0/255.0.0.0", "write the prefix length as a number"),
    ("10.0.0.0/", "write the prefix length as a number"),
    ("10.0.0.0/-1", "write the prefix length as a number"),
    ("10.0.0.0/٨", "write the prefix length as a number"),
    ("10.0.0.0/8/8", "write the prefix length as a number"),
    ("10.0.0.0/33", "is not an IP address or a network like"),
    ("::/129", "is not an IP address or a network like"),
    ("10/8", "is not an IP address or a network like"),
    ("fe80::1%eth0", "is not an IP address or a network like"),
    ("fe80::%eth0/64", "is not an IP address or a network like"),
    ("localhost/8", "is not an IP address or a network like"),
    ("/8", "is not an IP address or a network like"),
]  # fmt: skip
WORDS = [
    # nobody is believed who is not trusted
    ("192.0.2.1", [b"10.0.0.7"], "192.0.2.1"),
    ("fd01::1", [], "fd01::1"),
    (UNIX, [b"10.0.0.7"], UNIX),
    # a trusted peer is believed up to the first hop from the right that is not trusted
    ("10.0.0.1", [b"198.51.100.9"], "198.51.100.9"),
    ("10.0.0.1", [b"10.9.9.9, 198.51.100.9"], "198.51.100.9"),
    ("10.0.0.1", [b"203.0.113.5, 198.51.100.9, 10.0.0.2"], "198.51.100.9"),
    ("::1", [b"2001:db8::1,fd00::2"], "2001:db8::1"),
    # if all are trusted, the leftmost is the client
    ("10.0.0.1", [b"10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    # several lines are one list
    ("10.0.0.1", [b"203.0.113.5", b"198.51.100.9", b"10.0.0.2"], "198.51.100.9"),
    ("10.0.0.1", [b"198.51.100.9", b"10.0.0.3,10.0.0.2"], "198.51.100.9"),
    # junk ends the walk where it stands; nothing further left counts
    ("10.0.0.1", [b"203.0.113.5, unknown"], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, _hidden, 10.0.0.2"], "10.0.0.2"),
    ("10.0.0.1", [b"203.0.113.5, "], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, , 10.0.0.2"], "10.0.0.2"),
    ("10.0.0.1", [b""], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, 1.2.3.4:99"], "10.0.0.1"),
    ("10.0.0.1", [b'203.0.113.5, "[::1]:80"'], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, 010.0.0.2"], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, 198.51.100.9%:"], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, \xff"], "10.0.0.1"),
    ("10.0.0.1", [b"203.0.113.5, \xef\xbc\x91.2.3.4"], "10.0.0.1"),
    # hops compare unmapped and without zone
    ("10.0.0.1", [b"203.0.113.5, ::ffff:10.0.0.2"], "203.0.113.5"),
    ("10.0.0.1", [b"::ffff:203.0.113.5"], "203.0.113.5"),
    ("10.0.0.1", [b"203.0.113.5, fd00::1%eth0"], "203.0.113.5"),
    ("10.0.0.1", [b"\t198.51.100.9 "], "198.51.100.9"),
]  # fmt: skip


class TestParseAddress:
    @pytest.mark.parametrize("text", NOT_ADDRESSES)
    def test_anything_not_strictly_written_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not an IP address"):
            parse_address(text)

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("192.0.2.1", "192.0.2.1"),
            ("2001:DB8:0::0:1", "2001:db8::1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::FFFF:0a00:1", "10.0.0.1"),
            ("::ffff:10.0.0.1%eth0", "10.0.0.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("fe80::1%25eth0", "fe80::1"),
            ("fe80::1", "fe80::1"),
            # Embedded IPv4 addresses other than mapped ones are no IPv4 addresses.
            ("64:ff9b::7f00:1", "64:ff9b::7f00:1"),
            ("2002:7f00:1::", "2002:7f00:1::"),
            ("2001:0:7f00:1::", "2001:0:7f00:1::"),
            ("::127.0.0.1", "::7f00:1"),
        ],
    )
    def test_one_address_has_one_form(self, text: str, address: str) -> None:
        assert str(parse_address(text)) == address

    @given(st.one_of(st.text(max_size=40), st.text("0123456789abcdef:.%/x ", max_size=24)))
    def test_any_text_is_an_address_of_canonical_form_or_refused(self, text: str) -> None:
        try:
            address = parse_address(text)
        except ValueError:
            return
        assert parse_address(str(address)) == address


class TestParseNetwork:
    @pytest.mark.parametrize(("text", "message"), BAD_NETWORKS)
    def test_problems_say_what_to_write(self, text: str, message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            parse_network(text)
        assert repr(text) in str(caught.value)

    @pytest.mark.parametrize("text", [text for text in NOT_ADDRESSES if "/" not in text])
    def test_what_is_no_address_is_no_network(self, text: str) -> None:
        with pytest.raises(ValueError, match="is not an IP address or a network like"):
            parse_network(text)

    @pytest.mark.parametrize(
        ("text", "network"),
        [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.1", "10.0.0.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::/95", "::/95"),
            ("64:ff9b::/96", "64:ff9b::/96"),
        ],
    )
    def test_networks(self, text: str, network: str) -> None:
        assert str(parse_network(text)) == network


class TestContains:
    @pytest.mark.parametrize(
        ("address", "found"),
        [
            ("10.1.2.3", "10.0.0.0/8"),
            ("::ffff:10.1.2.3", "10.0.0.0/8"),
            ("11.0.0.0", None),
            ("::a01:203", None),
            ("fd12::1%eth0", "fd00::/8"),
            ("::1", "::1/128"),
            ("64:ff9b::a00:1", None),
            ("2002:a00:1::", None),
            ("192.0.0.8", None),
        ],
    )
    def test_the_version_counts(self, address: str, found: str | None) -> None:
        network = Networks(TRUSTED).find(parse_address(address))
        assert (network and str(network)) == found

    def test_all_of_one_version_is_none_of_the_other(self) -> None:
        assert Networks([parse_network("::/0")]).find(parse_address("192.0.2.1")) is None
        assert Networks([parse_network("0.0.0.0/0")]).find(parse_address("2001:db8::1")) is None


class TestNormalisePeer:
    @pytest.mark.parametrize(
        ("host", "peer"),
        [
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("fe80::1%eth0", "fe80::1"),
            ("192.0.2.1", "192.0.2.1"),
            ("", UNIX),
            ("/run/sluice.sock", UNIX),
        ],
    )
    def test_form(self, host: str, peer: str) -> None:
        assert normalise_peer(host) == peer


class TestClientAddress:
    @pytest.mark.parametrize(("peer", "lines", "client"), WORDS)
    def test_whose_word_counts(self, peer: str, lines: list[bytes], client: str) -> None:
        assert client_address(peer, lines, TRUSTED) == client

    def test_without_trusted_proxies_the_peer_is_the_client(self) -> None:
        assert client_address("10.0.0.1", [b"203.0.113.5"], ()) == "10.0.0.1"


class TestTrustedProxies:
    @pytest.mark.parametrize(
        ("entries", "ip", "is_trusted"),
        [
            ([], "10.0.0.1", False),
            ([], UNIX, False),
            (["10.0.0.0/8"], "10.0.0.1", True),
            (["10.0.0.0/8"], "11.0.0.1", False),
            (["10.0.0.0/8"], UNIX, False),
            ([UNIX], UNIX, True),
            ([UNIX], "10.0.0.1", False),
            (["10.0.0.1", UNIX, "fd00::/8"], UNIX, True),
            (["10.0.0.1", UNIX, "fd00::/8"], "fd00::1", True),
            # one version's everybody is not the other's, and nobody's is a unix socket's
            (["0.0.0.0/0"], "192.0.2.1", True),
            (["0.0.0.0/0"], "2001:db8::1", False),
            (["0.0.0.0/0", "::/0"], "2001:db8::1", True),
            (["0.0.0.0/0", "::/0"], UNIX, False),
            (["::/0"], "192.0.2.1", False),
            (["10.0.0.0/8"], "64:ff9b::a00:1", False),
            (["10.0.0.0/8"], "2002:a00:1::", False),
        ],
    )
    def test_who_is_trusted(self, entries: list[str], ip: str, is_trusted: bool) -> None:
        trusted = TrustedProxies.parse(entries)
        assert trusted.holds(ip) is is_trusted
        assert bool(trusted) is bool(entries)

    @pytest.mark.parametrize("entry", ["Unix", "unix ", "any", "", "10.0.0.1/8", "010.0.0.1", "127.1", "localhost"])
    def test_anything_else_is_refused(self, entry: str) -> None:
        with pytest.raises(ValueError, match=r"did you mean|is not an IP address"):
            TrustedProxies.parse(["10.0.0.1", entry])

    def test_shows_what_it_holds(self) -> None:
        assert repr(TrustedProxies.parse(["10.0.0.0/8", UNIX])) == "<TrustedProxies ['unix', '10.0.0.0/8']>"


RESOLVED = [
    ("x-forwarded-for", "10.0.0.1", [("X-Forwarded-For", "192.0.2.9")], "192.0.2.9", "192.0.2.9"),
    ("x-forwarded-for", "10.0.0.1", [], "10.0.0.1", ""),
    # the log shows what a stranger claims, and nobody believes it
    ("x-forwarded-for", "192.0.2.1", [("X-Forwarded-For", "10.0.0.7")], "192.0.2.1", "10.0.0.7"),
    (
        "x-forwarded-for",
        "10.0.0.1",
        [("X-Forwarded-For", "203.0.113.5"), ("X-Forwarded-For", "198.51.100.9, 10.0.0.2")],
        "198.51.100.9",
        "203.0.113.5, 198.51.100.9, 10.0.0.2",
    ),
    ("forwarded", "10.0.0.1", [("Forwarded", "for=192.0.2.9;proto=https")], "192.0.2.9", "for=192.0.2.9;proto=https"),
    ("forwarded", "10.0.0.1", [("Forwarded", 'for="[2001:db8::1]:4711"')], "2001:db8::1", 'for="[2001:db8::1]:4711"'),
    ("forwarded", "192.0.2.1", [("Forwarded", "for=10.0.0.7")], "192.0.2.1", "for=10.0.0.7"),
    (
        "forwarded",
        "10.0.0.1",
        [("Forwarded", "for=203.0.113.5"), ("Forwarded", 'for=198.51.100.9, For="[fd00::2]"')],
        "198.51.100.9",
        'for=203.0.113.5, for=198.51.100.9, For="[fd00::2]"',
    ),
    ("forwarded", "10.0.0.1", [("Forwarded", "for=203.0.113.5, for=unknown")], "10.0.0.1", None),
    ("forwarded", "10.0.0.1", [("Forwarded", "for=203.0.113.5, for=_x, for=10.0.0.2")], "10.0.0.2", None),
    ("forwarded", "10.0.0.1", [("Forwarded", "for=203.0.113.5, proto=http, for=10.0.0.2")], "10.0.0.2", None),
    ("forwarded", "10.0.0.1", [("Forwarded", "for=203.0.113.5, for=010.0.0.2")], "10.0.0.1", None),
    ("forwarded", "10.0.0.1", [("Forwarded", "for=10.0.0.3, for=10.0.0.2")], "10.0.0.3", None),
    ("forwarded", "10.0.0.1", [("Forwarded", 'for="a'), ("Forwarded", "for=198.51.100.9")], "198.51.100.9", None),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "192.0.2.9")], "192.0.2.9", "192.0.2.9"),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "2001:DB8::1")], "2001:db8::1", None),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "10.0.0.3")], "10.0.0.3", None),
    ("cf-connecting-ip", "192.0.2.1", [("CF-Connecting-IP", "10.0.0.7")], "192.0.2.1", "10.0.0.7"),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "192.0.2.9, 10.0.0.2")], "10.0.0.1", None),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "192.0.2.9:80")], "10.0.0.1", None),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "")], "10.0.0.1", None),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "192.0.2.9")] * 2, "10.0.0.1", "192.0.2.9, 192.0.2.9"),
    ("cf-connecting-ip", "10.0.0.1", [("CF-Connecting-IP", "\xff")], "10.0.0.1", None),
]  # fmt: skip


class TestClientFinder:
    @pytest.mark.parametrize(("header", "peer", "pairs", "client", "chain"), RESOLVED)
    def test_whose_word_counts(
        self, header: str, peer: str, pairs: list[tuple[str, str]], client: str, chain: str | None
    ) -> None:
        find = client_finder(header, TrustedProxies.parse(["10.0.0.0/8", "fd00::/8"]))
        found, shown = find(peer, Headers.from_pairs(pairs))
        assert found == client
        assert shown == (", ".join(value for _, value in pairs) if chain is None else chain)

    @pytest.mark.parametrize("header", CLIENT_IP_HEADERS)
    def test_of_all_families_exactly_one_is_read(self, header: str) -> None:
        said = {
            "x-forwarded-for": "192.0.2.1",
            "forwarded": "for=192.0.2.2",
            "cf-connecting-ip": "192.0.2.3",
        }
        others = [("X-Real-IP", "192.0.2.4"), ("True-Client-IP", "192.0.2.5"), ("X_Forwarded_For", "192.0.2.6")]
        find = client_finder(header, TrustedProxies.parse(["10.0.0.0/8"]))
        client = {"x-forwarded-for": "192.0.2.1", "forwarded": "192.0.2.2", "cf-connecting-ip": "192.0.2.3"}[header]
        assert find("10.0.0.1", Headers.from_pairs([*said.items(), *others])) == (client, said[header])
        rest = [(name, value) for name, value in said.items() if name != header]
        assert find("10.0.0.1", Headers.from_pairs([*rest, *others])) == ("10.0.0.1", "")

    @pytest.mark.parametrize("header", CLIENT_IP_HEADERS)
    def test_nobody_is_believed_where_nobody_is_trusted(self, header: str) -> None:
        find = client_finder(header, TrustedProxies())
        value = "for=192.0.2.9" if header == "forwarded" else "192.0.2.9"
        assert find("10.0.0.1", Headers.from_pairs([(header, value)]))[0] == "10.0.0.1"
        assert find(UNIX, Headers.from_pairs([(header, value)]))[0] == UNIX

    @pytest.mark.parametrize("header", CLIENT_IP_HEADERS)
    def test_a_unix_peer_is_believed_only_by_its_own_word(self, header: str) -> None:
        value = "for=192.0.2.9" if header == "forwarded" else "192.0.2.9"
        headers = Headers.from_pairs([(header, value)])
        assert client_finder(header, TrustedProxies.parse([UNIX]))(UNIX, headers)[0] == "192.0.2.9"
        assert client_finder(header, TrustedProxies.parse(["0.0.0.0/0", "::/0"]))(UNIX, headers)[0] == UNIX

    @pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded"])
    def test_the_word_unix_is_no_hop(self, header: str) -> None:
        find = client_finder(header, TrustedProxies.parse([UNIX, "10.0.0.0/8"]))
        value = "for=192.0.2.9, for=unix" if header == "forwarded" else "192.0.2.9, unix"
        assert find("10.0.0.1", Headers.from_pairs([(header, value)]))[0] == "10.0.0.1"

    @pytest.mark.parametrize("header", ["", "X-Forwarded-For", "x-real-ip", "any"])
    def test_no_other_header_can_be_asked_for(self, header: str) -> None:
        with pytest.raises(ValueError, match="write one of x-forwarded-for, forwarded, cf-connecting-ip"):
            client_finder(header, TrustedProxies())


# An oracle that shares no code with what it judges: bits from `inet_pton`, and the walk from left to right.

NETWORKS = [("10.0.0.0", 8), ("192.168.4.0", 22), ("0.0.0.0", 1), ("fd00::", 8), ("2001:db8::", 33), ("::1", 128)]
V4_PREFIX = bytes(10) + b"\xff\xff"


def bits_of(text: str) -> bytes | None:
    """The 16 bytes of an address (IPv4 as mapped), or None."""
    if ":" in text:
        text = text.split("%")[0]
    try:
        packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return None
    return packed if len(packed) == 16 else V4_PREFIX + packed


def number(packed: bytes) -> int:
    high, low = struct.unpack("!QQ", packed)
    return int(high) << 64 | int(low)


def is_within(packed: bytes, network: str, prefix: int) -> bool:
    base = bits_of(network)
    assert base is not None
    is_v4 = base[:12] == V4_PREFIX
    if is_v4 != (packed[:12] == V4_PREFIX):
        return False
    shift = (32 if is_v4 else 128) - prefix
    return number(packed) >> shift == number(base) >> shift


def oracle(peer: str, lines: list[str], trusted: list[tuple[str, int]]) -> bytes:
    hops = [bits_of(part.strip(" \t")) for line in lines for part in line.split(",")] + [bits_of(peer)]
    believed = [packed is not None and any(is_within(packed, *network) for network in trusted) for packed in hops]
    # A hop is believed if it and all to the right of it were trusted; the client is the hop before those.
    first = len(hops)
    while first > 0 and believed[first - 1]:
        first -= 1
    client = hops[first - 1] if first > 0 else None
    chosen = hops[first] if client is None else client
    assert chosen is not None
    return chosen


def written(packed: bytes, as_v4: bool, spelling: str) -> str:
    """An address as text: IPv4 plainly or mapped, IPv6 in one of several spellings."""
    if as_v4 and packed[:12] == V4_PREFIX:
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    text = socket.inet_ntop(socket.AF_INET6, packed)
    return {"plain": text, "upper": text.upper(), "zone": f"{text}%eth0", "quoted zone": f"{text}%25en1"}[spelling]


def near(network: tuple[str, int]) -> st.SearchStrategy[bytes]:
    """Addresses in a network, and some just outside."""
    base = bits_of(network[0])
    assert base is not None
    free = (32 if base[:12] == V4_PREFIX else 128) - network[1]
    inside = st.integers(0, 2**free - 1).map(lambda host: number(base) ^ host)
    outside = st.just(number(base) ^ 1 << free) if network[1] else inside
    return st.one_of(inside, inside, outside).map(lambda value: value.to_bytes(16, "big"))


SPELLINGS = st.sampled_from(["plain", "plain", "upper", "zone", "quoted zone"])
ADDRESSES = st.builds(
    written, st.one_of(*map(near, [*NETWORKS, ("0.0.0.0", 0), ("::", 0)])), st.booleans(), SPELLINGS
)
JUNK = st.sampled_from(["unknown", "", "_x", "1.2.3.4:5", "[::1]", "01.2.3.4", "1.2.3", "::g", "1.2.3.4/8", "\xff"])
HOPS = st.one_of(ADDRESSES, ADDRESSES, ADDRESSES, JUNK)
LINES = st.lists(st.lists(HOPS, max_size=4).map(" ,\t".join), max_size=3)
TRUST = st.lists(st.sampled_from(NETWORKS), unique=True)


@settings(max_examples=500)
@given(peer=ADDRESSES, lines=LINES, trusted=TRUST)
def test_agrees_with_an_independent_oracle(peer: str, lines: list[str], trusted: list[tuple[str, int]]) -> None:
    networks: tuple[Network, ...] = tuple(parse_network(f"{base}/{prefix}") for base, prefix in trusted)
    found = client_address(normalise_peer(peer), [line.encode("latin-1") for line in lines], networks)
    assert bits_of(found) == oracle(peer, lines, trusted)


def forwarded_element(hop: str, extra: str) -> str:
    """The element that says of a hop what the X-Forwarded-For hop says; junk stays junk."""
    packed = bits_of(hop)
    if packed is None:
        return "for=unknown"
    return f'for="[{hop}]:1"{extra}' if ":" in hop else f"for={hop}{extra}"


@settings(max_examples=500)
@given(
    peer=ADDRESSES,
    lines=st.lists(st.lists(HOPS, min_size=1, max_size=4), max_size=3),
    trusted=TRUST,
    extra=st.sampled_from(["", ";proto=https", ';host="a, for=10.0.0.1"', "; by=_gw"]),
)
def test_forwarded_agrees_with_the_same_oracle(
    peer: str, lines: list[list[str]], trusted: list[tuple[str, int]], extra: str
) -> None:
    find = client_finder("forwarded", TrustedProxies.parse(f"{base}/{prefix}" for base, prefix in trusted))
    written = [", ".join(forwarded_element(hop, extra) for hop in hops) for hops in lines]
    found, _ = find(normalise_peer(peer), Headers.from_pairs([("Forwarded", line) for line in written]))
    assert bits_of(found) == oracle(peer, [",".join(hops) for hops in lines], trusted)


class TestSubjectKey:
    @pytest.mark.parametrize(
        ("prefix", "client", "subject"),
        [
            (64, "192.0.2.1", "192.0.2.1"),
            (64, "2001:db8::1", "2001:db8::/64"),
            (64, "2001:db8:0:1::1", "2001:db8:0:1::/64"),
            (56, "2001:db8:0:ff::1", "2001:db8::/56"),
            (48, "2001:db8:0:ffff::1", "2001:db8::/48"),
            (128, "2001:db8::1", "2001:db8::1"),
            (64, UNIX, UNIX),
        ],
    )
    def test_ipv6_counts_by_network(self, prefix: int, client: str, subject: str) -> None:
        assert subject_key(prefix)(client) == subject

    def test_ten_thousand_addresses_of_one_network_are_one_subject(self) -> None:
        subject = subject_key(64)
        assert {subject(f"2001:db8::{n:x}") for n in range(10_000)} == {"2001:db8::/64"}
        assert len({subject(f"192.0.{n // 256}.{n % 256}") for n in range(10_000)}) == 10_000


class TestNetworks:
    def test_the_first_that_holds_an_address_is_the_answer(self) -> None:
        random = Random(5)
        for _ in range(40):
            listed = [
                ip_network((random.getrandbits(10) << 22, random.randint(4, 32)), strict=False) for _ in range(30)
            ] + [ip_network((random.getrandbits(10) << 118, random.randint(4, 128)), strict=False) for _ in range(30)]
            random.shuffle(listed)
            networks = Networks(listed)
            for network in listed:
                for asked in (network[0], network[-1], ip_address(random.getrandbits(32))):
                    holding = [one for one in listed if one.version == asked.version and asked in one]
                    assert networks.find(asked) == (holding[0] if holding else None)

    def test_a_long_list_costs_no_more_than_a_short_one(self) -> None:
        many = Networks(ip_network(f"10.{n >> 8}.{n & 255}.0/24") for n in range(10_000))
        looked: list[int] = []

        class Counting(dict[int, tuple[int, Network]]):
            def get(self, key: int, default: object = None) -> object:  # type: ignore[override]
                looked.append(key)
                return super().get(key, default)

        many._held[4] = {shift: Counting(prefixes) for shift, prefixes in many._held[4].items()}
        assert many.find(parse_address("10.39.15.77")) == ip_network("10.39.15.0/24")
        assert many.find(parse_address("11.0.0.1")) is None
        assert len(looked) == 2
