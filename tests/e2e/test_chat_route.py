"""The simple chat contract on a real socket, in four languages, and with the two published kinds of client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
import requests
from tornado.ioloop import IOLoop

from proxy.core.chain import Chain
from proxy.core.exchange import Exchange
from proxy.gateway.plane import DataPlane
from tests.support.raw import Answer, RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire


def completion(text: str | None, finish_reason: str = "stop", **message: object) -> bytes:
    """An upstream's chat completion."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish_reason,
    }
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice]}).encode()


def answers(status: int, body: bytes, *lines: bytes) -> Callable[[Received, Wire], Any]:
    """A script that answers so."""

    async def script(received: Received, wire: Wire) -> None:
        head = b"".join(line + b"\r\n" for line in lines)
        await wire.send(b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n" % (status, head, len(body)) + body)

    return script


async def ask(port: int, fields: object, *headers: str, path: str = "/api") -> Answer:
    """One request of the contract; ``fields`` is its JSON, or bytes as they are."""
    body = fields if isinstance(fields, bytes) else json.dumps(fields, ensure_ascii=False).encode()
    client = await RawClient.connect(port)
    answer = await client.ask(request(path, body=body, headers=("Content-Type: application/json", *headers)))
    client.close()
    return answer


def sent(upstream: FakeUpstream) -> Any:
    """The JSON of the last request upstream."""
    return json.loads(upstream.ledger[-1].body)


@pytest.mark.gen_test
@pytest.mark.parametrize("path", ["/", "/api", "/api/", "/api?x=1"])
async def test_a_question_is_answered_in_the_contracts_envelope(path: str, port: int, upstream: FakeUpstream) -> None:
    upstream.script = answers(
        200, completion("Привет! 你好"), b"x-request-id: req_up", b"x-ratelimit-limit-requests: 5"
    )
    answer = await ask(port, {"user_content": "привет", "api_key": "sk-mine"}, path=path)
    assert answer.status == 200
    assert answer.json == {
        "code": 200,
        "msg": "success",
        "data": {"response": "Привет! 你好"},
        "current_response": "Привет! 你好",
        "result": [{"role": "user", "content": "привет"}, {"role": "assistant", "content": "Привет! 你好"}],
    }
    assert "Привет! 你好".encode() in answer.body
    assert answer.get("content-type") == "application/json; charset=utf-8"
    assert answer.get("x-request-id") == "req_up"
    assert answer.get("x-ratelimit-limit-requests") == "5"
    (received,) = upstream.ledger
    assert (received.method, received.target) == ("POST", "/v1/chat/completions")
    assert received.get("authorization") == "Bearer sk-mine"
    assert sent(upstream) == {
        "model": "gpt-4.1-mini",
        "messages": [{"role": "user", "content": "привет"}],
        "max_tokens": 100,
    }


@pytest.mark.gen_test
@pytest.mark.environ({"ROUTE": "/team/chat/"})
async def test_the_route_is_the_operators(port: int, upstream: FakeUpstream) -> None:
    upstream.script = answers(200, completion("ok"))
    fields = {"user_content": "hi", "api_key": "k"}
    assert (await ask(port, fields, path="/team/chat")).status == 200
    assert (await ask(port, fields, path="/")).status == 404
    assert (await ask(port, fields, path="/api")).status == 404


SYSTEM = {"role": "system", "content": "earlier"}
USER = {"role": "user", "content": "q1"}
ASSISTANT = {"role": "assistant", "content": "a1"}
NOW = {"role": "user", "content": "now"}


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("fields", "messages"),
    [
        ({"sys_content": "be brief"}, [{"role": "system", "content": "be brief"}, NOW]),
        ({"system_content": "be brief"}, [{"role": "system", "content": "be brief"}, NOW]),
        ({"continuous": [USER, ASSISTANT]}, [USER, ASSISTANT, NOW]),
        ({"continuous_dialogue": [USER, ASSISTANT]}, [USER, ASSISTANT, NOW]),
        ({"continuous": [SYSTEM, USER, ASSISTANT]}, [SYSTEM, USER, ASSISTANT, NOW]),
        (
            {"continuous": [SYSTEM, USER], "sys_content": "new"},
            [{"role": "system", "content": "new"}, USER, NOW],
        ),
        ({"continuous": [], "sys_content": None, "model": None, "max_tokens": None}, [NOW]),
    ],
)
async def test_messages_go_up_in_the_contracts_order(
    fields: dict[str, Any], messages: list[Any], port: int, upstream: FakeUpstream
) -> None:
    upstream.script = answers(200, completion("ok"))
    answer = await ask(port, {"user_content": "now", "api_key": "k", **fields})
    assert sent(upstream)["messages"] == messages
    assert answer.json["result"] == [*messages, {"role": "assistant", "content": "ok"}]


