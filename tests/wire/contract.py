"""What a client sees of one Tornado application: run on our listener and on Tornado's own server.

`play` answers with plain data. Whatever differs between the two servers is a broken contract, or one of
`DIFFERENCES`, each with its reason.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tests.support.raw import Answer, RawClient
from tests.wire.application import BINARY, LARGE

NEVER_COMPARED = {"date", "server"}


@dataclass
class Seen:
    """What a client sees of one connection: answers, and whether it is open behind them."""

    answers: list[tuple[int, str, list[tuple[str, str]], bytes]]
    is_open: bool


def ask(method: str, target: str, *lines: str, body: bytes | None = None, version: str = "1.1") -> bytes:
    """A request."""
    length = [] if body is None else [f"Content-Length: {len(body)}"]
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: a.test", *lines, *length, "", ""]).encode() + (
        body or b""
    )


def chunked(target: str, *pieces: bytes, lines: tuple[str, ...] = ()) -> bytes:
    """A chunked POST."""
    head = ask("POST", target, "Transfer-Encoding: chunked", *lines)
    return head + b"".join([b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces]) + b"0\r\n\r\n"


@dataclass(frozen=True)
class Case:
    """Bytes to send on one connection, and the methods of the answers to expect."""

    data: bytes
    methods: tuple[str, ...] = ("GET",)
    by: int = 0
    wait_s: float = 3.0


CASES: dict[str, Case] = {
    "get": Case(
        ask("GET", "/echo?a=1&b=%20&a=2", "X-In: 1", "x-in: 2", "Cookie: k=v; l=w", "X-In-Blank:   padded  ")
    ),
    "head": Case(ask("HEAD", "/echo"), ("HEAD",)),
    "head of a stream": Case(ask("HEAD", "/stream"), ("HEAD",)),
    "post": Case(ask("POST", "/echo", body=BINARY)),
    "post byte by byte": Case(ask("POST", "/echo", body=b"slow and steady"), by=1),
    "post form": Case(ask("POST", "/echo", "Content-Type: application/x-www-form-urlencoded", body=b"a=1&a=2")),
    "post nothing": Case(ask("POST", "/echo", body=b"")),
    "post large": Case(ask("POST", "/echo", body=bytes(LARGE))),
    "post chunked": Case(chunked("/echo", b"one", BINARY, b"three")),
    "post chunked byte by byte": Case(chunked("/echo", b"one", b"three"), by=1),
    "put": Case(ask("PUT", "/echo", body=b"x")),
    "patch": Case(ask("PATCH", "/echo", body=b"x")),
    "delete": Case(ask("DELETE", "/echo")),
    "options": Case(ask("OPTIONS", "/echo")),
    "stream": Case(ask("GET", "/stream")),
    "stream large": Case(ask("POST", "/stream", body=b"")),
    "stream to an old client": Case(ask("GET", "/stream", version="1.0")),
    "stream to an old client that wants to stay": Case(
        ask("GET", "/stream", "Connection: keep-alive", version="1.0"), wait_s=0.5
    ),
    "old client": Case(ask("GET", "/echo", version="1.0")),
    "old client that wants to stay": Case(ask("GET", "/echo", "Connection: keep-alive", version="1.0")),
    "client that wants to leave": Case(ask("GET", "/echo", "Connection: close")),
    "204": Case(ask("GET", "/status/204")),
    "304": Case(ask("GET", "/status/304")),
    "404 of the handler": Case(ask("GET", "/status/404")),
    "201": Case(ask("GET", "/status/201")),
    "reason": Case(ask("POST", "/status/200", body=b"")),
    "fixed headers": Case(ask("GET", "/fixed")),
    "head of fixed headers": Case(ask("HEAD", "/fixed"), ("HEAD",)),
    "binary answer": Case(ask("POST", "/fixed", body=b"")),
    "large answer": Case(ask("PUT", "/fixed", body=b"")),
    "not found": Case(ask("GET", "/nowhere")),
    "method not allowed": Case(ask("DELETE", "/stream")),
    "exception": Case(ask("GET", "/fails")),
    "exception behind its head": Case(ask("POST", "/fails", body=b"")),
    "fewer bytes than announced": Case(ask("PATCH", "/fails", body=b"")),
    "http error": Case(ask("PUT", "/fails", body=b"")),
    "redirect": Case(ask("GET", "/redirects")),
    "upload": Case(ask("POST", "/upload", body=bytes(500_000))),
    "upload chunked": Case(chunked("/upload", bytes(70_000), b"x", bytes(5))),
    "upload within its limit": Case(ask("POST", "/upload", "X-Limit: 1000", body=bytes(1000))),
    "upload that is waited for": Case(ask("POST", "/upload", "Expect: 100-continue", body=bytes(10))),
    "denied": Case(ask("POST", "/upload", "X-Deny: 1", body=bytes(1000))),
    "denied chunked": Case(chunked("/upload", bytes(1000), lines=("X-Deny: 1",))),
    "keep-alive": Case(ask("GET", "/echo/1") + ask("POST", "/echo", body=b"2") + ask("GET", "/stream"), ("GET",) * 3),
    "pipelined behind an upload": Case(ask("POST", "/upload", body=bytes(9)) + ask("GET", "/echo"), ("GET",) * 2),
    "pipelined behind an exception": Case(ask("GET", "/fails") + ask("GET", "/echo"), ("GET",) * 2),
    "pipelined behind a head": Case(ask("HEAD", "/echo") + ask("GET", "/echo"), ("HEAD", "GET")),
    "pipelined behind a denial": Case(
        ask("POST", "/upload", "X-Deny: 1", body=bytes(1000)) + ask("GET", "/echo"), ("GET",)
    ),
    "pipelined behind a close": Case(ask("GET", "/echo", "Connection: close") + ask("GET", "/echo"), ("GET",)),
    "no host": Case(b"GET /echo HTTP/1.1\r\n\r\n"),
    "two lengths": Case(ask("POST", "/echo", "Content-Length: 1", body=b"x")),
    "both framings": Case(ask("POST", "/echo", "Transfer-Encoding: chunked", body=b"x")),
    "bad chunk": Case(ask("POST", "/upload", "Transfer-Encoding: chunked") + b"nonsense\r\n\r\n"),
}

_OLD = "we say `Connection: close` to an HTTP/1.0 client too; Tornado just closes"
_LOUD = "we say what is wrong, and that we close; Tornado sends a bare status line"
DIFFERENCES: dict[str, str] = {
    "old client": _OLD,
    "stream to an old client": _OLD,
    "stream to an old client that wants to stay": "a body without length ends with the connection (RFC 9112 section "
    "6.3); Tornado keeps it open, and the client waits for ever",
    "denied": "a small unread body is read and thrown away, and the connection kept; Tornado closes it",
    "denied chunked": "we say that we close; Tornado just does",
    "no host": _LOUD,
    "both framings": _LOUD,
    "bad chunk": _LOUD,
    "two lengths": "two Content-Length lines are refused even if equal; Tornado takes them",
}


async def play(port: int, case: Case) -> Seen:
    """Run one case; answers as they come, the connection asked once more at the end."""
    client = await RawClient.connect(port)
    sending = asyncio.ensure_future(client.send(case.data, by=case.by))
    answers = []
    try:
        for method in case.methods:
            answer = await asyncio.wait_for(client.answer(method), case.wait_s)
            answers.append((answer.status, answer.reason, _lines(answer), answer.body))
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError) as error:
        answers.append((0, type(error).__name__, [], getattr(error, "partial", b"")))
    await asyncio.wait([sending], timeout=2)
    sending.cancelled() or sending.exception()
    is_open = await _is_open(client)
    client.close()
    return Seen(answers, is_open)


def _lines(answer: Answer) -> list[tuple[str, str]]:
    """The header lines, without what depends on time, case or order."""
    lines = [(name.lower(), value) for name, value in answer.lines if name.lower() not in NEVER_COMPARED]
    return sorted((name, value.lower() if name == "connection" else value) for name, value in lines)


async def _is_open(client: RawClient) -> bool:
    try:
        await client.send(ask("GET", "/echo/last"))
        return (await asyncio.wait_for(client.answer(), 2)).body == b"/echo/last"
    except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
        return False


async def leave(port: int, data: bytes, gone: list[str]) -> list[str]:
    """Send bytes, wait for nothing, leave; which handlers noticed."""
    gone.clear()
    client = await RawClient.connect(port)
    await client.send(data)
    await asyncio.sleep(0.05)
    client.close()
    for _ in range(40):
        await asyncio.sleep(0.005)
        if gone:
            break
    await asyncio.sleep(0.02)
    return list(gone)


LEAVING: dict[str, bytes] = {
    "while it waits for the answer": ask("GET", "/waits"),
    "in the middle of an upload": ask("POST", "/upload", "Content-Length: 100") + b"some",
    "between two requests": b"",
}
