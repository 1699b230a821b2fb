"""The strict gate, rule by rule: what it lets pass, what it refuses, and with which status."""

from __future__ import annotations

import pytest

from proxy.wire.gate import RequestError, ResponseError
from tests.wire.heads import CHUNKED, CLOSE, LENGTH, NONE, get, ok, request_of, response_of, status_of

BOTH = pytest.mark.parametrize("by", [0, 1])


@BOTH
@pytest.mark.parametrize(
    "version", ["HTTP/0.9", "HTTP/1.2", "HTTP/1.10", "HTTP/2.0", "HTTP/11", "http/1.1", "HTTP/1,1"]
)
def test_versions(version: str, by: int) -> None:
    assert status_of(get(version=version), by) in (400, 505)
    assert status_of(get(version="HTTP/1.0"), by) == 0
    assert status_of(b"GET /\r\n\r\n", by) in (400, 505)
    assert status_of(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", by) in (400, 405, 505)


@BOTH
@pytest.mark.parametrize("start", ["POST /x RTSP/1.0", "OPTIONS /x RTSP/1.0", "SOURCE /x ICE/1.0", "GET /x ICE/1.0"])
def test_other_protocols_that_the_parser_knows(start: str, by: int) -> None:
    assert status_of(f"{start}\r\nHost: a\r\n\r\n".encode(), by) in (400, 405, 505)


@BOTH
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods_that_pass(method: str, by: int) -> None:
    assert status_of(get(method=method), by) == 0


@BOTH
@pytest.mark.parametrize(
    "method", ["CONNECT", "TRACE", "get", "Post", "FOO", "PROPFIND", "PURGE", "M-SEARCH", "LINK"]
)
def test_methods_that_do_not(method: str, by: int) -> None:
    target = "a:443" if method == "CONNECT" else "/"
    assert status_of(get(method=method, target=target), by) == 405


GOOD_TARGETS = [
    "/",
    "/v1/x",
    "/v1/x?q=a/../b",
    "/a%20b",
    "/...",
    "/.a",
    "/a..b",
    "/%2e%2ea",
    "/a//b",
    "/?",
    "/~!$&'()*+,;=:@",
]
BAD_TARGETS = [
    "http://evil/v1/x",
    "https://gateway.test/",
    "evil:443",
    "v1/x",
    "*",
    "?q",
    "//evil/x",
    "/v1/x#frag",
    "/#",
    "/v1/../admin",
    "/v1/..",
    "/./x",
    "/.",
    "/v1/%2e%2E/x",
    "/v1/.%2e/x",
    "/v1%2f..%2fx",
    "/v1/..;a=b/x",
    "/v1\\x",
    "/v1%5Cx",
    "/v1/x%00",
    "/v1/\xe4",
    "/v1/\x7f",
    "/v1/\x01",
    "/v1/\t",
    "/a b",
]


@BOTH
@pytest.mark.parametrize("target", GOOD_TARGETS)
def test_targets_that_pass(target: str, by: int) -> None:
    assert status_of(get(target=target), by) == 0
    assert request_of(get(target=target)).target == target.encode()


@BOTH
@pytest.mark.parametrize("target", BAD_TARGETS)
def test_targets_that_do_not(target: str, by: int) -> None:
    assert status_of(get(target=target), by) == 400


def test_the_star_is_for_options_only() -> None:
    assert status_of(get(target="*", method="OPTIONS")) == 0
    assert status_of(get(target="**", method="OPTIONS")) == 400


@BOTH
@pytest.mark.parametrize("host", ["a", "a.b:1", "127.0.0.1:65535", "[::1]", "[::1]:80", "a_b", "xn--a~.b"])
def test_hosts_that_pass(host: str, by: int) -> None:
    assert status_of(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode(), by) == 0


@BOTH
@pytest.mark.parametrize(
    "host",
    ["", "a,b", "a b", "a/#@x", "a?x", "u@a", "a:99999", "a:", "a:-1", "a:1:2", "[::1", "[a]b", "\xe4", "a" * 254],
)
def test_hosts_that_do_not(host: str, by: int) -> None:
    assert status_of(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1"), by) == 400


def test_exactly_one_host_unless_the_client_is_old() -> None:
    assert status_of(b"GET / HTTP/1.1\r\n\r\n") == 400
    assert status_of(b"GET / HTTP/1.0\r\n\r\n") == 0
    assert status_of(get("Host: gateway.test")) == 400
    assert status_of(get("HOST: other.test", version="HTTP/1.0")) == 400


@BOTH
@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 0", "Content-Length: 0"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -5"],
        ["Content-Length: 0x5"],
        ["Content-Length: 0_5"],
        ["Content-Length: 05"],
        ["Content-Length: 00"],
        ["Content-Length: 5 5"],
        ["Content-Length: 5.0"],
        ["Content-Length: \xb2"],
        ["Content-Length:"],
        ["Content-Length: \x0b5"],
        ["Content-Length: \xa05"],
        ["Content-Length: 9999999999999999999"],
        ["Content-Length: " + "9" * 40],
        ["Content-Length : 5"],
        ["Transfer-Encoding:"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: chunked, gzip"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: chunked, xchunked"],
        ["Transfer-Encoding: chunked, chunked"],
        ["Transfer-Encoding: chunked;q=1"],
        ["Transfer-Encoding: \x0bchunked"],
        ["Transfer-Encoding: \xa0chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: identity"],
        ["Transfer-Encoding:", "Content-Length: 5"],
        ["Transfer-Encoding:", " chunked"],
        ["Transfer-Encoding : chunked"],
    ],
)
def test_bodies_framed_so_that_two_servers_could_disagree(lines: list[str], by: int) -> None:
    assert status_of(get(*lines, method="POST"), by) == 400
    assert status_of(get(*lines, "Connection: Upgrade", "Upgrade: h2c", method="POST"), by) == 400


