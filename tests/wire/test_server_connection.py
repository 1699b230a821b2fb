"""The server connection, on a transport without a socket: requests in, one after the other, held or not."""

from __future__ import annotations

import asyncio

import pytest
from tornado.httputil import RequestStartLine

from proxy.wire.linger import LINGER_S
from proxy.wire.read_ahead import READ_AHEAD
from proxy.wire.request_body import DISCARD_AT_MOST
from tests.wire.recording import Delegate, Held, Scene, answer_of, get, post, turns

CHUNKED = (
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n"
)
THREE = post(b"first", target=b"/1") + CHUNKED + get(b"/3")
THREE_ANSWERS = answer_of(b"/1 first") + answer_of(b"/c abcde") + answer_of(b"/3 ")
pytestmark = pytest.mark.gen_test


async def test_keep_alive_one_after_the_other() -> None:
    async with Scene() as scene:
        for number in range(5):
            assert scene.feed(post(b"x", target=b"/%d" % number)) == answer_of(b"/%d x" % number)
            assert scene.connection.is_idle
            assert scene.wait_s == pytest.approx(33, abs=1)
        assert scene.app.events == [["headers", "data", "finish"]] * 5


@pytest.mark.parametrize("by", [0, 1, 2, 3, 7, 50])
async def test_pipelined_requests_are_answered_in_order_however_they_are_cut(by: int) -> None:
    async with Scene() as scene:
        step = by or len(THREE)
        assert scene.feed(*[THREE[i : i + step] for i in range(0, len(THREE), step)]) == THREE_ANSWERS
        assert scene.is_open
        trailing = scene.app.delegates[1].headers.get("T")
        assert trailing is None


async def test_pipelined_requests_at_every_split() -> None:
    async with Scene() as scene:
        for cut in range(1, len(THREE)):
            assert scene.feed(THREE[:cut], THREE[cut:]) == THREE_ANSWERS, cut


async def test_a_pipelined_request_waits_for_the_answer_before_it() -> None:
    async with Scene() as scene:
        scene.app.on_finish = lambda delegate: None
        assert scene.feed(THREE) == b""
        assert len(scene.app.delegates) == 1
        scene.app.delegates[0].answer(body=b"late")
        await turns()
        assert [events[-1] for events in scene.app.events] == ["finish", "finish"]
        assert scene.transport.take() == answer_of(b"late")


@pytest.mark.parametrize("size", [5, DISCARD_AT_MOST])
@pytest.mark.parametrize("by", [0, 1000])
async def test_a_denied_body_is_no_request(size: int, by: int) -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.answer(403) if delegate.target == "/deny" else None
        smuggled = (get(b"/smuggled") * size)[:size]
        data = post(smuggled, target=b"/deny") + post(b"second", target=b"/2")
        step = by or len(data)
        out = scene.feed(*[data[i : i + step] for i in range(0, len(data), step)])
        assert out == answer_of(b"", b"403 Fine") + answer_of(b"/2 second")
        assert [delegate.target for delegate in scene.app.delegates] == ["/deny", "/2"]
        assert scene.app.events[0] == ["headers"]


@pytest.mark.parametrize(
    "data",
    [
        post(bytes(DISCARD_AT_MOST + 1), target=b"/deny"),
        CHUNKED.replace(b"/c", b"/deny"),
        post(b"x", b"Expect: 100-continue", target=b"/deny"),
    ],
)
@pytest.mark.parametrize("size", [1 << 30, 100])
async def test_a_denied_body_that_is_large_or_uncertain_ends_the_connection(data: bytes, size: int) -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.answer(403)
        data += get(b"/smuggled")
        out = scene.feed(*[data[i : i + size] for i in range(0, len(data), size)])
        assert out == b"HTTP/1.1 403 Fine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        assert len(scene.app.delegates) == 1
        # The rest is read on for a moment, so that the client gets the answer and no reset.
        assert scene.transport.eof_written
        assert not scene.transport.ended()
        assert 0 < scene.wait_s <= LINGER_S
        assert scene.feed(bytes(100_000)) == b""
        assert scene.transport.is_read()
        scene.watched.on_deadline()
        assert scene.transport.ended() == "close"


async def test_an_early_answer_while_the_body_comes() -> None:
    async with Scene() as scene:
        scene.app.on_data = lambda delegate: delegate.answer(body=b"early") if len(delegate.body) == 5 else None
        data = post(b"hello" + bytes(100)) + get(b"/next")
        head = len(data) - 105 - len(get(b"/next"))
        out = scene.feed(data[: head + 5], data[head + 5 :])
        assert out == answer_of(b"early") + answer_of(b"/next ")
        assert scene.app.delegates[0].body == b"hello"
        assert scene.app.events == [["headers", "data"], ["headers", "finish"]]


