"""The ledger: exactly what came, one entry a request, and who hung up."""

from __future__ import annotations

import base64
import hashlib
import json

import openai
import pytest
from tornado.httputil import HTTPHeaders

from proxy.mock.api import Request
from proxy.mock.ledger import Body, Ledger
from proxy.mock.server import MockOpenAI

from .raw import ask, chat, connect, read, until


def body_of(content: bytes) -> Body:
    body = Body(1 << 30)
    body.add(content)
    return body


def test_an_entry_is_exact(mock: MockOpenAI) -> None:
    body = '{"model": "gpt-4.1-mini",  "messages":[{"role":"user","content":"Grüße"}]}'.encode()
    answer = ask(
        mock,
        "POST",
        "/v1/chat/completions?a=%2F&b=%20",
        body,
        "X-Twin: one",
        "X-Bytes: gr\xfc\xdfe  inside",
        "X-Twin: two",
        key="sk-ex-ACT",
    )
    (entry,) = mock.ledger.entries
    assert (entry.sequence, entry.connection, entry.method) == (1, 1, "POST")
    assert entry.target == "/v1/chat/completions?a=%2F&b=%20"
    assert entry.headers == (
        ("Host", "mock"),
        ("Connection", "close"),
        ("Content-Length", str(len(body))),
        ("Authorization", "Bearer sk-ex-ACT"),
        ("X-Twin", "one"),
        ("X-Twin", "two"),
        ("X-Bytes", "gr\xfc\xdfe  inside"),
    )
    assert entry.authorization == "Bearer sk-ex-ACT"
    assert entry.body == body
    assert (entry.body_length, entry.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())
    assert entry.model == "gpt-4.1-mini"
    assert (entry.status, entry.aborted) == (200, False)
    assert [entry.request_id] == answer.values("x-request-id")


def test_connections_and_sequence(mock: MockOpenAI) -> None:
    with connect(mock) as sock:
        for last in (False, True):
            close = "Connection: close\r\n" if last else ""
            sock.sendall(f"GET /v1/echo HTTP/1.1\r\nHost: m\r\n{close}\r\n".encode())
            until(lambda expected=2 if last else 1: len(mock.ledger.entries) == expected)  # type: ignore[misc]
        read(sock)
    ask(mock, "GET", "/v1/models", key="")
    entries = mock.ledger.entries
    assert [(entry.sequence, entry.connection) for entry in entries] == [(1, 1), (2, 1), (3, 2)]
    assert entries[2].authorization is None
    assert entries[2].status == 401


def test_a_large_body_is_recorded_by_digest(mock: MockOpenAI) -> None:
    body = b"x" * ((1 << 20) + 1)
    ask(mock, "POST", "/v1/echo", body[:-1])
    ask(mock, "POST", "/v1/echo", body)
    ask(mock, "POST", "/v1/chat/completions", body)
    exact, *larger = mock.ledger.entries
    assert exact.body == body[:-1]
    for entry in larger:
        assert entry.body is None
        assert (entry.body_length, entry.body_sha256) == (len(body), hashlib.sha256(body).hexdigest())


def test_a_request_that_does_not_arrive_whole_is_not_recorded(mock: MockOpenAI) -> None:
    with connect(mock) as sock:
        sock.sendall(b"POST /v1/echo HTTP/1.1\r\nHost: m\r\nContent-Length: 10\r\n\r\nhalf")
    ask(mock, "GET", "/v1/echo")
    assert [entry.method for entry in mock.ledger.entries] == ["GET"]


def test_a_client_that_leaves_a_stream_is_noted(client: openai.OpenAI, mock: MockOpenAI) -> None:
    stream = client.chat.completions.create(
        model="gpt-4.1-mini",
        messages=[{"role": "user", "content": "x"}],
        stream=True,
        extra_headers={"x-mock": "chunks=1000; chunk-delay-ms=20"},
    )
    with stream:
        next(stream)
    (entry,) = mock.ledger.entries
    until(lambda: entry.aborted)
    assert entry.parts < 20


def test_a_reader_that_stops_reading_stops_the_stream(mock: MockOpenAI) -> None:
    with connect(mock) as sock:
        body = json.dumps(chat(stream=True)).encode()
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: m\r\nAuthorization: Bearer k\r\n"
            b"x-mock: chunks=200000\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        until(lambda: len(mock.ledger.entries) == 1 and mock.ledger.entries[0].parts > 0)
        (entry,) = mock.ledger.entries
        parts = -1

        def at_rest() -> bool:
            nonlocal parts
            before, parts = parts, entry.parts
            return before == parts

        until(at_rest)
        assert 0 < parts < 200_000
        assert not entry.aborted
    until(lambda: entry.aborted)


def test_an_answer_that_was_read_to_the_end_is_not_aborted(client: openai.OpenAI, mock: MockOpenAI) -> None:
    for _ in range(20):
        with client.chat.completions.create(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": "x"}], stream=True
        ) as stream:
            list(stream)
    client.models.list()
    assert [entry.aborted for entry in mock.ledger.entries] == [False] * 21


def test_the_ledger_over_http(mock: MockOpenAI) -> None:
    ask(mock, "POST", "/v1/echo", b"\xff\x00", "X-Name: gr\xfc\xdfe")
    answer = ask(mock, "GET", "/_mock/ledger", key="").json()
    assert answer["dropped"] == 0
    (entry,) = answer["entries"]
    assert entry == json.loads(json.dumps(mock.ledger.entries[0].as_dict()))
    assert base64.b64decode(entry["body_base64"]) == b"\xff\x00"
    assert ["X-Name", "gr\xfc\xdfe"] in entry["headers"]
    assert ask(mock, "DELETE", "/_mock/ledger").status == 204
    assert mock.ledger.entries == []
    ask(mock, "GET", "/v1/echo")
    assert [entry.sequence for entry in mock.ledger.entries] == [2]


@pytest.mark.parametrize(("max_entries", "max_bytes", "kept"), [(2, 100, [4, 5]), (100, 12, [3, 4, 5])])
def test_the_oldest_entries_go_first(max_entries: int, max_bytes: int, kept: list[int]) -> None:
    ledger = Ledger(max_entries, max_bytes)
    for _ in range(5):
        ledger.add(
            connection=1, method="GET", target="/", headers=(), body=body_of(b"four"), model=None, request_id="r"
        )
    assert [entry.sequence for entry in ledger.entries] == kept
    assert ledger.dropped == 5 - len(kept)


def test_a_model_is_read_from_json_alone() -> None:
    for content, model in (
        (b' {"model": "m"}', "m"),
        (b'{"model": 5}', None),
        (b'{"model": "m"', None),
        (b'["model"]', None),
        (b"", None),
    ):
        assert Request("POST", "/v1/x", HTTPHeaders(), body_of(content), "id").model == model