def test_bodies_that_are_framed_well() -> None:
    assert request_of(get()).framing is NONE
    assert (request_of(get("Content-Length: 0")).framing, request_of(get("Content-Length: 0")).content_length) == (
        LENGTH,
        0,
    )
    assert request_of(get("Content-Length: 123456789012")).content_length == 123456789012
    assert request_of(get("Transfer-Encoding: CHUNKED")).framing is CHUNKED
    assert status_of(get("Transfer-Encoding: chunked", version="HTTP/1.0")) == 400


@BOTH
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\r\nHost: a\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\0: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX(: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\xe4: b\r\n\r\n",
        b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\nTRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\nCONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_lines_that_two_servers_could_read_differently(data: bytes, by: int) -> None:
    assert status_of(data, by) in (400, 405, 505)


def test_what_is_not_http_at_all() -> None:
    assert status_of(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") in (400, 405)  # a TLS hello
    assert status_of(b"SSH-2.0-OpenSSH_9.2\r\n") in (400, 405)


@pytest.mark.parametrize(
    ("lines", "version", "keeps"),
    [
        ([], "HTTP/1.1", True),
        ([], "HTTP/1.0", False),
        (["Connection: close"], "HTTP/1.1", False),
        (["Connection: Keep-Alive"], "HTTP/1.0", True),
        (["Connection: x, CLOSE ,y"], "HTTP/1.1", False),
        (["Connection: closed, xclose"], "HTTP/1.1", True),
        (["Connection: keep-alive, close"], "HTTP/1.0", False),
        (["Connection: keep-alive", "Connection: close"], "HTTP/1.1", False),
        (["Connection: close", "Connection: keep-alive"], "HTTP/1.1", False),
        (["Connection: close", "Connection: keep-alive"], "HTTP/1.0", False),
    ],
)
def test_persistence(lines: list[str], version: str, keeps: bool) -> None:
    """RFC 9112 section 9.3: ``close`` anywhere ends it, and several lines are one list."""
    assert request_of(get(*lines, version=version)).keep_alive is keeps
    assert response_of(ok(*lines, version=version)).keep_alive is keeps


def test_expectations() -> None:
    assert request_of(get("Expect: 100-Continue")).expects_continue is True
    assert request_of(get("Expect: 100-continue", version="HTTP/1.0")).expects_continue is False
    assert request_of(get()).expects_continue is False
    for value in ("200-ok", "100-continue, x", "", "100-continuex"):
        assert status_of(get(f"Expect: {value}")) == 417, value


def test_one_authorization() -> None:
    assert status_of(get("Authorization: Bearer a")) == 0
    assert status_of(get("Authorization: Bearer a", "authorization: Bearer a")) == 400


@pytest.mark.parametrize(
    "name",
    [
        "Authorization_",
        "X_Forwarded_For",
        "X.Forwarded.For",
        "X-Forwarded_For",
        "Content_Length",
        "Transfer.Encoding",
        "Transfer_Encoding",
        "_Host",
        "X_Real_IP",
        "Connection.",
        "Transfer__Encoding",
        "Transfer--Encoding",
        "Content-_Length",
        "Host--",
        "X_Forwarded_Host",
        "X.Forwarded.Proto",
        "Expect_",
        "Upgrade.",
    ],
)
def test_twins_of_names_that_matter_are_refused(name: str) -> None:
    assert status_of(get(f"{name}: x")) == 400


def test_other_names_with_underscore_or_dot_pass_unless_their_twin_is_there() -> None:
    assert status_of(get("my_header: x", "other.header: y")) == 0
    assert status_of(get("my_header: x", "My-Header: y")) == 400
    assert status_of(get("My-Header: y", "my.header: x")) == 400
    assert status_of(get("My-Header: y", "my--header: x")) == 400
    assert status_of(get("my--header: x", "-: y")) == 0


def test_a_reason_is_plain_english_without_control_characters() -> None:
    for data in (get("Authorization_: x"), get(target="/a#b"), b"\x16\x03\x01", get("X: a\x01b")):
        with pytest.raises(RequestError) as caught:
            request_of(data)
        assert caught.value.reason.isprintable()
        assert caught.value.reason


@pytest.mark.parametrize(
    "data",
    [
        ok("Content-Length: 5", "Transfer-Encoding: chunked"),
        ok("Transfer-Encoding: chunked", "Content-Length: 5"),
        ok("Content-Length: 5", "Content-Length: 6"),
        ok("Content-Length: +5"),
        ok("Content-Length: 5, 5"),
        ok("Content-Length:"),
        ok("Transfer-Encoding: gzip"),
        ok("Transfer-Encoding: gzip, chunked"),
        ok("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ok(version="HTTP/1.2"),
        ok(version="HTTP/2.0"),
        ok(version="RTSP/1.0"),
        ok(version="ICE/1.0"),
        ok(status="20 OK"),
        ok(status="2000 OK"),
        ok(status="abc OK"),
        ok(status="099 OK"),
        ok(status="000 OK"),
        ok(status="200 O\0K"),
        ok(status="200 O\x07K"),
        ok(status="200 O\x1bK"),
        ok(status="200 O\x7fK"),
        ok("Content-Length: 5", "Connection: content-length"),
        ok("Content-Length: 5", "Connection: x, Content-Length ,y"),
        ok("X: a\0b"),
        ok("X: a\rb"),
        ok("X y: a"),
        ok("X: a", " folded"),
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_answers_that_make_no_sense(data: bytes) -> None:
    with pytest.raises(ResponseError):
        response_of(data)


def test_answers_that_do() -> None:
    assert response_of(ok()).framing is CLOSE
    length = response_of(ok("content-length: 5"))
    assert (length.framing, length.content_length, length.status, length.reason) == (LENGTH, 5, 200, b"OK")
    assert response_of(ok("Transfer-Encoding: Chunked")).framing is CHUNKED
    assert response_of(ok(status="200")).reason == b""
    assert response_of(ok(status="200 \tFine \xe4\xff")).reason == b"\tFine \xe4\xff"
    assert response_of(ok(status="999 Odd")).status == 999
    assert response_of(ok("Content-Length: 05")).content_length == 5
    assert response_of(ok("Connection: content-lengths")).keep_alive
