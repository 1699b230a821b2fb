"""The gateway on a real socket: on our own wire, and on Tornado's stock server through ``mount()``.

Every test here runs on both unless it is marked ``wire_only``. A test's configuration is set by
``@pytest.mark.config({...})`` and ``@pytest.mark.environ({...})``.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.web import Application

import proxy
from proxy.gateway.plane import DataPlane
from proxy.wire.listener import Listener, Timeouts
from tests.support.upstream import FakeUpstream


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on both servers, or on ours alone."""
    if "server_kind" in metafunc.fixturenames:
        only_ours = metafunc.definition.get_closest_marker("wire_only") is not None
        metafunc.parametrize("server_kind", ["wire"] if only_ours else ["wire", "stock"])


@pytest.fixture
def upstream(io_loop: IOLoop) -> Iterator[FakeUpstream]:
    """A fake upstream with a ledger."""
    fake = FakeUpstream()
    io_loop.run_sync(fake.start)
    yield fake
    io_loop.run_sync(fake.stop)


@pytest.fixture
def plane(io_loop: IOLoop, upstream: FakeUpstream, request: pytest.FixtureRequest) -> Iterator[DataPlane]:
    """The data plane of this test's configuration."""
    marker = request.node.get_closest_marker("config")
    config: dict[str, Any] = copy.deepcopy(marker.args[0]) if marker else {}
    stages = config.setdefault("stages", {})
    stages["upstream"] = {"base_url": upstream.base_url} | stages.get("upstream", {})
    environ = request.node.get_closest_marker("environ")
    made = proxy.mount(config, environ.args[0] if environ else None)
    yield made
    io_loop.run_sync(made.close)


@pytest.fixture
def app(plane: DataPlane) -> Application:
    """An operator's own application, with the data plane as the target of a rule."""
    return Application([(r"/.*", plane)])


@pytest.fixture
def http_server(
    io_loop: IOLoop, app: Application, plane: DataPlane, server_kind: str, _unused_port: tuple[socket.socket, int]
) -> Iterator[object]:
    """In the place of pytest-tornado's: the same socket, served by either server."""
    sock, _ = _unused_port
    if server_kind == "stock":
        stock = HTTPServer(app)
        stock.add_socket(sock)
        yield stock
        stock.stop()
        io_loop.run_sync(stock.close_all_connections)
        return
    listener: Listener

    async def start() -> Listener:
        made = Listener(
            plane,
            ticker=plane.ticker,
            timeouts=Timeouts(header_s=2, body_s=2, keep_alive_s=5),
            on_error=plane.render_refusal,
        )
        await made.listen_on(sock)
        return made

    listener = io_loop.run_sync(start)
    yield listener
    io_loop.run_sync(listener.close)


@pytest.fixture
def port(http_server: object, http_port: int) -> int:
    """The gateway's port."""
    return http_port
