"""Latency at a fixed rate: the schedule, quantiles, and that a stall is seen by all who had to wait for its end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import pytest
import uvloop

from bench.alarm import Alarm, now_s
from bench.client import Gateway, JSONClient, Tally
from bench.load import Load
from bench.open_loop import OpenLoop, quantile, schedule
from bench.request import ANSWER

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
GOOD = HEAD % len(ANSWER) + ANSWER


class Answerer(asyncio.Protocol):
    """Answers each request, late while ``stalled_until_s`` lies ahead."""

    stalled_until_s = 0.0

    def __init__(self, answers: Callable[[], list[bytes]]) -> None:
        self._answers = answers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        delay_s = max(0.0, type(self).stalled_until_s - now_s())
        asyncio.get_running_loop().call_later(delay_s, self._answer)

    def _answer(self) -> None:
        for piece in self._answers():
            if not self._transport.is_closing():
                self._transport.write(piece)


@contextmanager
def stall(after_s: float, for_s: float) -> Iterator[None]:
    """From then on, so long, nobody is answered."""
    Answerer.stalled_until_s = 0.0

    def begin() -> None:
        Answerer.stalled_until_s = now_s() + for_s

    asyncio.get_running_loop().call_later(after_s, begin)
    yield
    Answerer.stalled_until_s = 0.0


async def served(answers: Callable[[], list[bytes]] = lambda: [GOOD]) -> tuple[asyncio.Server, Gateway]:
    server = await asyncio.get_running_loop().create_server(lambda: Answerer(answers), "127.0.0.1", 0)
    return server, Gateway(server.sockets[0].getsockname()[1])


def test_a_schedule_has_the_rate_and_is_the_same_for_everybody() -> None:
    times_s = schedule(1000, 10, seed=1)
    assert len(times_s) == pytest.approx(10_000, rel=0.05)
    assert times_s == sorted(times_s)
    assert times_s == schedule(1000, 10, seed=1)
    assert times_s != schedule(1000, 10, seed=2)
    assert times_s[0] > 0
    assert times_s[-1] < 10


def test_a_quantile_is_a_value_that_so_many_do_not_exceed() -> None:
    values = [float(value) for value in range(1, 101)]
    random.Random(1).shuffle(values)
    assert [quantile(values, part) for part in (0.0, 0.01, 0.5, 0.99, 1.0)] == [1, 1, 50, 99, 100]
    assert quantile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        quantile([], 0.5)


def test_an_alarm_rings_when_it_should_and_once() -> None:
    async def main() -> list[float]:
        rung: list[float] = []
        alarm = Alarm(lambda: rung.append(now_s()))
        start_s = now_s()
        alarm.set(start_s + 0.5)
        alarm.set(start_s + 0.0205)
        await asyncio.sleep(0.1)
        again_s = now_s()
        alarm.set(start_s)
        await asyncio.sleep(0.05)
        alarm.close()
        first_s, second_s = rung
        assert second_s >= again_s
        return [first_s - start_s]

    (first,) = uvloop.run(main())
    assert 0.0205 <= first < 0.1


def test_a_stall_of_the_server_is_in_the_latency_of_all_who_waited() -> None:
    async def main() -> tuple[Tally, OpenLoop, int]:
        server, gateway = await served()
        times_s = schedule(300, 1.0, seed=3)
        load = await OpenLoop.connect(JSONClient, gateway, 2, 1)
        with stall(0.3, 0.4):
            tally = await load.run(times_s, 1.0)
        load.close()
        server.close()
        return tally, load, len(times_s)

    tally, load, planned = uvloop.run(main())
    assert not tally.failures
    assert tally.answers == planned == len(load.latencies_s)
    # Two connections meet the stall; counted from their sending, two answers of three hundred would be late.
    late = sum(latency_s > 0.1 for latency_s in load.latencies_s)
    assert late > 0.2 * planned
    assert 0.25 < quantile(load.latencies_s, 0.99) < 0.9


def test_a_server_that_cannot_keep_up_is_found_out() -> None:
    async def main() -> tuple[Tally, OpenLoop, int]:
        server, gateway = await served()
        times_s = schedule(200, 0.5, seed=3)
        load = await OpenLoop.connect(JSONClient, gateway, 2, 1)
        with stall(0.1, 0.8):
            tally = await load.run(times_s, 0.5, warm_up_s=0.1)
        load.close()
        server.close()
        return tally, load, len(times_s)

    tally, load, planned = uvloop.run(main())
    assert not tally.failures
    assert load.answered_in_time < 0.5 * planned
    assert load.pace == pytest.approx(tally.answers / 0.9, rel=0.2)
    assert not load.has_kept_up
    # What was under way at the end is waited for; what still waited for a connection is not sent any more.
    assert load.dropped == planned - tally.answers > 0
    assert tally.answers <= load.answered_in_time + 2
    assert len(load.latencies_s) < tally.answers


def test_a_stall_at_the_end_is_in_the_latency_of_all_who_waited() -> None:
    async def main() -> tuple[Tally, OpenLoop, int]:
        server, gateway = await served()
        times_s = schedule(400, 1.5, seed=3)
        load = await OpenLoop.connect(JSONClient, gateway, 8, 1)
        # The last 3 %: more than twice as many as there are connections.
        with stall(0.02 + 1.5 * 0.97, 0.6):
            tally = await load.run(times_s, 1.5)
        load.close()
        server.close()
        return tally, load, len(times_s)

    tally, load, planned = uvloop.run(main())
    assert not tally.failures
    assert load.has_kept_up
    assert load.dropped == 0
    assert tally.answers == planned == len(load.latencies_s)
    assert sum(latency_s > 0.4 for latency_s in load.latencies_s) > 10
    assert quantile(load.latencies_s, 0.99) > 0.4


def test_what_is_still_to_come_is_waited_for() -> None:
    async def main() -> list[bool]:
        server, gateway = await served()
        load = await OpenLoop.connect(JSONClient, gateway, 1, 1)
        load._end_s = now_s()
        load._under_way = 1
        load._to_come.append(load._end_s - 0.001)
        (client,) = load._clients
        load.whole(client)
        seen = [load._idle.is_set()]
        load._to_come.clear()
        load._check_idle()
        load.close()
        server.close()
        return [*seen, load._idle.is_set()]

    assert uvloop.run(main()) == [False, True]


def test_connections_that_are_all_lost_end_the_run() -> None:
    async def main() -> Tally:
        server, gateway = await served(lambda: [b"nonsense\r\n\r\n"])
        load = await OpenLoop.connect(JSONClient, gateway, 2, 1)
        tally = await asyncio.wait_for(load.run(schedule(100, 0.2, seed=3), 0.2), 2)
        load.close()
        server.close()
        return tally

    assert uvloop.run(main()).failures.total() == 2


@pytest.mark.parametrize(
    ("answers", "found"),
    [
        ([HEAD.replace(b"200", b"429") % 2 + b"{}"], "status 429"),
        ([HEAD % 2 + b"{}"], "another answer than the upstream's"),
        ([b"nonsense\r\n\r\n"], "unreadable answer"),
    ],
)
def test_wrong_answers_are_failures(answers: list[bytes], found: str) -> None:
    async def main() -> Tally:
        server, gateway = await served(lambda: answers)
        load = await Load.connect(JSONClient, gateway, 2, 1)
        tally = await load.run(0.2)
        load.close()
        server.close()
        return tally

    tally = uvloop.run(main())
    assert tally.answers == 0
    assert tally.failures.total() == 2
    assert all(what.startswith(found) for what in tally.failures)


def test_answers_in_pieces_and_in_chunks_are_read() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ANSWER), ANSWER)
    forms = [[GOOD], [GOOD[:9], GOOD[9:100], GOOD[100:]], [chunked], [chunked[:80], chunked[80:]]]

    async def main() -> Tally:
        server, gateway = await served(lambda: random.choice(forms))
        load = await Load.connect(JSONClient, gateway, 4, 1)
        tally = await load.run(0.2)
        load.close()
        server.close()
        return tally

    tally = uvloop.run(main())
    assert not tally.failures
    assert tally.answers > 20
