"""Inputs made by the rules of each language, with the oracles of the targets."""

from __future__ import annotations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzz.targets.address import try_address
from fuzz.targets.chat import try_chat
from fuzz.targets.exchange import try_exchange
from fuzz.targets.forwarded import try_forwarded
from fuzz.targets.language import try_language
from fuzz.targets.proxy_protocol import try_proxy_protocol
from fuzz.targets.request import try_request
from fuzz.targets.sse import try_sse

few = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

OCTET = st.integers(0, 256).map(str)
IPV4 = st.lists(OCTET, min_size=3, max_size=5).map(".".join)
GROUP = st.text("0123456789abcdefABCDEF", max_size=5)
IPV6 = st.lists(GROUP, min_size=1, max_size=9).map(":".join)
ADDRESS = st.one_of(
    IPV4, IPV6, st.builds("::ffff:{}".format, IPV4), st.builds("{}%{}".format, IPV6, st.text(max_size=4)),
    st.ip_addresses().map(str), st.sampled_from(["unknown", "_x", "", "unix", "127.1", "0x7f.1"]),
)  # fmt: skip
NETWORK = st.one_of(
    st.builds("{}/{}".format, ADDRESS, st.integers(-1, 140)),
    ADDRESS,
    st.builds("{}/{}".format, IPV4, st.sampled_from(["", "08", "255.0.0.0", "+8", "٨"])),
)
HOPS = st.lists(st.lists(ADDRESS, max_size=4).map(", ".join), max_size=3)

NAMES = st.sampled_from(
    ["Host", "Content-Length", "Transfer-Encoding", "Connection", "X-A", "Expect", "Upgrade", "Cookie"]
)
VALUES = st.one_of(
    st.sampled_from(
        ["chunked", "close", "keep-alive", "upgrade, x-a", "100-continue", "h2c", "websocket", "0", "3", "a:1"]
    ),
    st.text(st.characters(max_codepoint=255), max_size=8),
)
LINES = st.lists(st.builds("{}: {}".format, NAMES, VALUES), max_size=4)
PIECES = st.lists(st.binary(min_size=1, max_size=6), max_size=3)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, mostly well-formed."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PATCH", "CONNECT", "get"]))
    target = draw(st.sampled_from(["/v1/models", "/v1/x?a=b", "/deny", "/", "*", "/v1/../a", "/v1//x", "http://a/"]))
    version = draw(st.sampled_from(["1.1", "1.1", "1.1", "1.0", "2.0"]))
    lines = ["Host: a", "Authorization: Bearer sk-x", *draw(LINES)]
    body = b""
    framing = draw(st.sampled_from(["", "length", "chunked"]))
    if framing == "length":
        body = b"".join(draw(PIECES))
        lines.append(f"Content-Length: {len(body)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        extension = draw(st.sampled_from([b"", b";a=b", b" ; a"]))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in draw(PIECES))
        body += b"0\r\n%b\r\n" % draw(st.sampled_from([b"", b"X-T: v\r\n", b"Content-Length: 1\r\n"]))
    head = "\r\n".join([f"{method} {target} HTTP/{version}", *lines, "", ""])
    return head.encode("latin-1") + body


@few
@given(st.lists(requests(), min_size=1, max_size=3).map(b"".join))
def test_requests(data: bytes) -> None:
    try_request(data)


@few
@given(st.lists(requests(), min_size=1, max_size=2).map(b"".join))
def test_exchanges(data: bytes) -> None:
    try_exchange(data)


@few
@given(ADDRESS, st.lists(NETWORK, max_size=4), HOPS)
@example("::ffff:10.0.0.1", ["10.0.0.0/8"], ["1.2.3.4"])
def test_addresses(peer: str, trusted: list[str], hops: list[str]) -> None:
    lines = [peer, ",".join(trusted), *hops]
    try_address("\n".join(line.replace("\n", "") for line in lines).encode("utf-8", "replace"))


PAIR = st.builds(
    "{}={}".format,
    st.sampled_from(["for", "For", "by", "host", "proto", ""]),
    st.one_of(
        ADDRESS,
        ADDRESS.map('"[{}]:80"'.format),
        st.text('a"\\,;= ', max_size=6),
        st.text(max_size=3).map('"{}"'.format),
    ),
)


@few
@given(st.lists(st.lists(PAIR, max_size=3).map(";".join), max_size=4).map(", ".join))
def test_forwarded(value: str) -> None:
    try_forwarded(value.encode("utf-8", "replace"))


@few
@given(
    st.sampled_from(["TCP4", "TCP6", "UNKNOWN", "TCP"]),
    ADDRESS,
    ADDRESS,
    st.integers(-1, 70_000),
    st.sampled_from(["\r\n", "\n", ""]),
)
def test_proxy_lines(family: str, source: str, destination: str, port: int, end: str) -> None:
    try_proxy_protocol(f"PROXY {family} {source} {destination} {port} 443{end}".encode("utf-8", "replace"))


@few
@given(st.integers(0, 255), st.integers(0, 255), st.integers(-3, 3), st.binary(max_size=60))
@example(0x21, 0x11, 0, bytes(12))
def test_binary_proxy_headers(command: int, family: int, off_by: int, block: bytes) -> None:
    length = max(0, len(block) + off_by).to_bytes(2, "big")
    try_proxy_protocol(b"\r\n\r\n\x00\r\nQUIT\n" + bytes((command, family)) + length + block)


EVENT_LINE = st.sampled_from(
    [
        "data: [DONE]",
        'data: {"id":"c"}',
        "event: response.completed",
        'data: {"type":"response.failed"}',
        ": c",
        "id: 1",
        "",
    ]
)


@few
@given(
    st.lists(st.tuples(EVENT_LINE, st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\r\r", "", "x" * 100])), max_size=8)
)
def test_events(lines: list[tuple[str, str]]) -> None:
    try_sse("".join(line + end for line, end in lines).encode())


@few
@given(st.lists(st.text("zhenruTWHK-_*;q=01. \t", max_size=12), max_size=4).map(",".join))
def test_languages(value: str) -> None:
    try_language(value.encode())


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1, 4000), st.text(max_size=4).map(ascii), st.just('"user"')),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
).map(
    lambda value: (
        str(value).replace("'", '"').replace("None", "null").replace("True", "true").replace("False", "false")
    )
)
FIELDS = st.sampled_from(["user_content", "sys_content", "model", "api_key", "max_tokens", "continuous", "other"])


@few
@given(st.dictionaries(FIELDS, JSON, max_size=5), st.integers(100, 599), JSON)
def test_chats(fields: dict[str, str], status: int, answer: str) -> None:
    body = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    try_chat(f'{body}\n--\n{status}\nretry-after: 1\n{{"choices":[{answer}],"error":{answer}}}'.encode())
