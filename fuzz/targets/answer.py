"""What an upstream answers: `UpstreamConnection`, on a transport without a socket.

The first byte says how it is asked (`_asked`), the others are the answer, and then the end. Whatever they are: the
receiver is told the end or an error, once, and nothing behind it; the cuts change neither; a connection is idle in
the pool only if the answer ended exactly with its last byte; and h11 reads every whole answer as the same answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import h11

from fuzz.target import ERRORS, Finding, Target, require
from fuzz.targets.mock import as_h11, cuts, differs_on_purpose, run
from proxy.core.errors import ProtocolError, UpstreamError
from proxy.core.origin import Origin
from proxy.wire.client import UpstreamConnection
from proxy.wire.framing import Framing
from proxy.wire.gate import ResponseError, ResponseHead
from proxy.wire.pool import Pool
from proxy.wire.ticker import Ticker
from tests.wire.transport import MockTransport

ORIGIN = Origin("origin.test", 80, False)


def _asked(first: int) -> tuple[str, bool]:
    """The method of the request, and whether its answer is spliced: by a byte."""
    return ("HEAD" if first & 1 else "GET"), bool(first & 2)


@dataclass
class Taken:
    """What a receiver was told."""

    splices: bool
    head: ResponseHead | None = None
    body: bytes = b""
    ended: int = 0
    error: UpstreamError | None = None
    framing: Framing = Framing.NONE
    is_idle: bool = False
    late: list[str] = field(default_factory=list)

    def _is_over(self, call: str) -> None:
        if self.ended or self.error is not None:
            self.late.append(call)

    def on_upstream_informational(self, head: ResponseHead) -> None:
        """A 1xx answer before the real one."""
        self._is_over("informational")
        require(100 <= head.status < 200 and self.head is None, "a 1xx answer in the wrong place", head.status)

    def on_upstream_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        """101, which was not asked for."""
        self._is_over("switch")
        raise ResponseError("nobody asked for another protocol")

    def on_upstream_headers(self, head: ResponseHead) -> bool:
        """A head."""
        self._is_over("headers")
        require(self.head is None, "an answer has two heads")
        self.head = head
        self.framing = head.framing
        return self.splices

    def on_upstream_data(self, data: bytes) -> None:
        """A piece."""
        self._is_over("data")
        self.body += data

    def on_upstream_end(self) -> None:
        """The end."""
        self._is_over("end")
        self.ended += 1

    def on_upstream_error(self, error: UpstreamError) -> None:
        """No end."""
        self._is_over("error")
        self.error = error

    def shown(self) -> tuple[object, ...]:
        """What must be the same however the bytes were cut. Of a broken body a different part may have come."""
        head = self.head
        lines = (head.status, head.reason, head.version, head.headers.fields) if head is not None else None
        kind = type(self.error)
        return (lines, self.framing, self.ended, kind, self.body if self.ended else b"")


class _Pool(Pool):
    """Keeps every connection that is released: here none has an address that could have moved."""

    def release(self, connection: UpstreamConnection) -> None:
        """Keep it."""
        self._idle.append(connection)


async def _ask(segments: list[bytes], method: str, splices: bool) -> Taken:
    ticker = Ticker(asyncio.get_running_loop())
    pool = _Pool(ORIGIN, ticker)
    connection = UpstreamConnection(pool)
    transport = MockTransport(connection)
    taken = Taken(splices)
    connection.begin(taken, method)
    connection.write(b"%b / HTTP/1.1\r\nHost: origin.test\r\n\r\n" % method.encode())
    connection.request_ended()
    transport.feed(*segments)
    idle = pool.acquire()
    require(idle in (None, connection), "the pool gives another connection")
    taken.is_idle = idle is not None
    if not transport.ended():
        transport.lose()
    await asyncio.sleep(0)
    ticker.close()
    return taken


def _check(taken: Taken) -> None:
    require(not taken.late, "something came behind the end", taken.late)
    require(taken.ended + (taken.error is not None) == 1, "neither an end nor an error, or both")
    require(taken.error is None or isinstance(taken.error, ProtocolError), "another error", taken.error)
    require(not taken.is_idle or taken.ended == 1, "a connection is pooled without the end of its answer")


def _h11_reads(data: bytes, method: str) -> tuple[int, list[tuple[bytes, bytes]], bytes, bytes, bool] | None:
    """(status, headers, body, rest, whether the end of the connection was the end) as h11 sees it, or None."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "origin.test")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    try:
        while isinstance(event := connection.next_event(), h11.InformationalResponse):
            pass
        if not isinstance(event, h11.Response):
            raise Finding("h11 sees no answer where we see one", event)
        body = b""
        needs_end = False
        while not isinstance(piece := connection.next_event(), h11.EndOfMessage):
            if piece is h11.NEED_DATA:
                require(not needs_end, "h11 misses the end of an answer")
                needs_end = True
                connection.receive_data(b"")
            elif isinstance(piece, h11.Data):
                body += piece.data
    except h11.RemoteProtocolError as error:
        if differs_on_purpose(error) and isinstance(event, h11.Response):
            return None
        raise Finding("h11 refuses an answer we accept", error) from None
    return event.status_code, list(event.headers), body, connection.trailing_data[0], needs_end


