"""``Forwarded``: its elements read from the right, whatever a client wrote on the left."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.core.address import parse_address
from proxy.core.forwarded import forwarded_hops

ELEMENTS: list[tuple[bytes, str]] = [
    (b"for=192.0.2.43", "192.0.2.43"),
    (b"For=192.0.2.43;Proto=http;BY=203.0.113.60", "192.0.2.43"),
    (b"proto=http;by=203.0.113.60;for=192.0.2.43;host=example.com", "192.0.2.43"),
    (b'for="192.0.2.43"', "192.0.2.43"),
    (b'for="192.0.2.43:47011"', "192.0.2.43"),
    (b'for="192.0.2.43:_port-1.x"', "192.0.2.43"),
    (b'for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
    (b'for="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
    (b'for="[::ffff:192.0.2.43]"', "::ffff:192.0.2.43"),
    (b'for="192\\.0.2.43"', "192.0.2.43"),
    (b'host="a,b;for=10.0.0.1";for=192.0.2.43', "192.0.2.43"),
    (b'host="a\\"b, for=10.0.0.1";for=192.0.2.43', "192.0.2.43"),
    (b'host="\\\\";for=192.0.2.43', "192.0.2.43"),
    (b";for=192.0.2.43;;", "192.0.2.43"),
    (b" for=192.0.2.43 ; proto=https\t", "192.0.2.43"),
    # no address
    (b"for=unknown", ""),
    (b"for=_hidden", ""),
    (b'for="_gazonk"', ""),
    (b'for="unknown:80"', ""),
    (b"proto=https", ""),
    (b"", ""),
    (b"for=", ""),
    (b'for=""', ""),
    (b"for", ""),
    (b"for=192.0.2.43;for=192.0.2.44", ""),
    (b"for=192.0.2.43;FOR=192.0.2.43", ""),
    # not as the grammar has it
    (b"for=192.0.2.43:80", ""),
    (b"for=[2001:db8::1]", ""),
    (b"for=2001:db8::1", ""),
    (b'for="2001:db8::1"', ""),
    (b'for="[192.0.2.43]"', ""),
    (b'for="[2001:db8::1]:"', ""),
    (b'for="[2001:db8::1]:123456"', ""),
    (b'for="[2001:db8::1]x"', ""),
    (b'for="[2001:db8::1"', ""),
    (b'for=" 192.0.2.43"', ""),
    (b"for = 192.0.2.43", ""),
    (b"for= 192.0.2.43", ""),
    (b"for=192.0.2.43 proto=http", ""),
    (b"192.0.2.43", ""),
    (b'for=192.0.2.43"', ""),
    (b'for="192.0.2.43', ""),
    (b'for="192.0.2.43"x', ""),
    (b'for="192.0.2.43"proto=http', ""),
    (b"for=192.0.2.43;x=\\", ""),
    (b"for=\xff", ""),
    (b'for="\xff.0.0.1"', ""),
]


def hops(*lines: bytes) -> list[str]:
    return list(forwarded_hops(list(lines)))


@pytest.mark.parametrize(("element", "address"), ELEMENTS)
def test_an_element_names_one_address_or_none(element: bytes, address: str) -> None:
    assert hops(element) == [address]
    # By whatever stands on its left it is not changed.
    assert hops(b"for=198.51.100.1, " + element)[0] == address


def test_lines_are_joined_in_order_and_read_from_the_right() -> None:
    assert hops(b"for=192.0.2.1, for=192.0.2.2", b'for="[2001:db8::3]";by=_x', b"for=192.0.2.4") == [
        "192.0.2.4",
        "2001:db8::3",
        "192.0.2.2",
        "192.0.2.1",
    ]


OPEN_ENDS = [
    b'"', b'for="', b'for=10.0.0.1;x="', b'for="a\\', b"\\", b'for=10.0.0.1, for="x, for=10.0.0.2',
    b'a="b"c="', b'for="10.0.0.1"', b'"""', b'\\"', b'x="\\\\"', b",", b";", b"for=",
]  # fmt: skip


