"""The bench's peers: their configurations are ones their programs take, and those in Python forward as they must."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Semaphore, Thread
from typing import cast

import pytest
import trustme

from bench.install import Unavailable
from bench.peers import BASELINE, PEERS, Peer, Target
from bench.request import (
    ANSWER,
    CLIENT_KEY,
    EVENT,
    FIELDS,
    JSON_TARGET,
    QUESTION,
    SERVER_KEY,
    SSE_TARGET,
    UPLOAD_TARGET,
)

CORES = os.sched_getaffinity(0)
EVENTS = 5
UPLOAD = bytes(range(256)) * 4096


class Upstream(ThreadingHTTPServer):
    """It answers with ANSWER or, one by one as it is told to, with events; and knows what it was sent."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Answerer)
        if context is not None:
            # The handshake is for the thread of the connection: a client that refuses us must not stop this one.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.keys: set[str | None] = set()
        self.uploads: list[bytes] = []
        self.may_send = Semaphore(0)

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that refuse our certificate are what some tests are about."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Answerer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.keys.add(self.headers["Authorization"])
        self.send_response(200)
        if self.path == SSE_TARGET:
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(EVENTS):
                assert self.server.may_send.acquire(timeout=10)
                self.wfile.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            self.wfile.write(b"0\r\n\r\n")
            return
        if self.path == "/v1/files":
            self.server.uploads.append(body)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: nobody reads it."""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    return file


@pytest.fixture(params=["plain", "tls"])
def is_tls(request: pytest.FixtureRequest) -> bool:
    return str(request.param) == "tls"


@pytest.fixture
def upstream(is_tls: bool, authority: trustme.CA) -> Iterator[Upstream]:
    context = None
    if is_tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
    with Upstream(context) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def made(name: str, directory: Path, target: Target, workers: int = 1) -> Peer:
    own = directory / name
    own.mkdir()
    return PEERS[name](own, target, workers=workers)


def checking(name: str, command: list[str]) -> list[str]:
    """The command with which its program reads the configuration and ends."""
    match name:
        case "nginx":
            return [*command, "-t"]
        case "haproxy":
            return [*command, "-c"]
        case "envoy":
            return [*command, "--mode", "validate"]
        case "caddy":
            return [command[0], "validate", *command[2:]]
        case _:
            raise ValueError(name)


def test_the_table_begins_with_the_baseline_and_ends_with_us() -> None:
    names = list(PEERS)
    assert names == ["nginx", "haproxy", "envoy", "caddy", "tornado", "litellm", "portkey", "sluice"]
    assert BASELINE == "nginx"
    assert all(peer.lacks == "" for name, peer in PEERS.items() if name in {"nginx", "haproxy", "envoy", "sluice"})


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["nginx", "haproxy", "envoy", "caddy"])
def test_the_program_takes_its_configuration(name: str, workers: int, is_tls: bool, ca: Path, tmp_path: Path) -> None:
    peer = made(name, tmp_path, Target(4711, ca if is_tls else None), workers)
    command: list[str] = []
    # Where it is not installed, the text can be looked at all the same.
    with suppress(Unavailable):
        command = peer.configure()
    text = "\n".join(
        file.read_text() for file in (tmp_path / name).iterdir() if file.suffix != ".log" and file.is_file()
    )
    assert SERVER_KEY in text
    assert CLIENT_KEY not in text
    assert f"{'localhost' if is_tls else '127.0.0.1'}:4711" in text
    assert (str(ca) in text) is is_tls
    if command and shutil.which(command[0]):
        said = subprocess.run(
            checking(name, command),
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **peer.environment()},
            capture_output=True,
            text=True,
        )
        assert said.returncode == 0, said.stderr


def test_nginx_streams_uploads_as_the_other_fast_ones_do(tmp_path: Path) -> None:
    peer = made("nginx", tmp_path, Target(4711))
    with suppress(Unavailable):
        peer.configure()
    text = (peer.directory / "nginx.conf").read_text()
    location = text.partition(f"location = {UPLOAD_TARGET} {{")[2].partition("}")[0]
    assert "proxy_request_buffering off;" in location
    assert "proxy_pass http://openai;" in location


@pytest.mark.parametrize("name", ["litellm", "sluice"])
def test_our_key_and_the_authority_are_in_the_configuration(
    name: str, is_tls: bool, ca: Path, tmp_path: Path
) -> None:
    peer = made(name, tmp_path, Target(4711, ca if is_tls else None), workers=2)
    peer.configure()
    text = (peer.directory / f"{name}.yaml").read_text()
    assert SERVER_KEY in text
    assert f"{'https://localhost' if is_tls else 'http://127.0.0.1'}:4711/v1" in text
    assert (str(ca) in text) is is_tls


def test_portkey_is_told_by_its_clients_where_to_forward_to(ca: Path, tmp_path: Path) -> None:
    peer = made("portkey", tmp_path, Target(4711, ca))
    assert json.loads(peer.fields["x-portkey-config"]) == {
        "provider": "openai",
        "api_key": SERVER_KEY,
        "custom_host": "https://localhost:4711/v1",
    }
    assert peer.environment()["NODE_EXTRA_CA_CERTS"] == str(ca)


@pytest.mark.parametrize("name", ["tornado", "portkey"])
def test_who_has_no_workers_is_not_asked_for_two(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{name} runs one worker only"):
        made(name, tmp_path, Target(4711), workers=2)


def test_only_who_writes_answers_anew_may_write_them_otherwise(tmp_path: Path) -> None:
    answer = json.loads(ANSWER)
    anew = json.dumps(dict(reversed(answer.items()))).encode()
    nginx, litellm = made("nginx", tmp_path, Target(1)), made("litellm", tmp_path, Target(1))
    assert (nginx.is_answer(ANSWER), litellm.is_answer(ANSWER)) == (True, True)
    assert (nginx.is_answer(anew), litellm.is_answer(anew)) == (False, True)
    answer["choices"][0]["message"]["content"] = "Something else."
    assert not litellm.is_answer(json.dumps(answer).encode())
    assert not litellm.is_answer(b"{}")


@contextmanager
def asked(peer: Peer, path: str, body: bytes) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=10)
    try:
        connection.request("POST", path, body, {**dict(FIELDS), **peer.fields})
        yield connection.getresponse()
    finally:
        connection.close()


def logged(peer: Peer, count: int) -> list[dict[str, object]]:
    """Its access log, once that has so many lines; a line may be written after the answer."""
    deadline = time.monotonic() + 5
    while True:
        lines = (peer.directory / "access.log").read_text().splitlines()
        if len(lines) >= count or time.monotonic() > deadline:
            return [json.loads(line) for line in lines]
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["tornado", "sluice"])
def test_it_forwards(
    name: str, is_tls: bool, ca: Path, upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Neither is to see what is set here: with the one Sluice would not start.
    monkeypatch.setenv("SLUICE__NO_SUCH_SETTING", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
    peer = made(name, tmp_path, Target(upstream.server_port, ca if is_tls else None))
    seconds = peer.start(CORES)
    try:
        assert 0 < seconds < peer.start_timeout_s
        assert peer.process is not None
        assert peer.process.rss_bytes() > 2**20
        with asked(peer, JSON_TARGET, QUESTION) as response:
            assert (response.status, response.read()) == (200, ANSWER)
        # Tornado holds back the head until there is a body.
        upstream.may_send.release()
        with asked(peer, SSE_TARGET, QUESTION) as response:
            assert response.headers["Content-Type"] == "text/event-stream"
            for _ in range(EVENTS):
                assert response.read(len(EVENT)) == EVENT
                # Not before this one is here may the next be sent.
                upstream.may_send.release()
            assert response.read() == b""
        with asked(peer, "/v1/files", UPLOAD) as response:
            assert (response.status, response.read()) == (200, ANSWER)
        assert upstream.uploads == [UPLOAD]
        assert upstream.keys == {f"Bearer {SERVER_KEY}"}
        lines = logged(peer, 4)
    finally:
        peer.stop()
    assert [(line["path"], line["status"]) for line in lines] == [
        *[(JSON_TARGET, 200)] * 2,
        (SSE_TARGET, 200),
        ("/v1/files", 200),
    ]
    assert {line["client_ip"] for line in lines} == {"127.0.0.1"}
    assert cast(object, peer.process) is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", peer.port)).close()


@pytest.mark.parametrize("is_tls", [True], ids=["tls"])
@pytest.mark.parametrize("name", ["tornado", "sluice"])
def test_an_upstream_of_another_authority_is_not_believed(name: str, upstream: Upstream, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    peer = made(name, tmp_path, Target(upstream.server_port, other))
    with pytest.raises(RuntimeError, match=f"{name} answers 50[02]"):
        peer.start(CORES)
    assert upstream.keys == set()
    assert peer.process is None