async def test_the_rest_of_an_answered_body_is_not_measured_against_its_limit() -> None:
    async with Scene() as scene:

        def deny(delegate: Delegate) -> Held:
            delegate.writer.set_max_body_size(10)
            delegate.answer(403)
            return None

        scene.app.on_headers = deny
        assert scene.feed(post(bytes(100))) == answer_of(b"", b"403 Fine")


@pytest.mark.parametrize("data", [post(bytes(11)), CHUNKED.replace(b"3\r\nabc", b"B\r\n0123456789a")])
async def test_a_body_over_its_limit_is_413_and_no_more_of_it_is_delivered(data: bytes) -> None:
    async with Scene() as scene:
        scene.app.on_headers = lambda delegate: delegate.writer.set_max_body_size(10)
        assert scene.feed(data).startswith(b"HTTP/1.1 413 ")
        assert scene.app.events == [["headers", "gone"]]
        assert scene.transport.eof_written


async def test_the_limit_of_one_body_is_not_that_of_the_next() -> None:
    async with Scene() as scene:
        limits = iter([10, 0])
        scene.app.on_headers = lambda delegate: delegate.writer.set_max_body_size(next(limits))
        scene.app.on_finish = lambda delegate: delegate.answer(body=b"%d" % len(delegate.body))
        assert scene.feed(post(bytes(10)) + post(bytes(1000))) == answer_of(b"10") + answer_of(b"1000")


# held delegates


@pytest.mark.parametrize("data", [get(b"/h"), post(b"", target=b"/h"), post(b"abc", target=b"/h"), CHUNKED])
@pytest.mark.parametrize("behind", [b"", get(b"/next")])
@pytest.mark.parametrize("as_task", [False, True])
async def test_headers_held(data: bytes, behind: bytes, as_task: bool) -> None:
    async with Scene() as scene:
        gate: asyncio.Future[None] = scene.loop.create_future()

        async def wait() -> None:
            await gate

        scene.app.on_headers = lambda delegate: (wait() if as_task else gate) if delegate.target != "/next" else None
        assert scene.feed(data + behind) == b""
        assert scene.app.events == [["headers"]]
        assert scene.wait_s == float("inf")  # whoever holds answers for the time
        gate.set_result(None)
        await turns()
        assert [events[-1] for events in scene.app.events] == ["finish"] * (2 if behind else 1)
        assert scene.transport.take().count(b"HTTP/1.1 200 ") == (2 if behind else 1)
        assert scene.is_open


async def test_data_held_piece_by_piece() -> None:
    async with Scene() as scene:
        gates: list[asyncio.Future[None]] = []

        def hold(delegate: Delegate) -> Held:
            gates.append(scene.loop.create_future())
            return gates[-1]

        scene.app.on_data = hold
        head, body = post(b"0123456789")[:-10], b"0123456789"
        assert scene.feed(head, body[:2], body[2:4], body[4:] + get(b"/next")) == b""
        seen = [b"01", b"0123456789"]
        for index, expected in enumerate(seen):
            assert scene.app.delegates[0].body == expected
            assert scene.transport.take() == b""
            gates[index].set_result(None)
            await turns()
        assert scene.transport.take() == answer_of(b"/ 0123456789") + answer_of(b"/next ")


async def test_a_held_connection_reads_ahead_only_so_far() -> None:
    async with Scene() as scene:
        gate: asyncio.Future[None] = scene.loop.create_future()
        scene.app.on_headers = lambda delegate: gate
        body = bytes(READ_AHEAD + 200_000)
        data = post(body)
        scene.feed(data[:60_000])
        assert scene.transport.is_read()
        scene.feed(data[60_000:130_000])
        assert not scene.transport.is_read()
        gate.set_result(None)
        await turns()
        assert scene.transport.is_read()
        scene.app.on_finish = lambda delegate: delegate.answer(body=b"%d" % len(delegate.body))
        assert scene.feed(data[130_000:]) == answer_of(b"%d" % len(body))
        assert scene.transport.calls.count("pause_reading") == scene.transport.calls.count("resume_reading") == 1


