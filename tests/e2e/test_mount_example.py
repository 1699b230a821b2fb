"""The example application runs as it is, and what goes through its chain is what the README says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import NamedTuple

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application

import proxy
from proxy.mock.running import running
from proxy.mock.server import MockOpenAI
from proxy.settings import ConfigError

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "mount_in_tornado.py"
CHAT = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "one two three"}]}


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: Message
    body: bytes


def fetch(url: str, fields: Mapping[str, object] | None = None, **headers: str) -> Answer:
    """GET, or POST with JSON."""
    data = None if fields is None else json.dumps(fields).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return Answer(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())


@pytest.fixture(scope="module")
def mock() -> Iterator[MockOpenAI]:
    """A mock OpenAI in a thread of its own."""
    with running() as made:
        yield made


@contextmanager
def example(mock: MockOpenAI, **environ: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The example on a free port: its address, and its process."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME", "SYSTEMROOT") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLE), "--port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | {"PYTHONPATH": str(ROOT), "OPENAI_BASE_URL": mock.base_url} | environ,
    )
    assert process.stderr is not None
    try:
        said = []
        while not (line := process.stderr.readline()).startswith("listening on "):
            said.append(line)
            assert line, "".join(said)
        yield line.split()[-1], process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def url(mock: MockOpenAI) -> Iterator[str]:
    """The example's address; it has a server key, and a limit nobody reaches."""
    with example(mock, API_KEY="sk-servers", MINUTE_LIMIT="1000") as (address, _):
        yield address


def test_a_page_of_its_own_knows_nothing_of_the_chain(url: str) -> None:
    answer = fetch(f"{url}/")
    assert (answer.status, answer.body) == (200, b"This page is mine; /v1 and /api are Sluice's.\n")
    assert answer.headers["X-Sluice-Request-Id"] is None


def test_v1_goes_through_the_chain(url: str, mock: MockOpenAI) -> None:
    mock.ledger.clear()
    answer = fetch(f"{url}/v1/chat/completions?a=b", CHAT)
    assert answer.status == 200
    assert json.loads(answer.body)["choices"][0]["message"]["content"] == "You said: one two three"
    assert answer.headers["X-Sluice-Request-Id"].startswith("req_")
    (entry,) = mock.ledger.entries
    assert entry.target == "/v1/chat/completions?a=b"
    assert entry.authorization == "Bearer sk-servers"


def test_a_stream_arrives_whole(url: str) -> None:
    answer = fetch(f"{url}/v1/chat/completions", CHAT | {"stream": True})
    assert answer.status == 200
    assert answer.headers["Transfer-Encoding"] == "chunked"
    assert answer.body.endswith(b"data: [DONE]\n\n")


def test_the_chat_route_answers(url: str) -> None:
    answer = fetch(f"{url}/api", {"user_content": "hello"})
    assert json.loads(answer.body)["current_response"] == "You said: hello"


def test_what_no_rule_names_is_tornados_404(url: str) -> None:
    answer = fetch(f"{url}/v2/models")
    assert (answer.status, answer.headers["Server"].split("/")[0]) == (404, "TornadoServer")


def test_header_names_get_tornados_capitals(url: str) -> None:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")[0]
    names = {line.partition(b":")[0].decode() for line in head.split(b"\r\n")[1:]}
    assert {"Ratelimit", "X-Request-Id", "X-Sluice-Request-Id"} <= names


def test_the_strictness_is_the_same(url: str) -> None:
    answer = fetch(f"{url}/v1/a/../b")
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (400, "bad_request")


def test_the_environment_assembles_the_chain(mock: MockOpenAI) -> None:
    with example(mock, MINUTE_LIMIT="1", API_KEY="sk-servers") as (url, _):
        statuses = [fetch(f"{url}/v1/models").status for _ in range(2)]
        own_page = fetch(f"{url}/").status
    assert (statuses, own_page) == ([200, 429], 200)


def test_it_ends_when_told_to(mock: MockOpenAI) -> None:
    with example(mock) as (url, process):
        assert fetch(f"{url}/v1/models").status == 401
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def test_however_many_workers_a_file_asks_for_a_mounted_chain_counts_in_memory(mock: MockOpenAI) -> None:
    stages = {"limit": {"hour": 2}, "upstream": {"base_url": mock.base_url}}

    async def main() -> list[int]:
        chain = proxy.mount({"workers": 4, "stages": stages, "chain": ["limit", "upstream"]})
        server = HTTPServer(Application([(r"/v1/.*", chain)]))
        sock, port = bind_unused_port()
        server.add_socket(sock)
        client = AsyncHTTPClient(force_instance=True)
        url = f"http://127.0.0.1:{port}/v1/models"
        key = {"Authorization": "Bearer sk-a"}
        statuses = [(await client.fetch(url, headers=key, raise_error=False)).code for _ in range(3)]
        client.close()
        server.stop()
        await server.close_all_connections()
        await chain.close()
        return statuses

    assert asyncio.run(main()) == [200, 200, 429]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_mounted_chain_has_nobody_to_share_a_store_with(workers: int, tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(f"workers: {workers}\nlimits:\n  store: shared\n")
    with pytest.raises(ConfigError) as caught:
        proxy.mount(file)
    assert f"{file}:3:10  limits.store  shared needs `sluice serve`" in str(caught.value)
    assert "memory, or the URL of a Redis" in str(caught.value)
