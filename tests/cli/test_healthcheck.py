"""``sluice healthcheck``: whom it asks, and how, on listeners of every kind."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from proxy.cli import main

READY = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
DRAINING = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


@contextmanager
def answering(
    server: socket.socket, answer: bytes = READY, tls: ssl.SSLContext | None = None
) -> Iterator[list[bytes]]:
    """Answer one connection on a bound socket; yields what was asked."""
    asked: list[bytes] = []
    server.settimeout(10)
    server.listen()

    def serve() -> None:
        connection, _ = server.accept()
        with connection if tls is None else tls.wrap_socket(connection, server_side=True) as stream:
            asked.append(stream.recv(65536))
            stream.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield asked
    finally:
        thread.join()


@pytest.fixture
def tcp() -> Iterator[socket.socket]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        yield server


def port_of(server: socket.socket) -> int:
    return int(server.getsockname()[1])


def written(folder: Path, listen: str) -> list[str]:
    """The arguments that name a file with these listeners."""
    file = folder / "sluice.yaml"
    file.write_text(f"listen: {listen}\ntrusted_proxies: [10.0.0.1]\n", encoding="utf-8")
    return ["healthcheck", "--config", str(file)]


@pytest.mark.parametrize(("answer", "status"), [(READY, 0), (DRAINING, 1)])
def test_a_unix_socket_is_asked(
    tmp_path: Path, answer: bytes, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "s.sock")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        with answering(server, answer) as asked:
            assert main(written(tmp_path, f"{{unix: {path}}}"), {}) == status
    assert asked[0].startswith(b"GET /readyz HTTP/1.1\r\n")
    assert capsys.readouterr() == (("ready\n", "") if status == 0 else ("", f"{path} is not ready (status 503)\n"))


def test_a_unix_socket_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.sock"
    assert main(written(tmp_path, f"[{{unix: {path}}}]"), {}) == 1
    assert f"no answer from {path}: " in capsys.readouterr().err


def test_tls_is_spoken_whatever_name_the_certificate_has(tmp_path: Path, tcp: socket.socket) -> None:
    issued = trustme.CA().issue_cert("gateway.example")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(cert))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    listen = f"{{host: 127.0.0.1, port: {port_of(tcp)}, tls: {{cert: {cert}, key: {key}}}}}"
    with answering(tcp, tls=context) as asked:
        assert main(written(tmp_path, listen), {}) == 0
    assert asked[0].startswith(b"GET /readyz ")


def test_a_listener_that_answers_anybody_is_preferred(tmp_path: Path, tcp: socket.socket) -> None:
    listen = f"[{{port: 1, proxy_protocol: required}}, {{host: 0.0.0.0, port: {port_of(tcp)}}}]"
    with answering(tcp) as asked:
        assert main(written(tmp_path, listen), {}) == 0
    assert asked[0].startswith(b"GET /readyz ")


def test_without_one_the_admin_listener_is_asked(
    tmp_path: Path, tcp: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    command = written(tmp_path, "{port: 1, proxy_protocol: required}")
    with answering(tcp) as asked:
        assert main([*command, "--set", f"admin.port={port_of(tcp)}"], {}) == 0
    assert asked[0].startswith(b"GET /readyz ")
    capsys.readouterr()
    assert main(command, {"SLUICE__ADMIN__ENABLED": "false"}) == 1
    assert "asks for a certificate or a PROXY header" in capsys.readouterr().err
