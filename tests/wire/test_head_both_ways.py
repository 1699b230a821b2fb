"""Heads of answers have two readers, one for those that come whole: they find the same, and drop the same lines."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.headers import REPLACED_IN_RESPONSES, encode, end_to_end
from proxy.wire.gate import ResponseError, ResponseHead
from proxy.wire.head import ResponseParser, read_response_head
from tests.wire.heads import facts, ok

MAX_BYTES = 4096
BEHIND = b"5\r\nhello\r\n\r\n"
MANY = [f"X-Line-{number}: {'v' * number}" for number in range(30)]

PASSING = [
    ok(),
    ok("Content-Type: application/json", "Content-Length: 5", "x-request-id: r", "Set-Cookie: a", "Set-Cookie: b"),
    ok("Transfer-Encoding: chunked", "Content-Type: text/event-stream; charset=utf-8"),
    ok("Server: nginx"),
    ok("Server: nginx", version="HTTP/1.0"),
    ok("Connection: keep-alive", "Content-Length: 0", version="HTTP/1.0"),
    ok("Connection: close", "Content-Length: 0"),
    ok("X-First: 1", "cOnNeCtIoN: Keep-Alive", "X-Last: 2"),
    ok("Connection:close", "Connection:   keep-alive  ", "Content-Length: 0"),
    ok("X-Own: 1", "Connection: X-Own, close", "x-own: 2", "X-Other: 3"),
    ok("Connection: keep-alive", "X-Own: 1", "Connection: x-own", "X-Other: 3"),
    ok("Connection: x-own", "X-Own: 1", "Connection: keep-alive", "X-Other: 3"),
    ok("Connection:", "X-Own: 1"),
    ok("TE: trailers", "X-Te: 1", "Te:", "Trailer: X-Sum", "Te-X: 2"),
    ok("Upgrade: h2c", "UPGRADE: websocket", "X: Upgrade: no", "Proxy-Authenticate: Basic", "X-Keep-Alive: 1"),
    ok("X: 1", "Keep-Alive: max=5", "Proxy-Connection: keep-alive", "Proxy-Authorization: x", "HTTP2-Settings: A"),
    ok("x-sluice-request-id: req_2", "X-SLUICE-Upstream-Sent: yes", "X-Sluice-Else: 1", "x-sluice-request-id2: 1"),
    ok("X-Empty:", "X-Blank:  \t ", "X: connection: close", "X-Bytes: \xe4\xff", "Content-Length: 7 "),
    ok("Content-Type: TEXT/Event-Stream", "content-type: application/json", "Content-Length: 007"),
    ok(*MANY),
    ok(*MANY[:15], "Connection: close", *MANY[15:], "Transfer-Encoding: Chunked", "Keep-Alive: x"),
    ok("Link: </a>", "Connection: keep-alive", status="103 Early Hints"),
    ok(status="100 Continue"),
    ok("Upgrade: websocket", "Connection: Upgrade", status="101 Switching Protocols"),
    ok("Content-Length: 9", status="204 No Content"),
    ok("Content-Length: 9", "ETag: x", status="304 Not Modified"),
    ok("Content-Length: 9", status="599 "),
    ok("Content-Length: 9", status="200"),
    ok("X: " + "v" * (MAX_BYTES - len(ok("X: ")))),
]
REFUSED = [
    ok("X: " + "v" * (MAX_BYTES - len(ok("X: ")) + 1)),
    ok("Content-Length: 5", "Content-Length: 5"),
    ok("Content-Length: 5", "Transfer-Encoding: chunked"),
    ok("Content-Length: +5"),
    ok("Content-Length:"),
    ok("Content-Length: " + "9" * 19),
    ok("Transfer-Encoding: gzip, chunked"),
    ok("Transfer-Encoding: chunked", "transfer-encoding: chunked"),
    ok("Connection: close, Content-Length", "Content-Length: 5"),
    ok("Connection : close"),
    ok("X: a", " folded: b"),
    ok("No colon"),
    ok("X: a\rConnection: close"),
    ok("X: a\nConnection: close"),
    ok("X: a\0"),
    ok(": no name"),
    ok(version="HTTP/2.0"),
    ok(version="ICY"),
    ok(status="099 Early"),
    ok(status="20 Short"),
    ok(status="200 O\x01K"),
    b"\r\n" + ok("Content-Length: 5"),
    b"<html>\r\n\r\n",
]


def at_once(data: bytes, method: str = "GET") -> ResponseHead | None:
    return read_response_head(data, method, MAX_BYTES)


def in_two(data: bytes, cut: int, method: str = "GET") -> ResponseHead | None:
    """What the parser finds in data cut in two; None if the head is not whole."""
    parser = ResponseParser(MAX_BYTES)
    seen = 0
    for segment in (data[:cut], data[cut:]):
        if segment:
            end = parser.feed(segment)
            if end >= 0:
                head = parser.head(method)
                assert head.size == seen + end
                return head
            seen += len(segment)
    return None


def found(data: bytes, cut: int | None, method: str = "GET") -> dict[str, Any] | str | None:
    """Everything the head says, or "refused"; None if it is not whole. Without a cut it comes whole."""
    try:
        head = at_once(data, method) if cut is None else in_two(data, cut, method)
    except ResponseError:
        return "refused"
    return None if head is None else facts(head)


def check_lines(head: ResponseHead, data: bytes) -> None:
    """The lines are those that came, byte for byte, and those that cross are those that `end_to_end` lets cross."""
    came = data.partition(b"\r\n")[2][: head.size - data.index(b"\r\n") - 4]
    assert head.headers.encode() == came
    crossing = head.crossing
    said = {value.lower() for value in head.headers.get_all(b"connection")}
    assert (crossing is None) == bool(said - {b"keep-alive", b"close"})
    if crossing is not None:
        assert crossing == encode(end_to_end(head.headers, REPLACED_IN_RESPONSES))
    assert encode(head.headers.fields) == came


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("data", PASSING)
def test_a_whole_head_and_one_cut_anywhere_say_the_same(data: bytes, method: str) -> None:
    whole = at_once(data + BEHIND, method)
    assert whole is not None
    assert whole.size == len(data)
    check_lines(whole, data)
    expected = facts(whole)
    for cut in range(1, len(data) + 2):
        assert found(data + BEHIND, cut, method) == expected, cut


@pytest.mark.parametrize("data", REFUSED)
def test_a_head_that_is_refused_is_refused_however_it_is_cut(data: bytes) -> None:
    # Too long, or begun by a blank line: that is left to the parser, which refuses it.
    assert found(data + BEHIND, None) in ("refused", None)
    for cut in range(len(data) + 1):
        assert found(data + BEHIND, cut) == "refused", cut


@pytest.mark.parametrize("data", PASSING[:12])
def test_a_head_without_its_end_is_left_to_the_parser(data: bytes) -> None:
    for size in range(len(data)):
        assert at_once(data[:size]) is None
        assert in_two(data[:size], size // 2) is None


def test_the_limit_of_bytes_is_that_of_the_parser() -> None:
    data = ok("Content-Length: 5")
    for most, passes in ((len(data), True), (len(data) - 1, False)):
        assert (read_response_head(data, "GET", most) is not None) is passes
        parser = ResponseParser(most)
        if passes:
            assert parser.feed(data) == len(data)
        else:
            with pytest.raises(ResponseError):
                parser.feed(data)


def test_one_head_leaves_nothing_for_the_next() -> None:
    for data in (b"HTTP/1.1 200 OK\r\nbad line\r\n\r\n", b"nonsense\r\n\r\n"):
        with pytest.raises(ResponseError):
            at_once(data)
        good, other = at_once(ok("A: 1")), at_once(ok("B: 2", "Connection: close"))
        assert good is not None
        assert other is not None
        assert (good.headers.encode(), good.keep_alive) == (b"A: 1\r\n", True)
        assert (other.headers.encode(), other.keep_alive) == (b"B: 2\r\nConnection: close\r\n", False)


NAMES = [*sorted(REPLACED_IN_RESPONSES), b"content-length", b"content-type", b"x-own", b"x-te", b"te-", b"x"]
lines = st.builds(
    lambda name, change, colon, value: change(name) + colon + value,
    st.sampled_from(NAMES),
    st.sampled_from([bytes, bytes.upper, bytes.title]),
    st.sampled_from([b":", b": ", b":\t ", b" :", b""]),
    st.one_of(
        st.sampled_from([b"", b"close", b"Keep-Alive", b"x-own , close", b"chunked", b"5", b"te: x", b",", b"1\t"]),
        st.binary(max_size=4),
    ),
)


@given(st.lists(lines, max_size=6), st.integers(0, 400), st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"]))
@example([b"connection:\x0bclose"], 20, b"\r\n")
@example([b"x: \x85\xa0", b"Connection:\xa0close"], 20, b"\r\n")
def test_any_lines(head_lines: list[bytes], cut: int, line_end: bytes) -> None:
    data = b"HTTP/1.1 200 OK\r\n" + b"".join([line + line_end for line in head_lines]) + b"\r\n"
    whole = found(data, None)
    parsed = found(data, cut % (len(data) + 1))
    # What comes whole ends with a blank line of its own; without one it is the parser that waits, or refuses.
    assert whole == parsed or (whole is None and parsed == "refused")
    if isinstance(whole, dict):
        head = at_once(data)
        assert head is not None
        check_lines(head, data)