@pytest.mark.gen_test
async def test_the_result_can_be_sent_back_as_it_is(port: int, upstream: FakeUpstream) -> None:
    upstream.script = answers(200, completion("ok"))
    first = await ask(port, {"user_content": "one", "sys_content": "s", "api_key": "k"})
    await ask(port, {"user_content": "two", "sys_content": "s", "api_key": "k", "continuous": first.json["result"]})
    roles = [message["role"] for message in sent(upstream)["messages"]]
    assert roles == ["system", "user", "assistant", "user"]


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("message", "text", "finish_reason"),
    [
        (completion(None, "length"), "", "length"),
        (completion("", "content_filter"), "", "content_filter"),
        (completion(None, refusal="I won't."), "I won't.", None),
    ],
)
async def test_empty_answers_and_refusals(
    message: bytes, text: str, finish_reason: str | None, port: int, upstream: FakeUpstream
) -> None:
    upstream.script = answers(200, message)
    answer = await ask(port, {"user_content": "q", "api_key": "k"})
    assert answer.status == 200
    assert answer.json["current_response"] == answer.json["data"]["response"] == text
    assert answer.json["data"].get("finish_reason") == finish_reason


BAD = [
    (b"{", "JSON"),
    (b"[]", "object"),
    ({}, "user_content"),
    ({"user_content": ""}, "user_content"),
    ({"user_content": 5}, "user_content"),
    ({"user_content": "q", "sys_content": []}, "sys_content"),
    ({"user_content": "q", "model": 1}, "model"),
    ({"user_content": "q", "max_tokens": "5"}, "max_tokens"),
    ({"user_content": "q", "max_tokens": True}, "max_tokens"),
    ({"user_content": "q", "max_tokens": 0}, "3500"),
    ({"user_content": "q", "max_tokens": 3501}, "3500"),
    ({"user_content": "q", "continuous": "x"}, "continuous"),
    ({"user_content": "q", "continuous": [{"role": "user"}]}, "continuous"),
    ({"user_content": "q", "continuous": [{"role": "root", "content": "x"}]}, "root"),
    ({"user_content": "q", "api_key": "sk\r\nX-Evil: 1"}, "API"),
    ({"user_content": "q"}, "api_key"),
    ({"user_content": "q", "api_key": "none"}, "api_key"),
]


@pytest.mark.gen_test
@pytest.mark.parametrize(("fields", "named"), BAD, ids=[str(fields)[:40] for fields, _ in BAD])
async def test_bad_requests_are_400_and_say_what_is_wrong(
    fields: object, named: str, port: int, upstream: FakeUpstream
) -> None:
    if isinstance(fields, dict) and named not in ("api_key", "API"):
        fields = {"api_key": "k", **fields}
    answer = await ask(port, fields)
    assert (answer.status, answer.json["code"], answer.json["msg"]) == (400, 400, "failed")
    assert named in answer.json["data"]["response"]
    assert upstream.ledger == []


