"""How a server connection ends: clients that leave, delegates that fail, deadlines, requests that break off."""

from __future__ import annotations

import asyncio
import struct
from typing import Any

import pytest

from proxy.wire.framing import Framing
from proxy.wire.linger import LINGER_S, Linger
from proxy.wire.read_ahead import READ_AHEAD
from proxy.wire.ticker import INTERVAL_S, Ticker
from tests.wire.recording import Delegate, Held, Scene, answer_of, get, post, turns

pytestmark = pytest.mark.gen_test
LEAVING = pytest.mark.parametrize("error", [None, ConnectionResetError()])


@LEAVING
@pytest.mark.parametrize("data", [b"", b"GET / HT", get(), get() + b"POST / HT"])
async def test_a_client_that_leaves_between_requests_is_nobodys_business(
    data: bytes, error: Exception | None
) -> None:
    async with Scene() as scene:
        scene.feed(data)
        scene.transport.lose(error)
        assert [events for events in scene.app.events if events != ["headers", "finish"]] == []


@LEAVING
@pytest.mark.parametrize("body", [b"", b"ab"])
async def test_a_client_that_leaves_in_its_body(body: bytes, error: Exception | None) -> None:
    async with Scene() as scene:
        scene.feed(post(b"abc")[:-3] + body)
        scene.transport.lose(error)
        assert scene.app.events == [["headers", *(["data"] if body else []), "gone"]]


@LEAVING
@pytest.mark.parametrize("data", [get(), post(b"abc"), post(b"abc")[:-1], get() + get(b"/next")])
async def test_a_client_that_leaves_while_held(data: bytes, error: Exception | None) -> None:
    async with Scene() as scene:
        gate: asyncio.Future[None] = scene.loop.create_future()
        scene.app.on_headers = lambda delegate: gate
        scene.feed(data)
        scene.transport.lose(error)
        assert scene.app.events == [["headers", "gone"]]
        gate.set_result(None)
        await turns()
        assert scene.app.events == [["headers", "gone"]]


@LEAVING
@pytest.mark.parametrize("data", [get(), post(b"abc"), get() + get(b"/next")])
@pytest.mark.parametrize("is_started", [False, True])
async def test_a_client_that_leaves_before_its_answer_is_whole(
    data: bytes, is_started: bool, error: Exception | None
) -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: delegate.start(Framing.CHUNKED) if is_started else None
        scene.feed(data)
        scene.transport.lose(error)
        assert scene.app.delegates[0].events[-2:] == ["finish", "close callback"]
        assert len(scene.app.delegates) == 1


@LEAVING
async def test_a_client_that_leaves_while_answered_early(error: Exception | None) -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.start(Framing.CHUNKED)
        scene.feed(post(b"abc")[:-1])
        scene.transport.lose(error)
        assert scene.app.events == [["headers", "data", "gone"]]


@LEAVING
async def test_a_client_that_leaves_after_its_answer(error: Exception | None) -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.answer(403)
        scene.feed(post(bytes(100))[:-50])
        scene.transport.lose(error)
        assert scene.app.events == [["headers"]]


