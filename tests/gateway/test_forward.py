"""Who takes the bytes of a forwarded answer: the first taker, another one put in its place, or nobody any more."""

from __future__ import annotations

import asyncio

import pytest

from proxy.core.errors import ProtocolError, UpstreamError
from proxy.core.exchange import UpstreamSent
from proxy.gateway.forward import Forward
from proxy.wire.client import UpstreamConnection
from proxy.wire.gate import ResponseHead
from tests.support.exchange import make_exchange
from tests.wire.heads import ok, response_of
from tests.wire.origin import GET, OK_2, ScriptedOrigin, gone, origin

pytestmark = pytest.mark.gen_test
BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"


class Taker:
    """Writes down what comes; does in its own callback what it is told to."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.body = b""
        self.forward: Forward | None = None
        self.gives_to: Taker | None = None
        self.cancels_in = ""
        self.changed = asyncio.Event()

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()
        if event == self.cancels_in and self.forward is not None:
            self.forward.cancel()

    def on_answer_informational(self, head: ResponseHead) -> None:
        self._note(f"informational {head.status}")

    def on_answer_switch(self, head: ResponseHead, connection: UpstreamConnection, data: bytes) -> None:
        self._note("switch")

    def on_answer_headers(self, head: ResponseHead) -> bool:
        if self.gives_to is not None and self.forward is not None:
            self.forward.give_to(self.gives_to)
        self._note(f"headers {head.status}")
        return False

    def on_answer_data(self, data: bytes) -> None:
        self.body += data
        self._note("data")

    def on_answer_end(self) -> None:
        self._note("end")

    def on_answer_error(self, error: UpstreamError) -> None:
        self._note("error")

    async def saw(self, event: str) -> None:
        """Wait until this has happened."""
        while event not in self.events:
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), 5)


async def sent(peer: ScriptedOrigin, taker: Taker) -> Forward:
    """A request that is on its way, its head written."""
    peer.pool.release(await peer.connect())
    forward = Forward(make_exchange(method="GET"), peer.pool, taker, GET, chunked=False)
    taker.forward = forward
    assert forward.start() is None
    forward.end()
    await peer.received(GET)
    return forward


async def test_the_answer_goes_to_its_taker() -> None:
    async with origin() as peer:
        taker = Taker()
        await sent(peer, taker)
        await peer.send(BEGUN + b"1\r\nc\r\n0\r\n\r\n")
        await taker.saw("end")
        assert (taker.events[0], taker.events[-1], taker.body) == ("headers 200", "end", b"abc")


async def test_after_cancel_bytes_go_nowhere() -> None:
    async with origin() as peer:
        taker = Taker()
        forward = await sent(peer, taker)
        await peer.send(BEGUN)
        await taker.saw("data")
        forward.cancel()
        before = list(taker.events)
        # As from a connection that is in the middle of a segment.
        forward.on_upstream_data(b"late")
        assert forward.on_upstream_headers(response_of(OK_2[:-2])) is False
        forward.on_upstream_informational(response_of(ok(status="103 Early Hints")))
        forward.on_upstream_end()
        forward.on_upstream_error(ProtocolError("late"))
        assert (taker.events, taker.body) == (before, b"ab")
        assert await peer.is_left()
        forward.cancel()


@pytest.mark.parametrize("place", ["headers 200", "data"])
async def test_a_taker_that_cancels_in_its_own_callback_hears_no_more(place: str) -> None:
    async with origin() as peer:
        taker = Taker()
        taker.cancels_in = place
        await sent(peer, taker)
        await peer.send(BEGUN + b"1\r\nc\r\n0\r\n\r\n")
        assert await peer.is_left()
        assert taker.events[-1] == place
        assert taker.body == (b"abc" if place == "data" else b"")


@pytest.mark.parametrize("data", [OK_2, BEGUN + b"0\r\n\r\n", BEGUN[:-3]])
async def test_given_to_another_with_the_head_the_body_is_the_others(data: bytes) -> None:
    async with origin() as peer:
        first, second = Taker(), Taker()
        first.gives_to = second
        await sent(peer, first)
        await peer.send(data)
        await second.saw("data")
        peer.close()
        is_whole = data[-4:] == b"\r\n\r\n" or data == OK_2
        await second.saw("end" if is_whole else "error")
        assert (first.events, first.body) == (["headers 200"], b"")
        assert second.body == (b"ok" if data == OK_2 else b"ab" if is_whole else b"a")


async def test_given_to_another_in_the_middle_each_has_its_part() -> None:
    async with origin() as peer:
        first, second = Taker(), Taker()
        forward = await sent(peer, first)
        await peer.send(BEGUN)
        await first.saw("data")
        forward.give_to(second)
        await peer.send(b"1\r\nc\r\n0\r\n\r\n")
        await second.saw("end")
        assert (first.events, first.body, second.body) == (["headers 200", "data"], b"ab", b"c")
        forward.cancel()
        forward.on_upstream_data(b"late")
        assert second.body == b"c"


async def test_one_exchange_hears_nothing_of_another() -> None:
    async with origin() as peer:
        first, second = Taker(), Taker()
        await sent(peer, first)
        await peer.send(OK_2)
        await first.saw("end")
        await sent(peer, second)
        await peer.send(OK_2.replace(b"ok", b"no"))
        await second.saw("end")
        assert (peer.connections, first.body, second.body) == (1, b"ok", b"no")


async def test_cancelled_while_it_dials_a_connection_is_given_back_unused() -> None:
    async with origin() as peer:
        taker = Taker()
        exchange = make_exchange(method="GET")
        forward = Forward(exchange, peer.pool, taker, GET, chunked=False)
        ready = forward.start()
        assert ready is not None
        forward.end()
        forward.cancel()
        await asyncio.wait_for(ready, 5)
        assert (taker.events, exchange.upstream_sent) == ([], UpstreamSent.NO)
        # The connection that comes all the same is closed, and not a byte is written to it.
        connection = await peer.connect()
        forward._on_connected(connection)
        await gone(connection)
        assert taker.events == []
