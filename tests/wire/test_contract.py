"""Our listener keeps Tornado's contract: the same application, the same bytes, the same observable results."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
import uvloop
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener
from tests.wire.application import application
from tests.wire.contract import CASES, DIFFERENCES, LEAVING, Seen, leave, play

Stop = Callable[[], Awaitable[None]]
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


async def serve_ours(app: Application) -> tuple[int, Stop]:
    """On our wire."""
    listener = Listener(app)
    await listener.listen(Endpoint("127.0.0.1"))

    async def stop() -> None:
        await listener.close()
        listener.ticker.close()

    return listener.port, stop


async def serve_stock(app: Application) -> tuple[int, Stop]:
    """On Tornado's own server."""
    server = HTTPServer(app)
    (sock,) = bind_sockets(0, "127.0.0.1")
    server.add_socket(sock)

    async def stop() -> None:
        server.stop()
        await server.close_all_connections()

    return sock.getsockname()[1], stop


SERVERS = {"ours": serve_ours, "stock": serve_stock}


def run(loop_name: str, main: Coroutine[Any, Any, Any]) -> Any:
    """Run on a loop of this kind."""
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        return runner.run(main)


async def on_both(scenario: Callable[[int, list[str]], Awaitable[Any]]) -> dict[str, Any]:
    """The outcome of a scenario on each server."""
    outcomes = {}
    for name, serve in SERVERS.items():
        gone: list[str] = []
        port, stop = await serve(application(gone))
        try:
            outcomes[name] = await scenario(port, gone)
        finally:
            await stop()
    return outcomes


@pytest.fixture(scope="module", params=LOOPS)
def loop_name(request: pytest.FixtureRequest) -> str:
    """The kind of loop."""
    return str(request.param)


@pytest.fixture(scope="module")
def seen(loop_name: str) -> dict[str, dict[str, Seen]]:
    """Every case on both servers, once."""
    logging.getLogger("tornado").setLevel(logging.CRITICAL)
    logging.getLogger("sluice").setLevel(logging.CRITICAL)
    try:
        return dict(
            run(loop_name, on_both(lambda port, _: play_all(port))),
        )
    finally:
        logging.getLogger("tornado").setLevel(logging.NOTSET)
        logging.getLogger("sluice").setLevel(logging.NOTSET)


async def play_all(port: int) -> dict[str, Seen]:
    """Every case, by name."""
    return {name: await play(port, case) for name, case in CASES.items()}


@pytest.mark.parametrize("name", [name for name in CASES if name not in DIFFERENCES])
def test_the_same_is_seen_on_both_servers(name: str, seen: dict[str, dict[str, Seen]]) -> None:
    ours, stock = seen["ours"][name], seen["stock"][name]
    assert ours.answers == stock.answers
    assert ours.is_open is stock.is_open


@pytest.mark.parametrize("name", DIFFERENCES)
def test_a_difference_that_is_gone_is_listed_no_more(name: str, seen: dict[str, dict[str, Seen]]) -> None:
    assert DIFFERENCES[name]
    assert seen["ours"][name] != seen["stock"][name]


@pytest.mark.parametrize("name", LEAVING)
def test_a_client_that_leaves_is_noticed_on_both(name: str, loop_name: str) -> None:
    outcomes = run(loop_name, on_both(lambda port, gone: leave(port, LEAVING[name], gone)))
    assert set(outcomes["ours"]) == set(outcomes["stock"])
    assert len(outcomes["ours"]) <= 1
