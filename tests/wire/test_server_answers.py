"""What a server connection writes: framings, persistence, old clients, no more and no less than announced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tornado.httputil import HTTPHeaders, HTTPOutputError, ResponseStartLine
from tornado.iostream import StreamClosedError

from proxy.core.headers import Headers, field
from proxy.wire.connection import WRITE_AHEAD
from proxy.wire.framing import Framing
from proxy.wire.headers import WireHeaders
from tests.wire.recording import Delegate, Scene, answer_of, get, post, turns

LENGTH_5 = field(b"Content-Length", b"5")
OK = ResponseStartLine("HTTP/1.1", 200, "OK")
pytestmark = pytest.mark.gen_test


def stream(*pieces: bytes, status: int = 200, **headers: str) -> Callable[[Delegate], None]:
    """Answer like a Tornado handler: a head, pieces, the end."""

    def answer(delegate: Delegate) -> None:
        lines = HTTPHeaders({name.replace("_", "-"): value for name, value in headers.items()})
        writer = delegate.writer
        writer.write_headers(ResponseStartLine("HTTP/1.1", status, "OK"), lines, pieces[0] if pieces else None)
        for piece in pieces[1:]:
            writer.write(piece)
        writer.finish()

    return answer


async def test_without_a_length_a_body_goes_out_in_chunks() -> None:
    async with Scene() as scene:
        scene.app.on_finish = stream(b"first", b"", b"x" * 17)
        expected = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n11\r\n"
            + b"x" * 17
            + b"\r\n0\r\n\r\n"
        )
        assert scene.feed(get()) == expected
        scene.app.on_finish = stream()
        assert scene.feed(get()) == b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert scene.is_open


async def test_a_body_may_hold_any_byte() -> None:
    everything = bytes(range(256))
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: delegate.answer(body=everything)
        assert scene.feed(get()) == answer_of(everything)
        scene.app.on_finish = stream(everything, everything)
        chunk = b"100\r\n" + everything + b"\r\n"
        assert scene.feed(get()).endswith(b"\r\n\r\n" + chunk + chunk + b"0\r\n\r\n")


@pytest.mark.parametrize(
    ("lines", "version", "framed", "closes"),
    [
        ([], b"1.0", b"Connection: close\r\n\r\nfirstmore", True),
        ([b"Connection: keep-alive"], b"1.0", b"Connection: close\r\n\r\nfirstmore", True),
        (
            [b"Connection: close"],
            b"1.1",
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\nfirst\r\n4\r\nmore\r\n0\r\n\r\n",
            True,
        ),
    ],
)
async def test_unknown_length_by_version(lines: list[bytes], version: bytes, framed: bytes, closes: bool) -> None:
    async with Scene() as scene:
        scene.app.on_finish = stream(b"first", b"more")
        assert scene.feed(get(b"/", *lines, version=version)) == b"HTTP/1.1 200 OK\r\n" + framed
        assert (scene.transport.ended() == "close") is closes


@pytest.mark.parametrize(
    ("lines", "version", "line", "stays"),
    [
        ([], b"1.1", b"", True),
        ([b"Connection: close"], b"1.1", b"Connection: close\r\n", False),
        ([], b"1.0", b"Connection: close\r\n", False),
        ([b"Connection: Keep-Alive"], b"1.0", b"Connection: keep-alive\r\n", True),
    ],
)
@pytest.mark.parametrize("with_body", [False, True])
async def test_known_length_by_version(
    lines: list[bytes], version: bytes, line: bytes, stays: bool, with_body: bool
) -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: delegate.answer(body=b"hello")
        data = post(b"abc", *lines, version=version) if with_body else get(b"/", *lines, version=version)
        assert scene.feed(data + get(b"/next")).startswith(
            b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\n" + line + b"\r\nhello"
        )
        assert scene.is_open is stays
        assert len(scene.app.delegates) == (2 if stays else 1)


async def test_head_is_answered_without_the_body_it_announces() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: delegate.answer(headers={"Content-Length": "12345"})
        assert scene.feed(get(method=b"HEAD")) == b"HTTP/1.1 200 Fine\r\nContent-Length: 12345\r\n\r\n"
        scene.app.on_finish = stream(b"never shown", b"nor this")
        assert scene.feed(get(method=b"HEAD")) == b"HTTP/1.1 200 OK\r\n\r\n"
        assert scene.feed(get(method=b"HEAD", version=b"1.0")) == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"


async def test_answers_that_have_no_body() -> None:
    async with Scene() as scene:
        scene.app.on_finish = stream(status=204)
        assert scene.feed(get()) == b"HTTP/1.1 204 OK\r\n\r\n"
        scene.app.on_finish = stream(status=204, Content_Length="0")
        assert scene.feed(get()) == b"HTTP/1.1 204 OK\r\n\r\n"  # RFC 9110 section 8.6
        scene.app.on_finish = stream(status=304, Content_Length="99")
        assert scene.feed(get()) == b"HTTP/1.1 304 OK\r\nContent-Length: 99\r\n\r\n"
        assert scene.feed(post(b"abc")) == b"HTTP/1.1 304 OK\r\nContent-Length: 99\r\n\r\n"
        assert scene.is_open


@pytest.mark.parametrize("pieces", [(b"123456",), (b"123", b"456"), (b"12345", b"6")])
async def test_more_bytes_than_announced_break_off_and_raise(pieces: tuple[bytes, ...]) -> None:
    async with Scene() as scene:
        raised: list[BaseException] = []

        def answer(delegate: Delegate) -> None:
            try:
                stream(*pieces, Content_Length="5")(delegate)
            except HTTPOutputError as error:
                raised.append(error)

        scene.app.on_finish = answer
        out = scene.feed(get() + get(b"/next"))
        assert len(raised) == 1
        assert b"6" not in out.partition(b"\r\n\r\n")[2]
        assert scene.transport.ended() == "abort"
        assert len(scene.app.delegates) == 1


@pytest.mark.parametrize("pieces", [(), (b"123",), (b"12", b"34")])
async def test_fewer_bytes_than_announced_break_off_and_raise(pieces: tuple[bytes, ...]) -> None:
    async with Scene() as scene:
        raised: list[BaseException] = []

        def answer(delegate: Delegate) -> None:
            try:
                stream(*pieces, Content_Length="5")(delegate)
            except HTTPOutputError as error:
                raised.append(error)

        scene.app.on_finish = answer
        scene.feed(get() + get(b"/next"))
        assert len(raised) == 1
        assert scene.transport.ended() == "abort"
        assert len(scene.app.delegates) == 1


BROKEN = ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b"]


def raw_headers(name: str, value: str) -> HTTPHeaders:
    """Headers that nobody has checked, as the data plane's own type allows."""
    return WireHeaders(Headers([field(name.encode(), value.encode())]))


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("place", ["reason", "name", "value"])
async def test_no_line_break_gets_into_a_head(broken: str, place: str) -> None:
    async with Scene() as scene:
        raised: list[BaseException] = []
        reason = broken if place == "reason" else "OK"
        headers = raw_headers(broken if place == "name" else "X-A", broken if place == "value" else "b")

        def answer(delegate: Delegate) -> None:
            try:
                delegate.writer.write_headers(ResponseStartLine("HTTP/1.1", 200, reason), headers)
            except Exception as error:
                raised.append(error)
                delegate.answer(500)

        scene.app.on_finish = answer
        assert scene.feed(get()) == answer_of(b"", b"500 Fine")
        assert len(raised) == 1