@pytest.mark.parametrize("place", ["headers", "data", "finish", "close callback", "gone"])
@pytest.mark.parametrize("with_body", [True, False])
async def test_a_delegate_that_fails_ends_its_own_connection_only(
    place: str, with_body: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(delegate: Delegate) -> Any:
        raise ValueError(place)

    if place == "data" and not with_body:
        return
    async with Scene() as scene:
        app = scene.app
        app.on_finish = lambda delegate: None
        if place == "close callback":
            app.on_finish = lambda delegate: delegate.writer.set_close_callback(lambda: fail(delegate))
        elif place == "gone":
            app.on_headers = lambda delegate: scene.loop.create_future()
            app.on_gone = fail
        else:
            setattr(app, f"on_{place}", fail)
        data = post(b"abc") if with_body else get()
        assert scene.feed(data + get(b"/next")) == b""
        if place in ("close callback", "gone"):
            scene.transport.lose()
        assert scene.transport.ended()
        await turns()
        assert "ValueError" in caplog.text
        assert len(app.delegates) == 1
        assert app.closed == 1


@pytest.mark.parametrize("data", [get(), post(b"abc")])
async def test_a_delegate_that_fails_at_the_head_still_learns_of_the_end(
    data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """As on Tornado's server: whatever it has taken in hand by then it can let go."""

    def fail(delegate: Delegate) -> Held:
        raise ValueError("x")

    async with Scene() as scene:
        scene.app.on_headers = fail
        scene.feed(data)
        await turns()
        assert scene.app.events == [["headers", "gone"]]


# deadlines


async def test_an_idle_connection_is_closed_quietly() -> None:
    async with Scene() as scene:
        assert scene.wait_s == pytest.approx(11, abs=1)  # for the first request no longer than for a head
        scene.feed(get())
        assert scene.wait_s == pytest.approx(33, abs=1)
        scene.watched.on_deadline()
        assert (scene.transport.take(), scene.transport.ended()) == (b"", "close")


async def test_a_slow_head_is_408_and_more_bytes_do_not_help_it() -> None:
    async with Scene() as scene:
        scene.feed(b"G")
        deadline_s = scene.watched.deadline_s
        scene.feed(b"E", b"T / HTTP/1.1\r\n")
        assert scene.watched.deadline_s == deadline_s
        scene.watched.on_deadline()
        assert scene.transport.take().startswith(b"HTTP/1.1 408 Request Timeout\r\n")
        assert scene.transport.eof_written
        assert scene.app.events == []


@pytest.mark.parametrize("is_started", [False, True])
async def test_a_slow_body_is_408_or_a_cut(is_started: bool) -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.start(Framing.CHUNKED) if is_started else None
        scene.feed(post(b"abc")[:-3])
        assert scene.wait_s == pytest.approx(22, abs=1)
        scene.watched.deadline_s = 0
        scene.feed(b"a")
        assert scene.wait_s == pytest.approx(22, abs=1)  # a gap, not a total
        scene.transport.take()
        scene.watched.on_deadline()
        await turns()
        assert scene.app.events == [["headers", "data", "gone"]]
        if is_started:
            assert (scene.transport.take(), scene.transport.ended()) == (b"", "abort")
        else:
            assert scene.transport.take().startswith(b"HTTP/1.1 408 ")


async def test_a_body_timeout_of_its_own_is_for_one_request() -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.writer.set_body_timeout(5)
        scene.feed(post(b"abc")[:-1])
        assert scene.wait_s == pytest.approx(5, abs=1)
        scene.app.on_headers = lambda delegate: None
        scene.feed(b"c" + post(b"abc")[:-1])
        assert scene.wait_s == pytest.approx(22, abs=1)


async def test_an_answer_has_no_deadline() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        scene.feed(post(b"abc"))
        assert scene.wait_s == float("inf")


async def test_the_rest_of_an_answered_body_has_one() -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.answer(403)
        scene.feed(post(b"abc")[:-1])
        assert scene.wait_s == pytest.approx(22, abs=1)
        scene.transport.take()
        scene.watched.on_deadline()
        assert (scene.transport.take(), scene.transport.ended()) == (b"", "close")


async def test_lingering_ends_but_not_before_the_answer_is_out() -> None:
    """A client that reads slowly gets the whole of an early answer, however long it takes."""
    async with Scene() as scene:
        scene.transport.unsent = True
        scene.connection.pause_writing()
        scene.app.on_headers = lambda delegate: delegate.answer(403, bytes(300_000))
        scene.feed(post(bytes(10_000_000))[:1000])
        assert scene.wait_s <= LINGER_S
        scene.watched.on_deadline()
        assert scene.transport.ended() != "abort"
        scene.transport.unsent = False
        scene.connection.resume_writing()
        scene.watched.on_deadline()
        assert scene.transport.ended() == "close"


async def test_a_lingering_client_that_never_takes_its_answer_is_cut_in_the_end() -> None:
    async with Scene() as scene:
        scene.transport.unsent = True
        scene.app.on_headers = lambda delegate: delegate.answer(403, bytes(300_000))
        scene.feed(post(bytes(10_000_000))[:1000])
        lingering = scene.watched
        assert isinstance(lingering, Linger)
        lingering._until_s = 0
        lingering.on_deadline()
        assert scene.transport.ended() == "close"
        lingering.on_deadline()
        assert scene.transport.ended() == "abort"


# requests that break off


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /v1/x HTTP/1.1\r\n\r\n", 400),
        (get(b"/", b"X: " + b"a" * 5000), 431),
        (b"BREW / HTTP/1.1\r\n\r\n", 405),
        (get(b"/", b"Expect: x"), 417),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloX", 400),
    ],
)
@pytest.mark.parametrize("before", [b"", get(b"/good")])
async def test_a_bad_request_is_answered_in_its_turn_and_ends_the_connection(
    data: bytes, status: int, before: bytes
) -> None:
    async with Scene(max_header_bytes=4096) as scene:
        out = scene.feed(before + data + get(b"/canary"))
        if before:
            assert out.startswith(answer_of(b"/good "))
            out = out.removeprefix(answer_of(b"/good "))
        assert out.startswith(b"HTTP/1.1 %d " % status)
        assert b"\r\nConnection: close\r\n" in out
        assert out.count(b"HTTP/1.1") == 1
        assert scene.transport.eof_written
        assert scene.feed(get(b"/canary")) == b""
        assert all(delegate.target != "/canary" for delegate in scene.app.delegates)
        assert 0 < scene.wait_s <= LINGER_S