def try_answer(data: bytes) -> None:
    """Feed it in three ways; see the module's docstring."""
    method, splices = _asked(data[0] if data else 0)
    answer = data[1:]
    outcomes = [run(_ask(segments, method, splices)) for segments in cuts(answer)]
    ERRORS.check()
    whole = outcomes[0]
    for taken in outcomes:
        _check(taken)
        if taken.shown() != whole.shown():
            raise Finding("cut otherwise it is something else", f"{whole.shown()} is not {taken.shown()}")
    broken = sorted((taken.body for taken in outcomes), key=len)
    require(all(broken[-1].startswith(body) for body in broken), "cut otherwise the bytes differ")
    if not whole.ended:
        require(not any(taken.is_idle for taken in outcomes), "a connection that failed is pooled")
        return
    reading = _h11_reads(answer, method)
    if reading is None:
        return
    status, headers, body, rest, needs_end = reading
    assert whole.head is not None
    ours = as_h11(whole.head.headers.fields)
    require((status, headers) == (whole.head.status, ours), "h11 sees another answer", (status, headers))
    require(needs_end == (whole.framing is Framing.CLOSE), "h11 sees another end")
    if splices and whole.framing is Framing.CHUNKED:
        require(answer.endswith(whole.body + rest), "the spliced bytes are not the answer's own")
    else:
        require(body == whole.body, "h11 sees another body", body)
    exact = not rest and not needs_end and whole.head.keep_alive
    for taken in outcomes:
        require(taken.is_idle == exact, "pooled though it may not be reused, or the other way round", taken.is_idle)


WORDS = (
    b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 304 Not Modified\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\n", b"HTTP/1.1 429 Too Many Requests\r\n", b"HTTP/1.1 200\r\n", b"HTTP/1.1 999 \r\n",
    b"HTTP/2 200\r\n", b"ICY 200 OK\r\n", b"\r\n", b"\n", b"\r\n\r\n", b"\r\n ", b"\0", b"\t",
    b"Content-Length: 0\r\n", b"Content-Length: 2\r\n\r\nok", b"Content-Length: ", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"2\r\nok\r\n", b"0\r\n\r\n", b"2;a=b\r\nok\r\n", b"0\r\nX-T: v\r\n\r\n",
    b"Connection: close\r\n", b"Connection: keep-alive\r\n", b"Connection: upgrade\r\nUpgrade: h2c\r\n",
    b"retry-after: 1\r\n", b"x-request-id: r\r\n", b": ", b"data: x\n\n",
)  # fmt: skip

TARGET = Target("answer", "what an upstream answers, to the client's wire", try_answer, WORDS)
