"""The upstream connection against a scripted origin on loopback: answers, cuts, early ends, flow control."""

from __future__ import annotations

import asyncio
import socket

import pytest

from proxy.core.errors import ProtocolError, ReadTimeout
from proxy.core.origin import Origin
from proxy.wire.answer_reader import MAX_INFORMATIONAL
from proxy.wire.client import UpstreamConnection
from proxy.wire.gate import ResponseHead
from proxy.wire.pool import Pool, UpstreamTimeouts
from proxy.wire.ticker import Ticker
from tests.wire.origin import GET, OK_2, Answer, gone, origin

pytestmark = pytest.mark.gen_test
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
CLOSING = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize("splices", [False, True])
@pytest.mark.parametrize("by", [0, 1])
@pytest.mark.parametrize(
    ("data", "body", "framed"),
    [
        (OK_2, b"ok", b"ok"),
        (
            CHUNKED + b"3\r\nabc\r\n2;e\r\nde\r\n0\r\nT: v\r\n\r\n",
            b"abcde",
            b"3\r\nabc\r\n2;e\r\nde\r\n0\r\nT: v\r\n\r\n",
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK_2, b"ok", b"ok"),
    ],
)
async def test_an_answer_is_whole_and_its_connection_reused(
    data: bytes, body: bytes, framed: bytes, by: int, splices: bool
) -> None:
    async with origin() as peer:
        for _ in range(2):
            answer = await peer.ask(splices=splices)
            await peer.received(GET)
            await peer.send(data, by=by)
            assert await answer.outcome() == "end"
            assert answer.body == (framed if splices else body)
        assert peer.connections == 1


async def test_head_is_answered_without_a_body() -> None:
    async with origin() as peer:
        answer = await peer.ask(method="HEAD")
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
        assert (await answer.outcome(), answer.body) == ("end", b"")
        assert peer.pool.acquire() is answer.connection