async def test_a_bad_request_waits_for_the_answer_before_it() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        assert scene.feed(get(b"/1") + b"BAD\r\n\r\n") == b""
        scene.app.delegates[0].answer(body=b"one")
        out = scene.transport.take()
        assert out.startswith(answer_of(b"one") + b"HTTP/1.1 4")


async def test_a_bad_body_of_an_answer_that_has_begun_is_a_cut() -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.start(Framing.CHUNKED)
        scene.feed(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert scene.feed(b"nonsense\r\n") == b""
        assert scene.transport.ended() == "abort"
        await turns()
        assert scene.app.events == [["headers", "gone"]]


# the clock of all connections, and the eye on those that are not read


class Late:
    """Something overdue."""

    def __init__(self, *, fails: bool) -> None:
        self.deadline_s = 0.0
        self.fails = fails
        self.seen = 0

    def on_deadline(self) -> None:
        self.seen += 1
        if self.fails:
            raise ValueError("a delegate failed in on_connection_close")


async def test_one_that_fails_at_its_deadline_does_not_stop_the_clock_for_all() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: None)  # however it is told, the clock must go on
    ticker = Ticker(loop)
    late = [Late(fails=True), Late(fails=True), Late(fails=False)]
    for one in late:
        ticker.watch(one)
    await asyncio.sleep(INTERVAL_S * 2.5)
    assert [one.seen for one in late] == [2, 2, 2]
    ticker.close()


class Socket:
    """A socket in a state of its own."""

    family = 0

    def __init__(self) -> None:
        self.state = 1

    def getsockopt(self, level: int, name: int, size: int) -> bytes:
        return struct.pack("B", self.state)


async def test_a_client_that_leaves_while_nothing_is_read_is_noticed() -> None:
    async with Scene() as scene:
        sock = Socket()
        scene.transport.get_extra_info = lambda name, default=None: sock  # type: ignore[method-assign]
        scene.app.on_finish = lambda delegate: None
        scene.feed(get() + bytes(READ_AHEAD + 1))
        assert not scene.transport.is_read()
        await asyncio.sleep(INTERVAL_S * 1.5)
        assert not scene.transport.ended()
        sock.state = 8  # CLOSE_WAIT
        await asyncio.sleep(INTERVAL_S * 1.5)
        assert scene.transport.ended() == "abort"
        assert scene.app.events == [["headers", "finish", "close callback"]]
