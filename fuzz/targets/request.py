"""What a client sends: `ServerConnection` with parser, gate and framing, on a transport without a socket.

The same bytes whole, in two parts and byte by byte must give the same requests, the same refusal and the same
answers; the answers must be HTTP; nothing may be logged as an error; and h11 must read every request that was
accepted as the same request.

Where cuts may differ: in the words of a refusal (httptools names the first fault it meets in a segment), in its
status between 400 and 405, and in ``100 Continue``, which is written only to a client that has not begun its body.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

import h11
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from fuzz.target import ERRORS, Finding, Target, require
from fuzz.targets.mock import as_h11, cuts, differs_on_purpose, run
from proxy.core.headers import Headers
from proxy.core.headers import field as line_of
from proxy.wire.framing import Framing
from proxy.wire.headers import lines_of
from proxy.wire.listener import Listener
from proxy.wire.response import ResponseWriter
from proxy.wire.server import ServerConnection
from tests.wire.transport import MockTransport

MAX_HEAD = 65_536
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_ANSWER = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) (Fine\r\n.*?\r\n\r\n[0-9]*)?", re.DOTALL)
STATUS = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [\t\x20-\x7e\x80-\xff]*\r\n")
_LINE = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e])?)?\r\n"
)


@dataclass
class Seen:
    """One request as the delegate saw it."""

    method: str
    target: bytes
    fields: list[tuple[bytes, bytes]]
    version: str
    body: bytes = b""
    is_whole: bool = False
    is_answered: bool = False

    def shown(self) -> tuple[object, ...]:
        """What must be the same however the bytes were cut."""
        return (
            self.method,
            self.target,
            self.fields,
            self.is_whole,
            self.is_answered and self.is_whole,
            self._body(),
        )

    def _body(self) -> bytes:
        # Of a body that broke off, a different part may have been delivered.
        return self.body if self.is_whole else b""


@dataclass
class Outcome:
    """What came of one connection."""

    requests: list[Seen] = field(default_factory=list)
    written: bytes = b""
    is_open: bool = True

    def shown(self) -> tuple[object, ...]:
        """What must be the same however the bytes were cut."""
        answers = _ANSWER.findall(self.written.replace(CONTINUE, b""))
        return ([seen.shown() for seen in self.requests], answers, self.is_open)


class _Delegate(HTTPMessageDelegate):
    def __init__(self, outcome: Outcome, writer: ResponseWriter, denies: bool) -> None:
        self._outcome = outcome
        self._writer = writer
        self._denies = denies

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        assert isinstance(start_line, RequestStartLine)
        fields = as_h11(lines_of(headers).fields)
        target = start_line.path.encode("latin-1")
        self._seen = Seen(start_line.method, target, fields, self._writer.head.version)
        self._outcome.requests.append(self._seen)
        if self._denies and target.startswith(b"/deny"):
            self._answer(403)

    def data_received(self, chunk: bytes) -> None:
        require(bool(chunk), "an empty piece of a body was delivered")
        require(not self._seen.is_answered, "a body was delivered behind its answer")
        self._seen.body += chunk

    def finish(self) -> None:
        require(not self._seen.is_whole, "a request ended twice")
        self._seen.is_whole = True
        self._answer(200)

    def on_connection_close(self) -> None:
        require(not self._seen.is_whole, "a request was whole, and then broke off")

    def _answer(self, status: int) -> None:
        self._seen.is_answered = True
        body = b"%d" % len(self._seen.body)
        headers = Headers([line_of(b"Content-Length", b"%d" % len(body))])
        self._writer.start(status, b"Fine", headers, Framing.LENGTH, b"" if self._seen.method == "HEAD" else body)
        self._writer.finish()


class _App(HTTPServerConnectionDelegate):
    def __init__(self, outcome: Outcome, denies: bool) -> None:
        self._outcome = outcome
        self._denies = denies

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        assert isinstance(request_conn, ResponseWriter)
        return _Delegate(self._outcome, request_conn, self._denies)


async def settled(connection: ServerConnection) -> None:
    """Let a long pipeline be worked off: only so many heads are read before the loop sees to others."""
    while connection.is_reading_on:  # noqa: ASYNC110 - a round of the loop is what is waited for
        await asyncio.sleep(0)


async def serve(segments: list[bytes], *, denies: bool = True) -> Outcome:
    """What the wire makes of these segments; ``denies`` answers targets that begin with ``/deny`` at once."""
    outcome = Outcome()
    listener = Listener(_App(outcome, denies), max_header_bytes=MAX_HEAD)
    connection = ServerConnection(listener)
    transport = MockTransport(connection)
    try:
        transport.feed(*segments)
        await settled(connection)
        outcome.written = transport.take()
        outcome.is_open = not transport.ended() and not transport.eof_written
    finally:
        if not transport.ended():
            transport.lose()
        listener.abort()
        listener.ticker.close()
    return outcome


def answers_in(written: bytes, methods: list[str]) -> list[int]:
    """The statuses of the answers written for these requests. Raises `Finding` if they are not HTTP."""
    statuses: list[int] = []
    position = 0
    while position < len(written):
        start = STATUS.match(written, position)
        if start is None:
            raise Finding("what was written is no answer", written[position : position + 80])
        position = start.end()
        lengths: list[bytes] = []
        while not written.startswith(b"\r\n", position):
            line = _LINE.match(written, position)
            if line is None:
                raise Finding("a header line of an answer is malformed", written[position : position + 80])
            if line[1].lower() == b"content-length":
                lengths.append(line[2])
            position = line.end()
        position += 2
        require(len(lengths) == 1 and lengths[0].isdigit(), "an answer has not exactly one length", lengths)
        method = methods[len(statuses)] if len(statuses) < len(methods) else ""
        position += 0 if method == "HEAD" else int(lengths[0])
        statuses.append(int(start[1]))
    require(position == len(written), "an answer is shorter than it says")
    return statuses


def check_answers(outcome: Outcome) -> None:
    """Every request has its answer, a refusal comes last and ends the connection."""
    methods = [seen.method for seen in outcome.requests if seen.is_answered]
    statuses = answers_in(outcome.written.replace(CONTINUE, b""), methods)
    refusals = len(statuses) - len(methods)
    require(refusals in (0, 1), "answers without requests", statuses)
    require(not refusals or (statuses[-1] >= 400 and not outcome.is_open), "a refusal leaves the connection open")


def check_against_h11(data: bytes, outcome: Outcome) -> None:
    """h11 reads the same requests."""
    for seen in outcome.requests:
        if not seen.is_whole and not seen.is_answered:
            return
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        connection.receive_data(data)
        body = b""
        try:
            request = connection.next_event()
            if not isinstance(request, h11.Request):
                raise Finding("h11 sees no request where we see one", repr(request)[:100])
            while isinstance(event := connection.next_event(), h11.Data):
                body += event.data
        except h11.RemoteProtocolError as error:
            if not seen.is_whole and connection.their_state is not h11.IDLE:
                return  # answered at its head: nobody has judged its body
            if differs_on_purpose(error) and seen.body.startswith(body):
                return
            raise Finding("h11 refuses what we accept", error) from None
        theirs = (request.method.decode(), request.target, request.http_version.decode())
        require(theirs == (seen.method, seen.target, seen.version), "h11 sees another request", theirs)
        # RFC 9110 section 5.5 strips blanks and tabs around a value, and h11 does the same.
        require(list(request.headers) == seen.fields, "h11 sees other headers", list(request.headers))
        if not isinstance(event, h11.EndOfMessage):
            require(not seen.is_whole, "h11 sees a longer body")
            return
        require(not seen.is_whole or body == seen.body, "h11 sees another body", body)
        data = connection.trailing_data[0]


def try_request(data: bytes) -> None:
    """Feed it in three ways; see the module's docstring."""
    outcomes = [run(serve(segments)) for segments in cuts(data)]
    ERRORS.check()
    whole = outcomes[0]
    for other, how in zip(outcomes[1:], ("in two parts", "byte by byte"), strict=True):
        if other.shown() != whole.shown():
            raise Finding(f"{how} it is something else", f"{whole.shown()} is not {other.shown()}")
    check_answers(whole)
    check_against_h11(data, whole)


WORDS = (
    b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"TRACE ", b"PRI ", b" HTTP/1.1", b" HTTP/1.0",
    b" HTTP/2.0", b"/v1/chat/completions", b"/v1/models", b"/deny", b"*", b"http://evil/", b"//", b"/../", b"%2e%2e",
    b"%00", b"#", b"\r\n", b"\n", b"\r\n\r\n", b"\r\n ", b"\0", b"\t", b"Host: a\r\n", b"Host: ", b"Host : a\r\n",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: ", b"content-length:",
    b"Content_Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
    b"Transfer-Encoding:\x0bchunked\r\n", b"Transfer-Encoding: ", b"chunked", b"identity", b"0\r\n\r\n",
    b"5\r\nhello\r\n", b"3;x=y\r\n", b"0\r\nA: b\r\n\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Connection: upgrade\r\n", b"Upgrade: websocket\r\n",
    b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", b"Expect: 100-continue\r\n", b"Expect: x\r\n",
    b"Authorization: Bearer sk-x\r\n", b"Authorization_: x\r\n", b"X-Forwarded-For: 10.0.0.1\r\n", b": ", b":", b",",
)  # fmt: skip

TARGET = Target("request", "what a client sends, to the server's wire", try_request, WORDS)