@pytest.mark.parametrize("broken", BROKEN)
async def test_tornados_own_headers_refuse_line_breaks_first(broken: str) -> None:
    headers = HTTPHeaders()
    with pytest.raises(Exception, match="Invalid header"):
        headers.add("X-A", broken)
    with pytest.raises(Exception, match="Invalid header"):
        headers.add(broken, "x")


# the data plane's way


async def test_a_spliced_body_goes_out_as_it_came() -> None:
    async with Scene() as scene:

        def answer(delegate: Delegate) -> None:
            delegate.start(Framing.CHUNKED, splice=True)
            delegate.writer.splice(b"5;ext\r\nhel")
            delegate.writer.splice(b"lo\r\n0\r\nT: v\r\n\r\n")
            delegate.writer.splice_end()

        scene.app.on_finish = answer
        expected = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;ext\r\nhello\r\n0\r\nT: v\r\n\r\n"
        assert scene.feed(get()) == expected
        assert scene.is_open


@pytest.mark.parametrize("end", ["splice", "splice_end", "abort", "lose"])
async def test_a_head_that_waits_for_its_body_is_never_forgotten(end: str) -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        scene.feed(get())
        writer = scene.app.delegates[0].writer
        writer.start(200, b"OK", Headers([LENGTH_5]), Framing.LENGTH, splice=True, body_follows=True)
        assert scene.transport.take() == b""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
        if end == "splice":
            writer.splice(b"hello")
            assert scene.transport.take() == head + b"hello"
            writer.splice_end()
            assert scene.is_open
        elif end == "splice_end":
            writer.splice_end()
            assert scene.transport.take() == head
        elif end == "abort":
            writer.abort()
            assert scene.transport.take() == head
            assert scene.transport.ended()
        else:
            scene.transport.lose()
            assert scene.app.events == [["headers", "finish", "close callback"]]


