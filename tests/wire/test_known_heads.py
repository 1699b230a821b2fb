"""Heads that came before: found again, whatever the length, and never mistaken for one another."""

from __future__ import annotations

import pytest

from proxy.core.headers import REPLACED_IN_REQUESTS, encode, end_to_end
from proxy.wire.gate import RequestError, RequestHead
from proxy.wire.head import RequestParser
from proxy.wire.known_heads import MOST_BYTES, MOST_HEADS, KnownHeads

HEAD = b"POST /v1/x HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk\r\n%bX-Other: 1\r\n\r\n"


def parsed(data: bytes) -> RequestHead:
    parser = RequestParser(65_536)
    parser.feed(data)
    return parser.head()


def known(data: bytes, max_bytes: int = 65_536) -> KnownHeads:
    heads = KnownHeads(max_bytes, lambda: 0.0)
    for _ in range(2):
        heads.remember(data, parsed(data))
    return heads


def facts(head: RequestHead) -> dict[str, object]:
    """Everything there is to know of a head."""
    every = {name: getattr(head, name) for name in RequestHead.__slots__ if name != "headers"}
    return every | {"fields": head.headers.fields}


@pytest.mark.parametrize("name", [b"Content-Length: ", b"content-length: ", b"CONTENT-LENGTH: ", b"Content-Length:"])
@pytest.mark.parametrize("length", [b"5", b"0", b"123456", b"999999999999999999"])
def test_a_head_found_again_is_what_reading_it_would_give(name: bytes, length: bytes) -> None:
    heads = known(HEAD % (name + b"5\r\n"))
    again = HEAD % (name + length + b"\r\n")
    found = heads.find(again + b"the body\r\n\r\n")
    if found is None:
        assert length != b"5", "the very same bytes"
        assert name not in (b"Content-Length: ", b"content-length: ")
        return
    head, end = found
    assert (facts(head), end) == (facts(parsed(again)), len(again))
    crossing = encode(end_to_end(parsed(again).headers, REPLACED_IN_REQUESTS))
    for _ in range(2):
        assert head.headers.crossing(REPLACED_IN_REQUESTS) == crossing


@pytest.mark.parametrize(
    "length", [b"05", b"", b"+5", b"5 ", b"5,5", b"\xb2", b"1" * 19, b"0x5", b"5\r\nContent-Length: 5"]
)
def test_a_length_that_the_gate_should_see_is_not_found(length: bytes) -> None:
    heads = known(HEAD % b"Content-Length: 5\r\n")
    assert heads.find(HEAD % (b"Content-Length: " + length + b"\r\n")) is None


def test_with_and_without_a_length_are_two_heads() -> None:
    without, with_length = HEAD % b"", HEAD % b"Content-Length: 5\r\n"
    assert known(without).find(with_length) is None
    assert known(with_length).find(without) is None
    found = known(without).find(without)
    assert found is not None
    assert facts(found[0]) == facts(parsed(without))


def test_a_head_that_is_not_whole_or_too_long_is_not_found() -> None:
    whole = HEAD % b"Content-Length: 5\r\n"
    assert known(whole).find(whole[:-1]) is None
    long = HEAD % (b"X-Long: " + b"x" * MOST_BYTES + b"\r\n")
    assert known(long).find(long) is None
    assert known(whole, max_bytes=2 * len(whole) - 8).find(whole) is not None
    assert known(whole, max_bytes=2 * len(whole) - 10).find(whole) is None


def test_each_request_has_lines_of_its_own() -> None:
    data = HEAD % b"Content-Length: 5\r\n"
    heads = known(data)
    first, second = heads.find(data), heads.find(data)
    assert first is not None
    assert second is not None
    first[0].headers.set(b"X-Other", b"2")
    first[0].headers.add(b"X-New", b"3")
    assert second[0].headers.get(b"x-other") == b"1"
    assert first[0].headers.get(b"x-new") == b"3"
    assert b"X-New: 3\r\n" in first[0].headers.crossing(REPLACED_IN_REQUESTS)
    assert heads.find(data) is not None
    assert facts(heads.find(data)[0]) == facts(parsed(data))  # type: ignore[index]


def test_an_upgrade_is_judged_every_time() -> None:
    lines = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    data = b"GET /v1/realtime HTTP/1.1\r\nHost: a\r\n%bContent-Length: 0\r\n\r\n" % lines
    assert parsed(data).wants_websocket
    assert known(data).find(data) is None


def head_number(number: int) -> bytes:
    return HEAD % (b"X-Number: %d\r\n" % number)


def test_what_is_remembered_is_bounded() -> None:
    heads = KnownHeads(65_536, lambda: 0.0)
    head = parsed(HEAD % b"")
    for number in range(3 * MOST_HEADS + 1):
        for _ in range(2):
            heads.remember(head_number(number), head)
    assert len(heads._known) + len(heads._elder) <= 2 * MOST_HEADS
    assert heads.find(head_number(3 * MOST_HEADS)) is not None


def test_a_head_that_comes_once_is_not_kept() -> None:
    heads = KnownHeads(65_536, lambda: 0.0)
    head = parsed(HEAD % b"")
    for number in range(3 * MOST_HEADS):
        heads.remember(head_number(number), head)
    assert not heads._known
    assert len(heads._seen_once) <= MOST_HEADS


def test_a_head_in_use_outlives_those_that_are_not() -> None:
    heads = KnownHeads(65_536, lambda: 0.0)
    head = parsed(HEAD % b"")
    used = HEAD % b""
    for data in (used, used):
        heads.remember(data, head)
    for number in range(5 * MOST_HEADS):
        for _ in range(2):
            heads.remember(head_number(number), head)
        assert heads.find(used) is not None


def test_what_is_not_used_is_forgotten_in_time() -> None:
    now = [0.0]
    heads = KnownHeads(65_536, lambda: now[0])
    head = parsed(HEAD % b"")
    for data in (head_number(1), head_number(1), head_number(2), head_number(2)):
        heads.remember(data, head)
    for seconds in (61, 122):
        now[0] = seconds
        heads.remember(head_number(3), head)
        assert heads.find(head_number(1)) is not None
    assert heads.find(head_number(2)) is None


def test_a_refused_head_is_refused_again() -> None:
    with pytest.raises(RequestError):
        parsed(HEAD % b"Content-Length: 5\r\nContent-Length: 5\r\n")


def test_what_the_first_exchange_does_to_its_lines_is_its_own() -> None:
    lines = b"Accept-Encoding: gzip\r\nHost: a\r\nContent-Length: 5\r\nAuthorization: Bearer sk\r\n"
    data = b"POST /v1/x HTTP/1.1\r\n%b\r\n" % lines
    heads = KnownHeads(65_536, lambda: 0.0)
    for _ in range(2):
        head = parsed(data)
        heads.remember(data, head)
        head.headers.set(b"Accept-Encoding", b"identity")
    found = heads.find(data)
    assert found is not None
    assert facts(found[0]) == facts(parsed(data))


def test_a_head_of_many_lines_is_not_kept() -> None:
    data = HEAD % (b"a: 1\r\n" * 40)
    assert known(data).find(data) is None