@pytest.mark.parametrize(
    "data",
    [
        OK_2 + b"x",
        OK_2 + OK_2,
        CHUNKED + b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
@pytest.mark.parametrize("splices", [False, True])
async def test_bytes_behind_an_answer_or_its_wish_to_close_keep_the_connection_from_the_pool(
    data: bytes, splices: bool
) -> None:
    async with origin() as peer:
        answer = await peer.ask(splices=splices)
        await peer.send(data)
        assert await answer.outcome() == "end"
        assert answer.body in (b"ok", b"", b"0\r\n\r\n")
        assert peer.pool.acquire() is None
        assert await peer.is_left()


async def test_a_body_that_ends_with_its_connection() -> None:
    async with origin() as peer:
        answer = await peer.ask()
        await peer.send(CLOSING + b"hello, ")
        await peer.send(b"world")
        assert answer.error is None
        peer.close()
        assert (await answer.outcome(), answer.body) == ("end", b"hello, world")
        assert peer.pool.acquire() is None


STAGES = {
    "before the head": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nCont",
    "after a 1xx": b"HTTP/1.1 100 Continue\r\n\r\n",
    "before a body by length": OK_2[:-2],
    "in a body by length": OK_2[:-1],
    "before a chunk": CHUNKED,
    "in a chunk": CHUNKED + b"5\r\nhel",
    "before the last chunk": CHUNKED + b"5\r\nhello\r\n",
    "in the trailers": CHUNKED + b"0\r\nT: v\r\n",
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("by_reset", [False, True])
async def test_an_end_too_early_is_an_error_at_every_stage(stage: str, by_reset: bool) -> None:
    async with origin() as peer:
        answer = await peer.ask()
        await peer.send(STAGES[stage])
        await answer.saw_all()
        peer.reset() if by_reset else peer.close()
        assert await answer.outcome() == "error"
        assert type(answer.error) is ProtocolError
        assert peer.pool.acquire() is None


async def test_a_body_by_close_that_ends_by_a_reset_is_not_whole() -> None:
    async with origin() as peer:
        answer = await peer.ask()
        await peer.send(CLOSING + b"hello")
        await answer.saw_all(b"hello")
        peer.reset()
        assert await answer.outcome() == "error"
        assert type(answer.error) is ProtocolError


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" * (MAX_INFORMATIONAL + 1) + OK_2,
        CHUNKED + b"nonsense\r\n",
        CHUNKED + b"5\r\nhelloX\r\n",
    ],
)
@pytest.mark.parametrize("splices", [False, True])
async def test_what_is_not_http_is_an_error_and_ends_the_connection(data: bytes, splices: bool) -> None:
    async with origin() as peer:
        answer = await peer.ask(splices=splices)
        await peer.send(data, may_fail=True)
        assert await answer.outcome() == "error"
        assert type(answer.error) is ProtocolError
        assert await peer.is_left()


async def test_as_many_informational_answers_as_allowed() -> None:
    async with origin() as peer:
        answer = await peer.ask()
        await peer.send(b"HTTP/1.1 103 Early Hints\r\n\r\n" * MAX_INFORMATIONAL + OK_2)
        assert (await answer.outcome(), answer.body) == ("end", b"ok")


async def test_an_answer_before_the_request_is_whole_ends_the_connection() -> None:
    async with origin() as peer:
        answer = await peer.ask(b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\npart", is_whole=False)
        await peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        assert (await answer.outcome(), answer.status, answer.body) == ("end", 401, b"no")
        assert peer.pool.acquire() is None
        assert await peer.is_left()


class Switching(Answer):
    """A receiver that has asked for another protocol."""

    switched = False

    def on_upstream_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        self.switched = True


async def last_words(data: bytes) -> tuple[Answer, str]:
    """Let an origin answer and close with part of an upload unread, and write on before the loop has read that.

    The answer as far as it was heard, and how it ended.
    """
    loop = asyncio.get_running_loop()
    answer = Switching()
    with socket.create_server(("127.0.0.1", 0)) as server:
        pool = Pool(Origin("127.0.0.1", server.getsockname()[1], False), Ticker(loop))
        dialled: asyncio.Future[UpstreamConnection] = loop.create_future()
        pool.dial(dialled.set_result, dialled.set_exception)
        connection = await dialled
        peer, _ = server.accept()
        with peer:
            connection.begin(answer, "POST")
            connection.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 30\r\n\r\n0123456789")
            peer.sendall(data)
        connection.write(b"0123456789")
        outcome = await answer.outcome()
        assert pool.acquire() is None
        assert connection.is_closing
        await pool.close()
    return answer, outcome


@pytest.mark.parametrize("data", [OK_2, b"HTTP/1.1 100 Continue\r\n\r\n" + OK_2, CHUNKED + b"2\r\nok\r\n0\r\n\r\n"])
async def test_an_answer_that_waits_behind_a_reset_is_heard(data: bytes) -> None:
    answer, outcome = await last_words(data)
    assert (outcome, answer.status, answer.body) == ("end", 200, b"ok")


@pytest.mark.parametrize("data", [CLOSING + b"ok", CHUNKED + b"2\r\nok\r\n", OK_2[:-1], OK_2[:20], b""])
async def test_what_waits_behind_a_reset_and_is_not_whole_is_an_error(data: bytes) -> None:
    answer, outcome = await last_words(data)
    assert outcome == "error"
    assert type(answer.error) is ProtocolError
    assert not answer.ended


async def test_nobody_is_given_a_switched_connection_that_is_gone() -> None:
    answer, outcome = await last_words(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nxx"
    )
    assert isinstance(answer, Switching)
    assert (outcome, answer.switched) == ("error", False)


async def test_a_connection_with_most_of_its_request_unsent_is_not_used_again() -> None:
    async with origin() as peer:
        answer = await peer.ask(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000), method="POST"
        )
        await peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")
        assert (await answer.outcome(), answer.status, answer.body) == ("end", 401, b"no")
        assert peer.pool.acquire() is None
        assert answer.connection.is_closing


async def test_an_abandoned_exchange_closes_at_once_and_tells_nobody() -> None:
    async with origin() as peer:
        answer = await peer.ask()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await answer.saw_all(b"hello")
        answer.connection.abandon()
        assert await peer.is_left()
        assert (answer.ended, answer.error) == (False, None)


@pytest.mark.parametrize("splices", [False, True])
async def test_a_receiver_that_abandons_in_its_own_callback_hears_no_more(splices: bool) -> None:
    for place in ("headers", "data"):
        async with origin() as peer:
            answer = await peer.ask(splices=splices, abandon_in=place)
            await peer.send(OK_2)
            assert await peer.is_left()
            assert (answer.ended, answer.error) == (False, None)


async def test_a_slow_receiver_makes_the_origin_wait() -> None:
    async with origin(UpstreamTimeouts(idle_s=50)) as peer:
        answer = await peer.ask()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n")
        await answer.saw_all()
        answer.connection.pause_reading()
        answer.connection.pause_reading()
        assert answer.connection.deadline_s == float("inf")
        sending = asyncio.ensure_future(peer.send(bytes(20_000_000)))
        await asyncio.sleep(0.1)
        assert not sending.done()
        before = len(answer.body)
        await asyncio.sleep(0.05)
        assert len(answer.body) == before
        answer.connection.resume_reading()
        assert answer.connection.deadline_s < float("inf")
        assert await answer.outcome() == "end"
        await sending
        assert len(answer.body) == 20_000_000


async def test_a_connection_that_was_paused_at_its_end_is_read_in_the_pool() -> None:
    async with origin() as peer:
        answer = await peer.ask(pause_in="data")
        await peer.send(OK_2)
        assert await answer.outcome() == "end"
        peer.close()
        await gone(answer.connection)
        assert peer.pool.acquire() is None


async def test_deadlines_of_one_exchange() -> None:
    async with origin(UpstreamTimeouts(first_byte_s=50, idle_s=70, pool_idle_s=20)) as peer:
        loop = asyncio.get_running_loop()
        answer = await peer.ask(is_whole=False)
        connection = answer.connection
        assert connection.deadline_s == float("inf")  # while the request is written nobody owes an answer
        connection.request_ended()
        assert connection.deadline_s - loop.time() == pytest.approx(50, abs=2)
        await peer.send(OK_2[:-1])
        await answer.saw_all(b"o")
        assert connection.deadline_s - loop.time() == pytest.approx(70, abs=2)
        await peer.send(OK_2[-1:])
        assert await answer.outcome() == "end"
        assert connection.deadline_s - loop.time() == pytest.approx(20, abs=2)


@pytest.mark.parametrize("begun", [b"", OK_2[:-1]])
async def test_silence_is_a_timeout(begun: bytes) -> None:
    async with origin() as peer:
        answer = await peer.ask()
        await peer.send(begun)
        await answer.saw_all(b"o" if begun else b"")
        answer.connection.on_deadline()
        assert await answer.outcome() == "error"
        assert type(answer.error) is ReadTimeout
        assert await peer.is_left()
