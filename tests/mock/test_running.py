"""Starting and stopping: in a loop, in a thread, as a process; nothing is left behind."""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import pytest

import proxy.mock
from proxy.mock.behaviour import Behaviour
from proxy.mock.running import running, serve
from proxy.mock.server import MockOpenAI

from .raw import ask, chat, connect, until


def test_stop_leaves_no_task_whatever_is_going_on() -> None:
    requests = (
        b"GET /v1/echo HTTP/1.1\r\nHost: m\r\nx-mock: silence\r\n\r\n",
        b"GET /v1/echo HTTP/1.1\r\nHost: m\r\nx-mock: delay-ms=60000\r\n\r\n",
        _stream("chunks=50000"),
        _stream("chunks=9; chunk-delay-ms=60000"),
        b"POST /v1/echo HTTP/1.1\r\nHost: m\r\nContent-Length: 9\r\n\r\nhalf",
        b"GET /v1/ec",
        b"",
    )

    def busy(mock: MockOpenAI) -> bool:
        return sorted(entry.parts > 0 for entry in mock.ledger.entries) == [False, False, True, True]

    async def run() -> tuple[int, list[bool]]:
        mock = MockOpenAI()
        await mock.start()
        writers = []
        for request in requests:
            _, writer = await asyncio.open_connection("127.0.0.1", mock.port)
            writer.write(request)
            writers.append(writer)
        await asyncio.to_thread(until, lambda: len(mock.ledger.entries) == 4 and busy(mock))
        await mock.stop()
        await mock.stop()
        left = len(asyncio.all_tasks()) - 1
        for writer in writers:
            writer.transport.abort()
        return left, [entry.aborted for entry in mock.ledger.entries]

    # No client left: it was the mock that stopped.
    assert asyncio.run(run()) == (0, [False] * 4)
    gc.collect()


def _stream(x_mock: str) -> bytes:
    body = json.dumps(chat(stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer k\r\nx-mock: {x_mock}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_stopped_mock_refuses_connections() -> None:
    with running() as mock:
        ask(mock, "GET", "/v1/echo")
    with pytest.raises(ConnectionRefusedError):
        connect(mock)


def test_addresses() -> None:
    async def run(host: str) -> str:
        mock = MockOpenAI()
        await mock.stop()
        assert mock.port == 0
        await mock.start(host)
        with pytest.raises(RuntimeError):
            await mock.start(host)
        assert mock.port > 0
        await mock.stop()
        return mock.base_url.replace(str(mock.port), "PORT")

    assert asyncio.run(run("127.0.0.1")) == "http://127.0.0.1:PORT/v1"
    assert asyncio.run(run("0.0.0.0")) == "http://127.0.0.1:PORT/v1"
    if socket.has_ipv6:
        assert asyncio.run(run("::1")) == "http://[::1]:PORT/v1"


def test_a_port_that_is_taken_is_an_error_and_leaves_no_thread() -> None:
    with running() as mock:
        threads = threading.active_count()
        with pytest.raises(OSError, match="in use"), running(port=mock.port):
            pass
        with pytest.raises(OSError, match="in use"):
            serve(port=mock.port)
        assert threading.active_count() == threads


def test_the_constructor_takes_behaviour_and_clock() -> None:
    with running(MockOpenAI(Behaviour(chunks=1), clock=lambda: 1_700_000_000.9)) as mock:
        answer = ask(mock, "POST", "/v1/chat/completions", chat())
    assert answer.values("date") == ["Tue, 14 Nov 2023 22:13:20 GMT"]
    assert answer.json()["created"] == 1_700_000_000
    assert answer.json()["choices"][0]["message"]["content"] == "You"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_runs_until_a_signal(number: signal.Signals) -> None:
    program = (
        "from proxy.mock.behaviour import Behaviour\n"
        "from proxy.mock.running import serve\n"
        "serve('127.0.0.1', 0, Behaviour(status=503), ready=lambda mock: print(mock.base_url, flush=True))\n"
    )
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            urllib.request.urlopen(f"{url}/echo", timeout=10)
        caught.value.close()
        process.send_signal(number)
        _, complaints = process.communicate(timeout=10)
    assert (process.returncode, complaints) == (0, "")


def test_the_mock_shares_nothing_with_the_gateway() -> None:
    folder = pathlib.Path(proxy.mock.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                assert not name.startswith("proxy") or name.startswith("proxy.mock"), (file.name, name)