@pytest.mark.parametrize("framing", [Framing.LENGTH, Framing.CHUNKED, Framing.CLOSE])
async def test_an_answer_that_is_broken_off_takes_no_other_request(framing: Framing) -> None:
    async with Scene() as scene:

        def answer(delegate: Delegate) -> None:
            delegate.start(framing, *([LENGTH_5] if framing is Framing.LENGTH else []))
            delegate.writer.write(b"hel")
            delegate.writer.abort()

        scene.app.on_finish = answer
        out = scene.feed(get() + get(b"/next"))
        assert not out.endswith(b"0\r\n\r\n")
        assert scene.transport.ended()
        assert len(scene.app.delegates) == 1


# writes and the other side


async def test_a_write_waits_while_the_other_side_does_not_read() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        scene.feed(get())
        assert scene.transport.calls[0] == f"limits {WRITE_AHEAD}"
        writer = scene.app.delegates[0].writer
        assert writer.write_headers(OK, HTTPHeaders()).done()
        scene.connection.pause_writing()
        waiting = [writer.write(b"x"), writer.write(b""), writer.write(b"y")]
        assert not any(future.done() for future in waiting)
        scene.connection.resume_writing()
        assert all(future.done() for future in waiting)
        assert writer.write(b"z").done()
        writer.finish()


async def test_whoever_waits_to_write_is_released_when_the_client_leaves() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        scene.feed(get())
        writer = scene.app.delegates[0].writer
        writer.write_headers(OK, HTTPHeaders())
        scene.connection.pause_writing()
        waiting = writer.write(b"x")
        scene.transport.lose(ConnectionResetError())
        await asyncio.wait_for(asyncio.wait([waiting]), 1)


async def test_a_write_after_the_end_fails_softly_as_in_tornado() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        scene.feed(get())
        writer = scene.app.delegates[0].writer
        writer.write_headers(OK, HTTPHeaders())
        scene.transport.lose()
        with pytest.raises(StreamClosedError):
            await writer.write(b"x")
        with pytest.raises(StreamClosedError):
            await writer.write_headers(OK, HTTPHeaders())
        writer.finish()
        writer.finish()
        await turns()
        assert scene.app.events == [["headers", "finish", "close callback"]]


async def test_a_delegate_whose_request_was_refused_writes_into_nothing() -> None:
    """After a 413 of the wire's own the handler may still answer: not a byte of it goes out."""
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.writer.set_max_body_size(2)
        assert scene.feed(post(b"abc")).startswith(b"HTTP/1.1 413 ")
        scene.app.delegates[0].answer(body=b"too late")
        await turns()
        assert scene.transport.take() == b""


async def test_what_an_answered_request_still_writes_is_not_the_next_ones_answer() -> None:
    async with Scene() as scene:
        scene.feed(get(b"/1"))
        late = scene.app.delegates[0].writer
        scene.app.on_finish = lambda delegate: None
        scene.feed(get(b"/2"))
        late.finish()
        assert scene.transport.take() == b""
        scene.app.delegates[1].answer(body=b"mine")
        assert scene.transport.take() == answer_of(b"mine")
        assert scene.is_open
