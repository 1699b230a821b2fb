"""The channel: questions both ways, and two ends that never wait for each other."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tornado.ioloop import IOLoop

from proxy.gateway.channel import MAX_LINE_BYTES, Channel, ChannelClosed, Handler, Params, Refused, pair

pytestmark = pytest.mark.gen_test(timeout=10)


class Ends:
    """Both ends of a channel in one loop."""

    def __init__(self, handlers: dict[str, Handler]) -> None:
        loop = asyncio.get_running_loop()
        self.closed: list[str] = []
        ours, theirs = pair()
        self.one = Channel(loop, ours, lambda: self.closed.append("one"))
        self.other = Channel(loop, theirs, lambda: self.closed.append("other"), handlers)


@asynccontextmanager
async def ends(**handlers: Handler) -> AsyncIterator[Ends]:
    """Both ends, closed in the end."""
    made = Ends(handlers)
    try:
        yield made
    finally:
        made.one.close()
        made.other.close()


async def until(condition: Any) -> None:
    """Wait until it holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - what is waited for does not tell
            await asyncio.sleep(0.005)


async def test_what_is_said_is_heard_in_order(io_loop: IOLoop) -> None:
    async with ends() as both:
        heard: list[Params] = []
        both.other.on_say("beat", heard.append)
        for number in range(500):
            assert both.one.say("beat", number=number, text="é\n")
        both.one.say("nobody listens")
        await until(lambda: len(heard) == 500)
        assert [said["number"] for said in heard] == list(range(500))
        assert heard[0]["text"] == "é\n"


async def test_questions_are_answered_at_once_or_later_each_with_its_own(io_loop: IOLoop) -> None:
    async def later(params: Params) -> object:
        await asyncio.sleep(params["after_s"])
        return params["after_s"]

    async with ends(now=lambda params: {"got": dict(params)}, later=later) as both:
        assert await both.one.ask("now", {"x": 1}, 1) == {"got": {"x": 1}}
        slow, quick = both.one.ask("later", {"after_s": 0.1}, 1), both.one.ask("later", {"after_s": 0.0}, 1)
        assert list(await asyncio.gather(slow, quick)) == [0.1, 0.0]


async def test_a_question_without_an_answer_says_why(io_loop: IOLoop, caplog: pytest.LogCaptureFixture) -> None:
    def wrong(params: Params) -> object:
        raise ValueError("no such subject")

    def broken(params: Params) -> object:
        return params["absent"]

    async def never(params: Params) -> object:
        return await asyncio.get_running_loop().create_future()

    async with ends(wrong=wrong, broken=broken, never=never, long=lambda _: "x" * MAX_LINE_BYTES) as both:
        for name, words in (
            ("wrong", "no such subject"),
            ("unknown", "nobody here answers unknown"),
            ("broken", "could not be answered"),
            ("long", "too long"),
        ):
            with pytest.raises(Refused, match=words):
                await both.one.ask(name, {}, 1)
        with pytest.raises(TimeoutError):
            await both.one.ask("never", {}, 0.05)
        assert "KeyError" in caplog.text


async def test_an_end_that_is_gone_is_noticed_and_whoever_asked_is_told(io_loop: IOLoop) -> None:
    async def never(params: Params) -> object:
        return await asyncio.get_running_loop().create_future()

    async with ends(never=never) as both:
        asking = asyncio.ensure_future(both.one.ask("never", {}, 5))
        await asyncio.sleep(0.01)
        both.other.close()
        with pytest.raises(ChannelClosed):
            await asking
        assert both.closed == ["one"]
        assert not both.one.say("beat")
        with pytest.raises(ChannelClosed):
            await both.one.ask("never", {}, 5)


async def test_an_end_that_does_not_read_costs_beats_and_nothing_else(io_loop: IOLoop) -> None:
    ours, theirs = pair()
    channel = Channel(asyncio.get_running_loop(), ours, lambda: None)
    beats = 0
    while channel.say("beat", may_drop=True, text="x" * 1000):
        beats += 1
        assert beats < 10_000
    assert channel.say("leaving"), "what is no beat still goes"
    for size in (100_000, 1_000, 1):
        while channel.say("more", text="x" * size):
            pass
    with pytest.raises(ChannelClosed):
        await channel.ask("x", {}, 1)
    theirs.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=theirs)
    said = [json.loads(await reader.readline())["say"] for _ in range(beats + 1)]
    assert said == ["beat"] * beats + ["leaving"]
    channel.close()
    writer.close()


@pytest.mark.parametrize(
    "line", [b"{\n", b"[]\n", b'{"ask": "x"}\n', b"x" * (MAX_LINE_BYTES + 2), b'{"answer": []}\n']
)
async def test_what_is_no_line_of_ours_ends_it(
    line: bytes, io_loop: IOLoop, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = socket.socketpair()
    closed: list[bool] = []
    channel = Channel(asyncio.get_running_loop(), ours, lambda: closed.append(True))
    theirs.setblocking(False)
    with theirs:
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(theirs, line))
        await until(lambda: closed)
        sending.cancel()
    assert channel.is_closed
    assert "cannot be read" in caplog.text


async def test_what_was_said_before_the_end_is_still_read(io_loop: IOLoop) -> None:
    async with ends() as both:
        heard: list[Params] = []
        both.one.on_say("beat", heard.append)
        both.other.say("beat", text="x" * 150_000)
        both.other.close()
        both.one.read_rest()
        assert len(heard) == 1
