"""The pool: last used first, nothing stale, nothing poisoned, nothing kept for too long, no more than allowed."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from proxy.core.errors import ConnectError, ConnectTimeout, NoCapacity, UpstreamError
from proxy.core.origin import Origin
from proxy.wire import resolver
from proxy.wire.client import UpstreamConnection
from proxy.wire.pool import Pool, UpstreamTimeouts
from proxy.wire.resolver import Address
from proxy.wire.ticker import INTERVAL_S, Ticker
from tests.wire.origin import OK_2, Answer, ScriptedOrigin, gone, origin

pytestmark = pytest.mark.gen_test


async def several(peer: ScriptedOrigin, count: int) -> list[UpstreamConnection]:
    """Connections that have carried an exchange and are idle, in the order of their release."""
    busy: list[Answer] = []
    for _ in range(count):
        busy.append(await peer.ask())
        await peer.send(OK_2[:-1])
    for answer in busy:
        peer.turn()
        await peer.send(OK_2[-1:])
        assert await answer.outcome() == "end"
    assert peer.connections == count
    return [answer.connection for answer in busy]


async def test_the_last_used_is_the_first_reused() -> None:
    async with origin() as peer:
        first, second, third = await several(peer, 3)
        assert [peer.pool.acquire() for _ in range(4)] == [third, second, first, None]


async def test_what_is_taken_is_no_longer_there() -> None:
    async with origin() as peer:
        answer = await peer.ask()
        assert peer.pool.acquire() is None
        await peer.send(OK_2)
        await answer.outcome()
        assert peer.pool.acquire() is answer.connection
        assert peer.pool.acquire() is None


@pytest.mark.parametrize("by_reset", [False, True])
async def test_an_idle_connection_that_the_origin_ends_is_forgotten(by_reset: bool) -> None:
    async with origin() as peer:
        first, second = await several(peer, 2)
        peer.reset() if by_reset else peer.close()
        await gone(second)
        assert peer.pool.acquire() is first


@pytest.mark.parametrize("end", ["close", "bytes"])
async def test_what_the_kernel_knows_already_counts_before_the_loop_has_seen_it(end: str) -> None:
    """An end, or bytes nobody asked for, that wait in the socket's buffer while a request takes the connection.

    Bytes are the dangerous ones: they would be read as the answer to the next client's request.
    """
    async with origin() as peer:
        await several(peer, 1)
        sock = peer.socket
        if end == "bytes":
            sock.send(OK_2)
        else:
            sock.shutdown(socket.SHUT_WR)
        sock.close()
        time.sleep(0.02)  # noqa: ASYNC251 - the loop must not look
        assert peer.pool.acquire() is None


@pytest.mark.parametrize("data", [b"x", OK_2, b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_bytes_that_nobody_asked_for_end_an_idle_connection(data: bytes) -> None:
    async with origin() as peer:
        (connection,) = await several(peer, 1)
        await peer.send(data)
        assert await peer.is_left()
        assert connection.is_closing
        assert peer.pool.acquire() is None


async def test_what_is_idle_for_too_long_is_closed() -> None:
    async with origin(UpstreamTimeouts(pool_idle_s=0.1)) as peer:
        (connection,) = await several(peer, 1)
        begun_s = time.monotonic()
        assert await peer.is_left()
        assert 0.05 < time.monotonic() - begun_s < 0.1 + INTERVAL_S + 1
        assert connection.is_closing
        assert peer.pool.acquire() is None


async def test_what_is_past_its_idle_time_is_not_used_though_no_sweep_has_closed_it_yet() -> None:
    async with origin(UpstreamTimeouts(pool_idle_s=0.02)) as peer:
        (connection,) = await several(peer, 1)
        time.sleep(0.03)  # noqa: ASYNC251 - the ticker must not look
        assert not connection.is_closing
        assert peer.pool.acquire() is None
        assert await peer.is_left()


async def test_without_an_idle_time_nothing_is_kept() -> None:
    async with origin(UpstreamTimeouts(pool_idle_s=0)) as peer:
        answer = await peer.ask()
        await peer.send(OK_2)
        assert await answer.outcome() == "end"
        assert peer.pool.acquire() is None
        assert await peer.is_left()


async def dial(pool: Pool) -> UpstreamConnection | UpstreamError:
    """The outcome of one dial."""
    outcome: asyncio.Future[UpstreamConnection | UpstreamError] = asyncio.get_running_loop().create_future()
    pool.dial(outcome.set_result, outcome.set_result)
    return await asyncio.wait_for(outcome, 5)


def pool_for(host: str, port: int, *, tls: bool = False, connect_s: float = 5.0) -> Pool:
    """A pool for an origin that is not there."""
    ticker = Ticker(asyncio.get_running_loop())
    return Pool(Origin(host, port, tls), ticker, UpstreamTimeouts(connect_s=connect_s))


async def test_nobody_there_is_a_connect_error() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        port = bound.getsockname()[1]
        assert type(await dial(pool_for("127.0.0.1", port))) is ConnectError
    pool = pool_for("127.0.0.1", port)
    assert type(await dial(pool)) is ConnectError
    await pool.close()


async def test_an_origin_that_takes_no_connection_is_a_connect_timeout() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        await asyncio.sleep(0.05)
        pool = pool_for(*full.getsockname(), connect_s=0.1)
        assert type(await dial(pool)) is ConnectTimeout
        await pool.close()
        for filler in fillers:
            filler.close()


async def test_plain_text_where_tls_is_expected_is_a_connect_error() -> None:
    async with origin() as peer:
        pool = pool_for("127.0.0.1", peer.pool.origin.port, tls=True)
        dialling = asyncio.ensure_future(dial(pool))
        await peer.arrived()
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert type(await dialling) is ConnectError
        await pool.close()


async def test_a_dial_that_is_cancelled_calls_nobody_back() -> None:
    async with origin() as peer:
        called: list[object] = []
        for rounds in range(6):
            task = peer.pool.dial(called.append, called.append)
            for _ in range(rounds):
                await asyncio.sleep(0)
            if task.done():
                break
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert called == []
        await asyncio.sleep(0.02)
        assert repr(peer.pool).endswith(f"[{len(called)} busy, 0 idle, 0 dialling]>")


async def test_closing_ends_what_is_idle_what_is_busy_and_what_is_dialled() -> None:
    async with origin() as peer:
        await several(peer, 1)
        idle = peer.pool.acquire()
        assert idle is not None
        answer = await peer.ask()
        called: list[object] = []
        dialling = peer.pool.dial(called.append, called.append)
        await peer.pool.close()
        await asyncio.wait([dialling])
        assert dialling.cancelled()
        assert called == []
        assert idle.is_closing
        assert answer.connection.is_closing
        assert (answer.ended, answer.error) == (False, None)
        assert await peer.is_left()


def limited(peer: ScriptedOrigin, *, max_connections: int = 0, max_idle: int = 256) -> Pool:
    """Give the origin a pool with limits."""
    ticker = Ticker(asyncio.get_running_loop())
    peer.pool = Pool(peer.pool.origin, ticker, max_connections=max_connections, max_idle=max_idle)
    return peer.pool


async def test_at_the_cap_a_dial_is_refused_at_once_and_never_within_the_call() -> None:
    async with origin() as peer:
        pool = limited(peer, max_connections=2)
        held = [await peer.ask() for _ in range(2)]
        refused: list[UpstreamError] = []
        pool.dial(lambda _: None, refused.append)
        assert refused == []
        await asyncio.sleep(0)  # the loop's next round, and no more
        assert type(refused[0]) is NoCapacity
        held[0].connection.abandon()
        await asyncio.sleep(0.01)
        assert isinstance(await dial(pool), UpstreamConnection)


async def test_what_is_still_being_dialled_counts() -> None:
    async with origin() as peer:
        pool = limited(peer, max_connections=3)
        outcomes = await asyncio.gather(*(dial(pool) for _ in range(10)))
        assert [type(outcome) for outcome in outcomes] == [UpstreamConnection] * 3 + [NoCapacity] * 7
        await asyncio.sleep(0.01)
        assert peer.connections == 3


async def test_a_dial_that_was_cancelled_before_its_first_step_gives_its_place_back() -> None:
    async with origin() as peer:
        pool = limited(peer, max_connections=1)
        pool.dial(lambda _: None, lambda _: None).cancel()
        await asyncio.sleep(0.01)
        assert isinstance(await dial(pool), UpstreamConnection)


async def test_a_failed_dial_has_given_its_place_back_when_it_says_so() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        ticker = Ticker(asyncio.get_running_loop())
        pool = Pool(Origin("127.0.0.1", bound.getsockname()[1], False), ticker, max_connections=1)
        outcomes: list[UpstreamError] = []
        second: asyncio.Future[UpstreamError] = asyncio.get_running_loop().create_future()

        def again(error: UpstreamError) -> None:
            outcomes.append(error)
            pool.dial(lambda _: None, second.set_result)

        pool.dial(lambda _: None, again)
        outcomes.append(await asyncio.wait_for(second, 5))
        assert [type(outcome) for outcome in outcomes] == [ConnectError, ConnectError]
        await pool.close()


async def test_at_the_cap_an_idle_connection_gives_way_to_one_that_must_be_new() -> None:
    """A second attempt asks for a new connection while others may be idle."""
    async with origin() as peer:
        pool = limited(peer, max_connections=2)
        first, second = await several(peer, 2)
        assert isinstance(await dial(pool), UpstreamConnection)
        assert first.is_closing
        assert pool.acquire() is second


async def test_a_dead_idle_connection_keeps_no_place() -> None:
    async with origin() as peer:
        pool = limited(peer, max_connections=1)
        await several(peer, 1)
        sock = peer.socket
        sock.shutdown(socket.SHUT_WR)
        sock.close()
        time.sleep(0.02)  # noqa: ASYNC251 - the loop must not look
        assert pool.acquire() is None
        assert isinstance(await dial(pool), UpstreamConnection)


async def test_of_too_many_idle_connections_the_one_unused_for_longest_goes() -> None:
    async with origin() as peer:
        pool = limited(peer, max_idle=2)
        first, second, third = await several(peer, 3)
        assert first.is_closing
        assert [pool.acquire() for _ in range(3)] == [third, second, None]


async def test_connections_to_an_address_the_name_no_longer_has_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle ones at once, busy ones when their exchange is over; those to an address that stays are kept."""
    monkeypatch.setattr(resolver, "REFRESH_S", 0.0)
    monkeypatch.setattr(resolver, "FRESH_S", 0.0)
    here, elsewhere = (Address(socket.AF_INET, host) for host in ("127.0.0.1", "127.0.0.9"))
    answer = [here]

    async def lookup(host: str) -> list[Address]:
        return answer

    async with origin() as peer:
        ticker = Ticker(asyncio.get_running_loop())
        pool = peer.pool = Pool(peer.pool.origin._replace(host="api.test"), ticker, lookup=lookup)
        idle, busy = await several(peer, 2)
        assert pool.acquire() is busy
        taken = Answer()
        taken.connection = busy
        busy.begin(taken, "GET")
        busy.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        busy.request_ended()

        answer = [here, elsewhere]
        await pool.resolver.addresses()
        assert [idle.is_closing, busy.is_closing] == [False, False]

        answer = [elsewhere]
        await pool.resolver.addresses()
        assert [idle.is_closing, busy.is_closing] == [True, False]
        await peer.send(OK_2)
        assert await taken.outcome() == "end"
        assert [idle.is_closing, busy.is_closing] == [True, True]
        assert pool.acquire() is None