def error(code: str | None, message: str = "the reason") -> bytes:
    """An upstream's error."""
    return json.dumps({"error": {"message": message, "type": "t", "param": None, "code": code}}).encode()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("status", "body", "code", "named"),
    [
        (400, error(None), 400, "the reason"),
        (404, error("model_not_found"), 400, "gpt-nope"),
        (422, error(None), 400, "the reason"),
        (401, error("invalid_api_key", "Incorrect API key provided: sk-m***"), 401, "key"),
        (403, error(None), 403, "the reason"),
        (429, error("rate_limit_exceeded"), 429, "OpenAI"),
        (429, error("insufficient_quota"), 429, "quota"),
        (408, b"", 504, "in time"),
        (504, b"", 504, "in time"),
        (500, error(None), 502, "OpenAI"),
        (503, b"<html>", 502, "OpenAI"),
        (302, b"", 502, "OpenAI"),
        (200, b"not json", 502, "OpenAI"),
        (200, b'{"choices": []}', 502, "OpenAI"),
    ],
)
async def test_the_upstreams_failures_become_the_contracts(
    status: int, body: bytes, code: int, named: str, port: int, upstream: FakeUpstream
) -> None:
    upstream.script = answers(status, body, b"retry-after: 7")
    answer = await ask(port, {"user_content": "q", "api_key": "k", "model": "gpt-nope"})
    assert (answer.status, answer.json["code"]) == (code, code)
    assert named in answer.json["data"]["response"]
    assert answer.get("x-sluice-upstream-sent") == "yes"
    if code == 429:
        assert answer.get("retry-after") == "7"


