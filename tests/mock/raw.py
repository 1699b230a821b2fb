"""Requests and answers as bytes, for what no client library would send or show."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from proxy.mock.server import MockOpenAI


class Raw(NamedTuple):
    """An answer: status, header lines in order (names in lower case), the bytes after the head, how it ended."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    reset: bool

    def values(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known == name]

    def json(self) -> Any:
        return json.loads(self.body)

    def error(self) -> dict[str, Any]:
        body = self.json()
        assert list(body) == ["error"]
        assert list(body["error"]) == ["message", "type", "param", "code"]
        error: dict[str, Any] = body["error"]
        return error


def connect(mock: MockOpenAI) -> socket.socket:
    return socket.create_connection(("127.0.0.1", mock.port), timeout=10)


def ask(
    mock: MockOpenAI,
    method: str,
    target: str,
    body: bytes | dict[str, Any] = b"",
    *headers: str,
    key: str = "sk-test",
) -> Raw:
    """Send one request on a connection of its own and read until that ends."""
    if isinstance(body, dict):
        headers = (*headers, "Content-Type: application/json")
        body = json.dumps(body).encode()
    lines = [f"{method} {target} HTTP/1.1", "Host: mock", "Connection: close", f"Content-Length: {len(body)}"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    head = "\r\n".join([*lines, *headers]) + "\r\n\r\n"
    with connect(mock) as sock:
        sock.sendall(head.encode("latin-1") + body)
        return read(sock)


def read(sock: socket.socket) -> Raw:
    data, reset = b"", False
    try:
        while piece := sock.recv(65536):
            data += piece
    except ConnectionResetError:
        reset = True
    head, _, rest = data.partition(b"\r\n\r\n")
    start, *lines = head.decode("latin-1").split("\r\n")
    headers = [(line.split(": ", 1)[0].lower(), line.split(": ", 1)[1]) for line in lines]
    return Raw(int(start.split(" ")[1]), headers, rest, reset)


def chat(said: str = "one two three", model: str = "gpt-4.1-mini", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": said}], **more}


def until(true: Callable[[], bool]) -> None:
    """Wait for something another thread does; fails after five seconds."""
    deadline = time.monotonic() + 5
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)
