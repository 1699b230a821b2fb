"""Heads from bytes: the same result however they are cut, within bounds, and never an unknown exception."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.headers import encode
from proxy.wire.gate import RequestError, ResponseError
from proxy.wire.head import MAX_FIELDS, RequestParser, ResponseParser
from tests.wire.heads import (
    CHUNKED,
    LENGTH,
    NONE,
    facts,
    get,
    in_segments,
    ok,
    read_request,
    read_response,
    request_of,
    response_of,
    said,
    status_of,
)

BEHIND = b"\r\n\r\nPOST /smuggled HTTP/1.1\r\n"
REQUESTS = [
    get(),
    get("Content-Length: 5", "X-Empty:", "x-CASE: MiXed", "X-Twice: 1", "X-Twice: 2", method="POST"),
    get("Transfer-Encoding: Chunked", "Expect: 100-continue", target="/v1/x?a=%20&b=c/../d", method="POST"),
    get("Connection: keep-alive, x-hop", "X-Bytes: \xe4\xf6\xff", version="HTTP/1.0"),
    get("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk", "Content-Length: 3"),
    get("Upgrade: websocket", "Connection: Upgrade", "Transfer-Encoding: chunked", method="POST"),
    get("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
    get("X-Long: " + "v" * 20_000),
]
RESPONSES = [
    ok(),
    ok("Content-Length: 5", "Set-Cookie: a=1", "Set-Cookie: b=2", "X-Empty:"),
    ok("Transfer-Encoding: chunked", "Content-Type: text/event-stream"),
    ok("Connection: close", version="HTTP/1.0"),
    ok(status="204 No Content"),
    ok(status="429 Too Many Requests"),
    ok(status="599 "),
    ok("Content-Length: 12", status="304 Not Modified"),
    ok("Link: </a>", status="103 Early Hints"),
    ok("Upgrade: h2c", "Connection: Upgrade", status="101 Switching Protocols"),
    ok("Upgrade: h2c", "Connection: Upgrade", "Content-Length: 3"),
]


@pytest.mark.parametrize("data", REQUESTS)
def test_a_request_head_is_the_same_however_it_is_cut(data: bytes) -> None:
    whole, end = read_request([data + BEHIND])
    assert whole is not None
    assert end == len(data)
    cuts = [in_segments(data + BEHIND, by) for by in (1, 2, 3, 7, 1000)]
    middle = range(1, len(data) + 4) if len(data) < 1000 else range(len(data) - 8, len(data) + 4)
    cuts += [[(data + BEHIND)[:cut], (data + BEHIND)[cut:]] for cut in middle]
    for segments in cuts:
        head, cut_end = read_request(segments)
        assert head is not None
        assert (facts(head), cut_end) == (facts(whole), end)


@pytest.mark.parametrize("data", RESPONSES)
def test_a_response_head_is_the_same_however_it_is_cut(data: bytes) -> None:
    whole, end = read_response([data + BEHIND])
    assert whole is not None
    assert end == len(data)
    cuts = [in_segments(data + BEHIND, by) for by in (1, 2, 3, 7)]
    cuts += [[(data + BEHIND)[:cut], (data + BEHIND)[cut:]] for cut in range(1, len(data) + 4)]
    for segments in cuts:
        head, cut_end = read_response(segments)
        assert head is not None
        assert (facts(head), cut_end) == (facts(whole), end)


@pytest.mark.parametrize("data", REQUESTS)
def test_a_request_head_without_its_end_is_not_a_head(data: bytes) -> None:
    for size in range(0, len(data), 1 if len(data) < 1000 else 977):
        assert read_request([data[:size]] if size else []) == (None, -1)


def test_what_a_request_says() -> None:
    head = request_of(REQUESTS[1])
    assert (head.method, head.target, head.version) == ("POST", b"/", "1.1")
    assert (head.framing, head.content_length, head.keep_alive) == (LENGTH, 5, True)
    assert said(head) == [
        (b"host", b"gateway.test"),
        (b"content-length", b"5"),
        (b"x-empty", b""),
        (b"x-case", b"MiXed"),
        (b"x-twice", b"1"),
        (b"x-twice", b"2"),
    ]
    assert encode(head.headers.fields) == REQUESTS[1].partition(b"\r\n")[2].removesuffix(b"\r\n")
    assert next(head.headers.pairs()) == ("Host", "gateway.test")
    chunked = request_of(REQUESTS[2])
    assert (chunked.framing, chunked.expects_continue, chunked.target) == (CHUNKED, True, b"/v1/x?a=%20&b=c/../d")


def test_white_space_around_a_value_is_no_part_of_it() -> None:
    """RFC 9110 section 5.5: a field value does not include leading or trailing whitespace."""
    head = request_of(get("X: \t a b \t ", "Y:z ", "Content-Length: 5 "))
    assert [head.headers.get(name) for name in (b"x", b"y", b"content-length")] == [b"a b", b"z", b"5"]
    answer = response_of(ok("X: \t a b \t ", "Content-Length: 5 "))
    assert [answer.headers.get(name) for name in (b"x", b"content-length")] == [b"a b", b"5"]


def test_an_upgrade_is_an_ordinary_request_with_its_body_counted_once() -> None:
    h2c, websocket = request_of(REQUESTS[4]), request_of(REQUESTS[5])
    assert (h2c.framing, h2c.content_length, h2c.keep_alive) == (LENGTH, 3, True)
    assert websocket.framing is CHUNKED
    assert request_of(REQUESTS[6]).framing is NONE


def test_whether_an_answer_has_a_body_is_decided_by_method_and_status() -> None:
    data = ok("Content-Length: 5")
    assert response_of(data).framing is LENGTH
    assert response_of(data, "HEAD").framing is NONE
    assert response_of(ok("Transfer-Encoding: chunked"), "HEAD").framing is NONE
    for status in ("100 Continue", "103 Early Hints", "204 No Content", "304 Not Modified"):
        assert response_of(ok("Content-Length: 5", status=status)).framing is NONE, status


@pytest.mark.parametrize("by", [0, 1, 1000])
def test_the_limit_of_bytes_is_exact_however_they_come(by: int) -> None:
    filled = "Y: " + "v" * 1500
    room = 4096 - len(get(filled, filled, "X: "))
    for extra, expected in ((0, 0), (1, 431), (5000, 431)):
        data = get(filled, filled, "X: " + "v" * (room + extra))
        try:
            status = 0 if read_request(in_segments(data, by), 4096)[0] is not None else -1
        except RequestError as error:
            status = error.status
        assert status == expected, extra


@pytest.mark.parametrize("by", [0, 1, 1000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (get("X: " + "v" * 2045), 0),
        (get("X: " + "v" * 2046), 431),
        (get("v" * 2047 + ":"), 0),
        (get("v" * 2048 + ":"), 431),
        (get(target="/" + "v" * (2048 - len("GET / HTTP/1.1"))), 0),
        (get(target="/" + "v" * (2049 - len("GET / HTTP/1.1"))), 414),
    ],
)
def test_a_line_may_have_half_of_what_a_head_may(data: bytes, expected: int, by: int) -> None:
    try:
        status = 0 if read_request(in_segments(data, by), 4096)[0] is not None else -1
    except RequestError as error:
        status = error.status
    assert status == expected


@pytest.mark.parametrize("by", [0, 1])
def test_the_limit_of_header_lines_is_exact_however_they_come(by: int) -> None:
    names = [f"x-{index}: v" for index in range(MAX_FIELDS)]
    assert status_of(get(*names[:-1]), by) == 0  # Host is one of them
    assert status_of(get(*names), by) == 431


def feed_all(parser: RequestParser | ResponseParser, segments: list[bytes]) -> None:
    """Feed every segment, whatever the parser says."""
    for segment in segments:
        parser.feed(segment)


@pytest.mark.parametrize("by", [0, 1, 65_536])
def test_an_endless_head_is_refused_at_the_limit(by: int) -> None:
    parser = RequestParser(4096)
    with pytest.raises(RequestError) as caught:
        feed_all(parser, in_segments(b"GET /" + b"a" * 200_000, by))
    assert caught.value.status == 431
    with pytest.raises(ResponseError):
        feed_all(ResponseParser(4096), in_segments(b"HTTP/1.1 200 " + b"a" * 300_000, by))


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX"])
def test_64_kib_one_byte_at_a_time_take_a_bounded_time(start: bytes) -> None:
    parser = RequestParser(65_536)
    begun_s = time.process_time()
    with pytest.raises(RequestError) as caught:
        feed_all(parser, in_segments(start + b"a" * 65_536, 1))
    assert caught.value.status == 431
    assert time.process_time() - begun_s < 5


def test_what_is_known_of_a_broken_request_is_there_for_its_answer() -> None:
    parser = RequestParser(65_536)
    with pytest.raises(RequestError):
        parser.feed(b"POST /v1/x HTTP/1.1\r\nAccept-Language: ru\r\nX: y\r\nBad Name: x\r\n\r\n")
    assert parser.target == b"/v1/x"
    assert parser.headers.get(b"accept-language") == b"ru"


WORDS = (
    b"GET |POST |CONNECT |PRI |/|*| HTTP/1.1| HTTP/1.0|HTTP/1.1 200 OK| |\t|\r\n|\r|\n|\r\n\r\n|Host: a|"
    b"Content-Length: |Transfer-Encoding: |chunked|5|Upgrade: h2c|Connection: Upgrade|Connection: close|"
    b":|\0|\xff|,|Expect: x|#"
)
TOKENS = st.sampled_from(WORDS.split(b"|"))
JUNK = st.one_of(st.binary(max_size=200), st.lists(TOKENS, max_size=25).map(b"".join))


@given(JUNK, st.sampled_from([0, 1, 3]))
@example(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 1)
@example(b"\r\n\r\n", 1)
@example(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0)
def test_any_bytes_are_a_request_or_a_request_error(data: bytes, by: int) -> None:
    whole, cut = status_of(data), status_of(data, by)
    assert (whole == 0) == (cut == 0)
    if whole == 0:
        one, other = read_request([data]), read_request(in_segments(data, by))
        assert one[0] is not None
        assert other[0] is not None
        assert (facts(one[0]), one[1]) == (facts(other[0]), other[1])


@given(JUNK, st.sampled_from([0, 1, 3]), st.sampled_from(["GET", "HEAD"]))
def test_any_bytes_are_a_response_or_a_response_error(data: bytes, by: int, method: str) -> None:
    with suppress(ResponseError):
        read_response(in_segments(b"HTTP/1.1 " + data, by), method)
    with suppress(ResponseError):
        read_response(in_segments(data, by), method)