@pytest.mark.gen_test
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
async def test_other_methods_are_405_with_allow(method: str, port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    answer = await client.ask(request("/api", method=method))
    assert (answer.status, answer.json["code"], answer.get("allow")) == (405, 405, "POST")
    client.close()


@pytest.mark.gen_test
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_1_mib_is_413(chunked: bool, port: int, upstream: FakeUpstream) -> None:
    client = await RawClient.connect(port)
    if chunked:
        await client.send(b"POST /api HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.send(b"%x\r\n" % 1_048_577 + bytes(1_048_577))
    else:
        await client.send(b"POST /api HTTP/1.1\r\nHost: g\r\nContent-Length: 1048577\r\n\r\n")
    answer = await client.answer()
    assert (answer.status, answer.json["code"]) == (413, 413)
    client.close()


@pytest.mark.gen_test
@pytest.mark.environ({"MINUTE_LIMIT": "1", "HOUR_LIMIT": "50", "API_KEY": "sk-server"})
@pytest.mark.parametrize(
    ("language", "words"),
    [
        ("en", ["At most 1 request per minute is allowed.", "50 requests per hour", "Try again in"]),
        ("ru-RU,ru;q=0.9", ["минуту", "час", "секунд"]),
        ("zh-CN", ["每分钟", "每小时"]),
        ("zh-Hant-HK", ["每分鐘", "每小時"]),
    ],
)
async def test_too_frequent_says_the_limits_in_the_callers_language(
    language: str, words: list[str], port: int, upstream: FakeUpstream
) -> None:
    upstream.script = answers(200, completion("ok"))
    await ask(port, {"user_content": "q"})
    answer = await ask(port, {"user_content": "q"}, f"Accept-Language: {language}")
    assert (answer.status, answer.json["code"]) == (429, 429)
    for word in words:
        assert word in answer.json["data"]["response"]
    assert int(answer.get("retry-after") or 0) >= 1
    assert len(upstream.ledger) == 1


@pytest.mark.gen_test
@pytest.mark.environ({"LANG": "ru_RU.UTF-8", "API_KEY": "sk-server"})
async def test_with_a_server_key_callers_need_none(port: int, upstream: FakeUpstream) -> None:
    upstream.script = answers(200, completion("ok"))
    answer = await ask(port, b'{"user_content":"\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82"}')
    assert (answer.status, answer.json["data"]["response"]) == (200, "ok")
    assert upstream.ledger[0].get("authorization") == "Bearer sk-server"


@pytest.mark.gen_test
@pytest.mark.environ({"LANG": "ru_RU"})
async def test_without_any_key_400_in_the_language_of_the_installation(port: int) -> None:
    answer = await ask(port, {"user_content": "привет"})
    assert answer.status == 400
    assert "ключ" in answer.json["data"]["response"]


@pytest.mark.gen_test
async def test_a_bearer_header_works_too_and_the_bodys_key_counts_first(port: int, upstream: FakeUpstream) -> None:
    upstream.script = answers(200, completion("ok"))
    await ask(port, {"user_content": "q"}, "Authorization: Bearer sk-header")
    await ask(port, {"user_content": "q", "api_key": "sk-body"}, "Authorization: Bearer sk-header")
    keys = [received.get("authorization") for received in upstream.ledger]
    assert keys == ["Bearer sk-header", "Bearer sk-body"]


@pytest.mark.gen_test
@pytest.mark.environ({"IP_ALLOWLIST": "10.0.0.0/8"})
async def test_denied_addresses_are_403_in_the_envelope(port: int) -> None:
    answer = await ask(port, {"user_content": "q", "api_key": "k"})
    assert (answer.status, answer.json["code"]) == (403, 403)
    assert answer.json["data"]["response"] == "Requests from your IP address are not allowed."


@pytest.mark.gen_test
async def test_a_client_that_leaves_closes_the_upstream(port: int, upstream: FakeUpstream) -> None:
    gone = asyncio.Event()

    async def script(received: Received, wire: Wire) -> None:
        if await wire.gone():
            gone.set()

    upstream.script = script
    client = await RawClient.connect(port)
    await client.send(request("/api", body=b'{"user_content": "q", "api_key": "k"}'))
    await asyncio.sleep(0.05)
    client.close()
    await asyncio.wait_for(gone.wait(), 0.5)


def single_question(url: str) -> str:
    """One question, as the first kind of published client asks it."""
    payload: Any = {
        "system_content": "You are helpful.",
        "user_content": "What is a sluice?",
        "model": "text-davinci-003",
        "api_key": "sk-client",
        "continuous": [],
        "max_tokens": 3000,
    }
    result = requests.post(url, json=payload, timeout=10).json()
    return str(result["current_response"])


def continuous_dialogue(url: str, questions: list[str]) -> list[str]:
    """A dialogue, as the second kind of published client leads it: the result goes back as ``continuous``."""
    said: list[str] = []
    dialogue: list[Any] = []
    for question in questions:
        payload: Any = {
            "system_content": "You are helpful.",
            "user_content": question,
            "model": "gpt-4.1",
            "api_key": "sk-client",
            "continuous": dialogue,
            "max_tokens": 3000,
        }
        result = requests.post(url, json=payload, timeout=10).json()
        dialogue = result["result"]
        said.append(result["current_response"])
    return said


@pytest.mark.gen_test
async def test_both_published_kinds_of_client_work_unchanged(
    port: int, upstream: FakeUpstream, io_loop: IOLoop
) -> None:
    async def script(received: Received, wire: Wire) -> None:
        body = json.loads(received.body)
        await answers(200, completion(f"answer {len(body['messages'])}"))(received, wire)

    upstream.script = script
    url = f"http://127.0.0.1:{port}/api"
    assert await io_loop.run_in_executor(None, single_question, url) == "answer 2"
    said = await io_loop.run_in_executor(None, continuous_dialogue, url, ["one", "two", "three"])
    assert said == ["answer 2", "answer 4", "answer 6"]
    roles = [message["role"] for message in sent(upstream)["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert sent(upstream)["model"] == "gpt-4.1"
    assert sent(upstream)["max_tokens"] == 3000


class Verdicts:
    """In the place of an access log: the verdicts of each exchange that ended."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []

    def add(self, exchange: Exchange, chain: Chain, now_s: float) -> None:
        """Note one."""
        self.seen.append(dict(chain.verdicts(exchange)))


@pytest.mark.gen_test
async def test_what_the_contract_refuses_is_not_blamed_on_a_stage(port: int, plane: DataPlane) -> None:
    log = Verdicts()
    plane.access_log = log  # type: ignore[assignment]  # the part of it that the plane uses
    await ask(port, b"{")
    await ask(port, {"user_content": "q"})
    assert log.seen == [
        {"ip_allowlist": "pass", "limit": "pass", "key": "stopped invalid_request"},
        {"ip_allowlist": "pass", "limit": "pass", "key": "deny missing_api_key"},
    ]