@pytest.mark.parametrize("data", [get(b"/deny"), post(b"abc", target=b"/deny")])
async def test_an_answer_while_held_and_then_the_release(data: bytes) -> None:
    async with Scene() as scene:
        gate: asyncio.Future[None] = scene.loop.create_future()
        scene.app.on_headers = lambda delegate: gate if delegate.target == "/deny" else None
        assert scene.feed(data + get(b"/next")) == b""
        scene.app.delegates[0].answer(403)
        expected = answer_of(b"", b"403 Fine") + answer_of(b"/next ")
        assert scene.transport.take() == expected
        gate.set_result(None)
        await turns()
        assert scene.transport.take() == b""
        assert scene.feed(get(b"/next")) == answer_of(b"/next ")
        assert scene.app.events[0] == ["headers"]


@pytest.mark.parametrize("data", [get(b"/deny"), post(b"abc", target=b"/deny"), CHUNKED])
async def test_an_answer_at_once_that_still_asks_for_time(data: bytes) -> None:
    """Nothing is left to hold: the next request does not wait for it, and a closing connection closes."""
    async with Scene() as scene:
        gate: asyncio.Future[None] = scene.loop.create_future()

        def deny(delegate: Delegate) -> Held:
            if delegate.target == "/next":
                return None
            delegate.answer(403)
            return gate

        scene.app.on_headers = deny
        out = scene.feed(data)
        assert out.startswith(b"HTTP/1.1 403 Fine\r\n")
        if b"Connection: close" in out:
            assert scene.wait_s <= LINGER_S
        else:
            assert scene.feed(get(b"/next")) == answer_of(b"/next ")
        gate.set_result(None)
        await turns()
        assert scene.transport.ended() == ""
        assert scene.is_open is (b"Connection: close" not in out)


async def test_a_release_after_the_last_answer_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with Scene() as scene:
        scene.transport.unsent = True
        gate: asyncio.Future[None] = scene.loop.create_future()
        scene.app.on_headers = lambda delegate: gate
        scene.feed(get(b"/deny", b"Connection: close") + get(b"/never"))
        scene.app.delegates[0].answer(403)
        assert scene.transport.ended() == "close"
        gate.set_result(None)
        await turns()
        # The answer is still on its way out: an abort would cut it.
        assert scene.transport.ended() == "close"
        assert caplog.records == []
        assert len(scene.app.delegates) == 1


@pytest.mark.parametrize("error", [ValueError("x"), asyncio.CancelledError()])
async def test_a_hold_that_fails_ends_the_connection(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    async with Scene() as scene:
        gate: asyncio.Future[None] = scene.loop.create_future()
        scene.app.on_headers = lambda delegate: gate
        scene.feed(post(b"abc"))
        if isinstance(error, asyncio.CancelledError):
            gate.cancel()
        else:
            gate.set_exception(error)
        await turns()
        assert scene.transport.ended() == "abort"
        assert scene.app.events == [["headers", "gone"]]
        assert "a delegate failed" in caplog.text


# Expect: 100-continue


async def test_a_body_that_is_waited_for_is_asked_for() -> None:
    async with Scene() as scene:
        data = post(b"abc", b"Expect: 100-continue")
        assert scene.feed(data[:-3]) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert scene.feed(b"a", b"bc") == answer_of(b"/ abc")
        assert scene.is_open


async def test_a_body_that_is_there_already_or_never_comes_is_not_asked_for() -> None:
    async with Scene() as scene:
        assert scene.feed(post(b"abc", b"Expect: 100-continue")) == answer_of(b"/ abc")
        assert scene.feed(get(b"/", b"Expect: 100-continue")) == answer_of(b"/ ")
        old = post(b"abc", b"Expect: 100-continue", b"Connection: keep-alive", version=b"1.0")
        assert b"100 Continue" not in scene.feed(old[:-3], b"abc")


async def test_a_held_body_is_asked_for_only_when_the_hold_ends_well() -> None:
    async with Scene() as scene:
        gate: asyncio.Future[None] = scene.loop.create_future()
        scene.app.on_headers = lambda delegate: gate
        assert scene.feed(post(b"abc", b"Expect: 100-continue")[:-3]) == b""
        gate.set_result(None)
        await turns()
        assert scene.transport.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert scene.feed(b"abc") == answer_of(b"/ abc")


async def test_a_delegate_sees_the_request_as_tornado_shows_it() -> None:
    async with Scene() as scene:
        scene.feed(get(b"/a?b=%20c", b"X-Twice: 1", b"x-twice: 2"))
        delegate = scene.app.delegates[0]
        assert delegate.writer.context.remote_ip == "0.0.0.0"  # no socket, no family
        assert delegate.target == "/a?b=%20c"
        assert delegate.headers.get_list("X-Twice") == ["1", "2"]
        assert delegate.headers["x-TWICE"] == "1,2"
        assert RequestStartLine("GET", delegate.target, "HTTP/1.1").method == "GET"
