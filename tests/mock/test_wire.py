"""What no SDK sends: any method, any path, malformed requests; and the echo that shows what arrived."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from proxy.mock.server import MockOpenAI

from .raw import ask, chat, connect, read


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "finish"])
def test_the_echo_takes_any_method(mock: MockOpenAI, method: str) -> None:
    answer = ask(mock, method, "/v1/echo/a%2Fb?x=%C3%BC&x=2", b"\x00\xff", "X-Twin: 1", "X-Twin: 2, 3", key="")
    assert answer.status == 200
    assert answer.json() == {
        "method": method,
        "target": "/v1/echo/a%2Fb?x=%C3%BC&x=2",
        "headers": [
            ["Host", "mock"],
            ["Connection", "close"],
            ["Content-Length", "2"],
            ["X-Twin", "1"],
            ["X-Twin", "2, 3"],
        ],
        "body_sha256": hashlib.sha256(b"\x00\xff").hexdigest(),
        "body_length": 2,
    }


def test_the_echo_of_a_chunked_body(mock: MockOpenAI) -> None:
    with connect(mock) as sock:
        sock.sendall(
            b"POST /v1/echo HTTP/1.1\r\nHost: m\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        answer = read(sock).json()
    assert (answer["body_length"], answer["body_sha256"]) == (5, hashlib.sha256(b"abcde").hexdigest())


def test_head_has_the_head_alone(mock: MockOpenAI) -> None:
    answer = ask(mock, "HEAD", "/v1/echo")
    assert answer.status == 200
    assert int(answer.values("content-length")[0]) > 0
    assert answer.body == b""


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/models"),
        ("DELETE", "/v1/models/gpt-4.1"),
        ("PURGE", "/v1/files"),
        ("POST", "/v1/chat/completions/"),
        ("GET", "/v1/echoes"),
        ("GET", "/v1"),
        ("GET", "/"),
    ],
)
def test_everything_else_is_a_404(mock: MockOpenAI, method: str, target: str) -> None:
    answer = ask(mock, method, target)
    assert answer.status == 404
    assert answer.error() == {
        "message": f"Invalid URL ({method} {target})",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert answer.values("x-request-id")[0].startswith("req_")
    assert mock.ledger.entries[0].method == method


def test_a_missing_key(mock: MockOpenAI) -> None:
    for headers in ((), ("Authorization: Bearer ",), ("Authorization: Bearer",)):
        answer = ask(mock, "GET", "/v1/models", b"", *headers, key="")
        assert answer.status == 401
        assert (answer.error()["type"], answer.error()["code"]) == ("invalid_request_error", None)
    assert ask(mock, "GET", "/v1/models", b"", "Authorization: Basic OnNrLXg=", key="").status == 200


@pytest.mark.parametrize(
    ("path", "body", "param", "code"),
    [
        ("chat/completions", {"messages": []}, None, None),
        ("chat/completions", {"model": 5}, "model", "invalid_type"),
        ("chat/completions", {"model": "m"}, "messages", "missing_required_parameter"),
        ("chat/completions", {"model": "m", "messages": []}, "messages", "invalid_type"),
        ("chat/completions", {"model": "m", "messages": ["x"]}, "messages[0]", "invalid_type"),
        ("chat/completions", {"model": "m", "messages": [{"content": 5}]}, "messages[0].content", "invalid_type"),
        ("chat/completions", chat(max_tokens="5"), "max_tokens", "invalid_type"),
        ("chat/completions", chat(max_tokens=True), "max_tokens", "invalid_type"),
        ("chat/completions", chat(max_tokens=0), "max_tokens", "integer_below_min_value"),
        ("chat/completions", chat(stream="yes"), "stream", "invalid_type"),
        ("responses", {"model": "m"}, "input", "missing_required_parameter"),
        ("responses", {"model": "m", "input": 5}, "input", "invalid_type"),
        ("responses", {"model": "m", "input": "x", "instructions": 5}, "instructions", "invalid_type"),
        ("embeddings", {"model": "m"}, "input", "missing_required_parameter"),
        ("embeddings", {"model": "m", "input": [""]}, "input", "invalid_type"),
        ("embeddings", {"model": "m", "input": "x", "encoding_format": "hex"}, "encoding_format", "invalid_value"),
        ("embeddings", {"model": "m", "input": "x", "dimensions": 9999}, "dimensions", "invalid_value"),
        ("audio/speech", {"model": "m", "input": "x"}, "voice", "missing_required_parameter"),
        (
            "audio/speech",
            {"model": "m", "input": "x", "voice": "v", "response_format": "ogg"},
            "response_format",
            "invalid_value",
        ),
    ],
)
def test_bad_requests(mock: MockOpenAI, path: str, body: dict[str, Any], param: str | None, code: str | None) -> None:
    answer = ask(mock, "POST", f"/v1/{path}", body)
    assert answer.status == 400
    assert (answer.error()["param"], answer.error()["code"]) == (param, code)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"x"', b"\xff{}", b'{"model": "\\ud800"}', b'{"a":' + b"[" * 100_000]
)
def test_a_body_that_is_no_json_object(mock: MockOpenAI, body: bytes) -> None:
    answer = ask(mock, "POST", "/v1/chat/completions", body)
    assert answer.status == 400
    assert "JSON" in answer.error()["message"]


@pytest.mark.parametrize(
    ("content_type", "body", "complaint"),
    [
        ("application/json", b"{}", "must be multipart/form-data, not application/json"),
        ("multipart/form-data", b"", "boundary not found"),
        ("multipart/form-data; boundary=b", b"nothing", "no final boundary"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b--\r\n',
            "Missing required parameter: 'file'",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\nx\r\n--b--\r\n',
            "Missing required parameter: 'purpose'",
        ),
    ],
)
def test_bad_uploads(mock: MockOpenAI, content_type: str, body: bytes, complaint: str) -> None:
    answer = ask(mock, "POST", "/v1/files", body, f"Content-Type: {content_type}")
    assert answer.status == 400
    assert complaint in answer.error()["message"]
    assert len(mock.files) == 0


def test_event_streams_on_the_wire(mock: MockOpenAI) -> None:
    answer = ask(mock, "POST", "/v1/chat/completions", chat("Grüße", stream=True))
    assert answer.values("content-type") == ["text/event-stream; charset=utf-8"]
    assert answer.values("transfer-encoding") == ["chunked"]
    lines = _dechunk(answer.body).split(b"\n\n")
    assert lines[-2:] == [b"data: [DONE]", b""]
    assert all(line.startswith(b"data: {") for line in lines[:-2])
    assert "Grüße".encode() in answer.body
    responses = _dechunk(ask(mock, "POST", "/v1/responses", {"model": "m", "input": "x", "stream": True}).body)
    for block in responses.split(b"\n\n")[:-1]:
        name, data = block.split(b"\n")
        assert json.loads(data.removeprefix(b"data: "))["type"].encode() == name.removeprefix(b"event: ")


def test_null_fields_are_sent_as_openai_sends_them(mock: MockOpenAI) -> None:
    choice = ask(mock, "POST", "/v1/chat/completions", chat()).json()["choices"][0]
    assert choice["logprobs"] is None
    assert choice["message"]["refusal"] is None
    assert "tool_calls" not in choice["message"]


def _dechunk(body: bytes) -> bytes:
    whole = b""
    while True:
        size, _, rest = body.partition(b"\r\n")
        if int(size, 16) == 0:
            return whole
        whole += rest[: int(size, 16)]
        body = rest[int(size, 16) + 2 :]
