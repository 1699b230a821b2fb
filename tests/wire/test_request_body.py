"""The body of a request: the same payload and the same end, in one piece or in many."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.framing import FramingError
from proxy.wire.gate import RequestError, RequestHead
from proxy.wire.request_body import DISCARD_AT_MOST, RequestBody
from tests.wire.heads import get, request_of

TIMEOUT_S = 5.0
BEHIND = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"


def head_of(*lines: str) -> RequestHead:
    return request_of(get(*lines, method="POST"))


def begun(*lines: str) -> RequestBody:
    """A body that a head with these lines has announced."""
    body = RequestBody(TIMEOUT_S)
    body.begin(head_of(*lines))
    return body


def in_pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at these offsets; no piece is empty."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def take_all(body: RequestBody, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """(payload, what is behind the body), from a body fed until it has ended."""
    payload = b""
    for index, piece in enumerate(pieces):
        taken, rest = body.take(piece)
        payload += taken
        if body.has_ended:
            return payload, rest + b"".join(pieces[index + 1 :])
        assert rest == b""
    return payload, b""


@pytest.mark.parametrize("lines", [(), ("Content-Length: 0",), ("Content-Length: 0", "Expect: 100-continue")])
def test_no_body_has_ended_before_it_begins(lines: tuple[str, ...]) -> None:
    assert begun(*lines).has_ended


def test_a_whole_body_is_handed_on_as_it_is() -> None:
    body = begun("Content-Length: 1000")
    data = bytes(1000)
    payload, rest = body.take(data)
    assert payload is data
    assert (rest, body.has_ended) == (b"", True)


@pytest.mark.parametrize("max_bytes", [0, 5, 100])
@pytest.mark.parametrize("behind", [b"", b"x", b"12345", BEHIND])
def test_any_two_pieces_of_a_known_length(behind: bytes, max_bytes: int) -> None:
    data = b"hello" + behind
    for cut in range(len(data) + 1):
        body = begun("Content-Length: 5")
        body.max_bytes = max_bytes
        assert take_all(body, in_pieces(data, [cut])) == (b"hello", behind), cut
        assert body.has_ended


def test_a_later_piece_as_long_as_the_whole_is_not_taken_for_it() -> None:
    body = begun("Content-Length: 5")
    assert body.take(b"he") == (b"he", b"")
    assert body.take(b"llo12") == (b"llo", b"12")
    assert body.has_ended


def test_less_than_announced_is_no_end() -> None:
    body = begun("Content-Length: 6")
    assert take_all(body, [b"h", b"e", b"llo"]) == (b"hello", b"")
    assert not body.has_ended


@given(
    st.binary(min_size=1, max_size=60),
    st.sampled_from([b"", b"\r\n", BEHIND]),
    st.lists(st.integers(0, 200), max_size=8),
    st.booleans(),
)
def test_chunks_and_a_length_carry_the_same(payload: bytes, behind: bytes, cuts: list[int], is_capped: bool) -> None:
    half = len(payload) // 2
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (payload[:half], payload[half:]) if part]
    for lines, data in (
        ((f"Content-Length: {len(payload)}",), payload),
        ((CHUNKED,), b"".join(chunks) + b"0\r\n\r\n"),
    ):
        body = begun(*lines)
        body.max_bytes = len(payload) if is_capped else 0
        assert take_all(body, in_pieces(data + behind, cuts)) == (payload, behind)
        assert body.has_ended


def test_chunks_of_no_length_end_by_themselves_alone() -> None:
    body = begun(CHUNKED)
    assert not body.has_ended
    assert body.take(b"0\r\n") == (b"", b"")
    assert not body.has_ended
    assert body.take(b"\r\n" + BEHIND) == (b"", BEHIND)
    assert body.has_ended


def test_malformed_chunks_are_an_error() -> None:
    with pytest.raises(FramingError):
        begun(CHUNKED).take(b"5\r\nhelloX")


@pytest.mark.parametrize("by", [1, 2, 100])
@pytest.mark.parametrize("lines", [("Content-Length: 6",), (CHUNKED,)])
def test_more_than_welcome_is_refused_as_soon_as_it_has_come(lines: tuple[str, ...], by: int) -> None:
    data = b"123456" if lines != (CHUNKED,) else b"3\r\n123\r\n3\r\n456\r\n0\r\n\r\n"
    body = begun(*lines)
    body.max_bytes = 5
    with pytest.raises(RequestError) as caught:
        take_all(body, [data[start : start + by] for start in range(0, len(data), by)])
    assert caught.value.status == 413


@pytest.mark.parametrize(("max_bytes", "is_welcome"), [(0, True), (4, False), (5, True), (6, True)])
def test_an_announcement_is_judged_before_a_byte_has_come(max_bytes: int, is_welcome: bool) -> None:
    body = begun("Content-Length: 5")
    body.max_bytes = max_bytes
    if is_welcome:
        body.check_announcement()
    else:
        with pytest.raises(RequestError) as caught:
            body.check_announcement()
        assert caught.value.status == 413


def test_a_client_that_waits_to_be_told_is_noted_and_its_body_read_like_any() -> None:
    for lines, data in (("Content-Length: 5", b"hello"), (CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")):
        body = begun(lines, "Expect: 100-continue")
        assert body.is_asked_for
        assert take_all(body, [data + BEHIND]) == (b"hello", BEHIND)
        body.begin(head_of(lines))
        assert not body.is_asked_for


@pytest.mark.parametrize("first", [("Content-Length: 5",), (CHUNKED,)])
@pytest.mark.parametrize("second", [("Content-Length: 5",), ("Content-Length: 3",), (CHUNKED,), ()])
def test_nothing_of_one_body_is_left_for_the_next(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    def data_of(lines: tuple[str, ...], payload: bytes) -> bytes:
        return payload if lines != (CHUNKED,) else b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload)

    payload = b"abc" if second == ("Content-Length: 3",) else b"world"
    # The first is taken whole, in pieces, or given up in the middle.
    for cuts in ([], [1], [2, 4]):
        for is_given_up in (False, True):
            body = begun(*first, "Expect: 100-continue")
            pieces = in_pieces(data_of(first, b"hello"), cuts)
            take_all(body, pieces[:-1] if is_given_up else pieces)
            body.max_bytes, body.timeout_s = 3, 1.0
            body.begin(head_of(*second))
            assert (body.max_bytes, body.timeout_s, body.is_asked_for) == (0, TIMEOUT_S, False)
            assert body.has_ended is (second == ())
            body.max_bytes = len(payload)
            if second:
                assert take_all(body, [data_of(second, payload) + BEHIND]) == (payload, BEHIND)


def test_whether_the_rest_is_worth_reading() -> None:
    assert begun("Content-Length: 5").is_soon_over
    assert not begun(CHUNKED).is_soon_over
    body = begun(f"Content-Length: {DISCARD_AT_MOST + 1}")
    assert not body.is_soon_over
    body.take(b"x")
    assert body.is_soon_over