@pytest.mark.parametrize("prefix", OPEN_ENDS)
@pytest.mark.parametrize("appended", [element for element, address in ELEMENTS if address])
def test_a_quote_left_open_swallows_nothing(prefix: bytes, appended: bytes) -> None:
    assert hops(prefix + b", " + appended)[0] == hops(appended)[0]
    assert hops(prefix, appended)[0] == hops(appended)[0]


TOKENS = st.text("abcXYZ019!#$%&'*+.^_`|~-", min_size=1, max_size=8)
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
NAMES = TOKENS.filter(lambda name: name.lower() != "for")


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


PAIRS = st.builds("{}={}".format, NAMES, st.one_of(TOKENS, WORDS.map(quoted)))
PORTS = st.one_of(st.just(""), st.integers(0, 99_999).map(":{}".format), TOKENS.map(lambda _: ":_obf-1"))


@st.composite
def elements(draw: st.DrawFn) -> tuple[str, str]:
    """(an element as an honest proxy writes it, the address it names or "")."""
    address = str(draw(st.ip_addresses()))
    port = draw(PORTS)
    node = f"[{address}]{port}" if ":" in address else f"{address}{port}"
    kind = draw(st.sampled_from(["address", "address", "address", "unknown", "hidden", "none", "twice"]))
    name = draw(st.sampled_from(["for", "For", "FOR"]))
    plain = ":" not in node and draw(st.booleans())
    said = f"{name}={node if plain else quoted(node)}"
    mine = {
        "address": [said],
        "unknown": [f"{name}=unknown"],
        "hidden": [f"{name}=_{draw(TOKENS.filter(str.isalnum))}"],
        "none": [],
        "twice": [said, said],
    }[kind]
    pairs = draw(st.permutations(mine + draw(st.lists(PAIRS, max_size=3))))
    return draw(st.sampled_from([";", "; "])).join(pairs), address if kind == "address" else ""


@settings(max_examples=400)
@given(st.lists(elements(), min_size=1, max_size=5), st.data())
def test_what_honest_proxies_wrote_is_read_back(written: list[tuple[str, str]], data: st.DataObject) -> None:
    """The oracle is the list the text was made of: it never sees the text."""
    lines = [""]
    for number, (element, _) in enumerate(written):
        if number and data.draw(st.booleans()):
            lines.append(element)
        else:
            lines[-1] += (", " if number else "") + element
    read = hops(*[line.encode("latin-1") for line in lines])
    assert [hop and str(parse_address(hop)) for hop in read] == [
        address and str(parse_address(address)) for _, address in reversed(written)
    ]


@settings(max_examples=400)
@given(
    st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(OPEN_ENDS), max_size=6).map(b"".join)),
    st.lists(elements(), min_size=1, max_size=3),
    st.booleans(),
)
def test_nothing_a_client_writes_changes_what_the_proxies_behind_it_say(
    prefix: bytes, appended: list[tuple[str, str]], own_line: bool
) -> None:
    text = ", ".join(element for element, _ in appended).encode("latin-1")
    read = hops(prefix, text) if own_line else hops(prefix + b", " + text)
    assert [hop and str(parse_address(hop)) for hop in read[: len(appended)]] == [
        address and str(parse_address(address)) for _, address in reversed(appended)
    ]


@given(
    st.lists(st.one_of(st.binary(max_size=60), st.text('",;=\\ for[]:.1a', max_size=60).map(str.encode)), max_size=4)
)
def test_any_bytes_are_read_to_an_end(lines: list[bytes]) -> None:
    joined = b",".join(lines)
    found = hops(*lines)
    assert 1 <= len(found) <= joined.count(b",") + 1


@pytest.mark.parametrize(
    "piece", [b'"', b'\\"', b'"a";', b",", b";", b" ", b"\\", b"for=10.0.0.1,", b'a="b",', b'"\\', b'",']
)
@pytest.mark.parametrize("end", [b"", b'"', b"x", b'="'])
def test_time_grows_with_the_bytes_and_no_faster(piece: bytes, end: bytes) -> None:
    """64 KiB, the longest head there is, take milliseconds; what is quadratic takes seconds."""
    started = time.process_time()
    hops((piece * 65_536)[:65_536] + end)
    assert time.process_time() - started < 0.5
