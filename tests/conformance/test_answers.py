"""What a delegate may not write: answers that its client could not read, or would take for another one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tornado.httputil import HTTPHeaders, HTTPOutputError, ResponseStartLine
from tornado.iostream import StreamClosedError

from proxy.wire.response import ResponseWriter
from tests.wire.recording import Delegate, Scene, answer_of, get, turns

OK = ResponseStartLine("HTTP/1.1", 200, "OK")
pytestmark = pytest.mark.gen_test


@pytest.mark.parametrize(
    "lines",
    [
        [("Content-Length", "five")],
        [("Content-Length", "+5")],
        [("Content-Length", "-5")],
        [("Content-Length", "0_5")],
        [("Content-Length", "\xb2")],
        [("Content-Length", "5, 5")],
        [("Content-Length", "")],
        [("Content-Length", "5"), ("Content-Length", "5")],
        [("Transfer-Encoding", "chunked")],
        [("Transfer-Encoding", "gzip"), ("Content-Length", "5")],
    ],
)
async def test_a_head_that_can_be_read_in_two_ways(lines: list[tuple[str, str]]) -> None:
    failed: list[Exception] = []

    def answer(delegate: Delegate) -> None:
        headers = HTTPHeaders()
        for name, value in lines:
            headers.add(name, value)
        try:
            delegate.writer.write_headers(OK, headers, b"hello")
        except ValueError as error:
            failed.append(error)
            delegate.answer(500, b"sorry")

    async with Scene() as scene:
        scene.app.on_finish = answer
        assert scene.feed(get()) == answer_of(b"sorry", b"500 Fine")
        assert len(failed) == 1
        assert scene.is_open


def ends(writer: ResponseWriter) -> None:
    """End at once."""
    writer.finish()


def writes(writer: ResponseWriter) -> None:
    """Begin with the body."""
    writer.write(b"hello")


@pytest.mark.parametrize("act", [ends, writes])
async def test_an_answer_without_a_head(
    act: Callable[[ResponseWriter], None], caplog: pytest.LogCaptureFixture
) -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: act(delegate.writer)
        # The second request must not be answered either: its answer would be taken for the first one's.
        assert scene.feed(get(b"/1") + get(b"/2")) == b""
        assert not scene.is_open
        assert len(scene.app.delegates) == 1
        (record,) = caplog.records
        assert record.exc_info is not None
        assert record.exc_info[0] is HTTPOutputError


async def test_more_behind_the_end_of_an_answer() -> None:
    async with Scene() as scene:

        def answer(delegate: Delegate) -> None:
            delegate.writer.write_headers(OK, HTTPHeaders(), b"hello")
            delegate.writer.finish()
            late.append(delegate.writer.write(b"more"))

        late: list[object] = []
        scene.app.on_finish = answer
        assert scene.feed(get()).endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        with pytest.raises(StreamClosedError):
            await late[0]  # type: ignore[misc]
        assert scene.is_open


async def test_a_client_that_has_left_is_no_fault_of_the_delegate() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        scene.feed(get())
        scene.connection.abort()
        await turns()
        scene.app.delegates[0].writer.finish()
