"""Limits through a real gateway: with the real key stage before them, and a real client behind the answers."""

from __future__ import annotations

import json

import openai
import pytest
from openai import AsyncOpenAI

from tests.support.raw import Answer, RawClient, request
from tests.support.structured_fields import parse_list
from tests.support.upstream import FakeUpstream, Received, Wire

CHAIN = {"SLUICE__CHAIN": "key,limit,upstream"}
TWO_LIMITS = {"SLUICE__CHAIN": "per_ip,key,per_key,upstream"}


async def ask(port: int, target: str = "/v1/chat/completions", key: str = "sk-a") -> Answer:
    """One request on a connection of its own."""
    client = await RawClient.connect(port)
    headers = (f"Authorization: Bearer {key}",) if key else ()
    answer = await client.ask(request(target, headers=headers))
    client.close()
    return answer


async def statuses(port: int, *asked: tuple[str, str]) -> list[int]:
    """What (target, key) after (target, key) is answered with."""
    return [(await ask(port, target, key)).status for target, key in asked]


def labels(answer: Answer, name: str) -> list[object]:
    """The names of the items in all lines of a header."""
    return [item for item, _ in parse_list([value for key, value in answer.lines if key.lower() == name])]


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN | {"API_KEY": "sk-server"})
@pytest.mark.config({"stages": {"limit": {"by": "credential", "hour": 2, "keys_per_ip": 3}}})
async def test_by_credential_each_key_has_its_own(port: int, upstream: FakeUpstream) -> None:
    chat = "/v1/chat/completions"
    assert await statuses(port, *[(chat, "sk-a")] * 3, *[(chat, "sk-b")] * 3) == [200, 200, 429, 200, 200, 429]
    # With whatever blanks, a key is one key.
    again = await ask(port, chat, "  sk-a ")
    assert (again.status, again.get("x-sluice-limit")) == (429, "limit.hour")
    # Callers without a key use the server's, and count by the address that the keys above have paid from, too.
    assert await statuses(port, *[(chat, "")] * 3) == [200, 200, 429]
    refused = await ask(port, chat, "sk-made-up")
    assert (refused.status, refused.get("x-sluice-limit")) == (429, "limit.address.hour")
    assert [received.get("authorization") for received in upstream.ledger] == [
        *["Bearer sk-a"] * 2,
        *["Bearer sk-b"] * 2,
        *["Bearer sk-server"] * 2,
    ]


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN)
@pytest.mark.config({"stages": {"limit": {"by": ["credential", "path"], "hour": 1, "keys_per_ip": 9}}})
async def test_a_tuple_counts_each_combination(port: int, upstream: FakeUpstream) -> None:
    asked = [("/v1/models", "sk-a"), ("/v1/files", "sk-a"), ("/v1/models", "sk-b"), ("/v1/models", "sk-a")]
    assert await statuses(port, *asked) == [200, 200, 200, 429]
    rewritten = ["/v1/models?x=1", "/v1/models/", "/v1//models", "/v1/%6dodels", "/v1/MODELS", "/v1/models;x"]
    assert await statuses(port, *[(target, "sk-a") for target in rewritten]) == [429] * 6
    assert len(upstream.ledger) == 3


@pytest.mark.gen_test
@pytest.mark.environ(TWO_LIMITS)
@pytest.mark.config(
    {
        "stages": {
            "per_ip": {"type": "limit", "hour": 4},
            "per_key": {"type": "limit", "by": "credential", "hour": 1, "keys_per_ip": 100},
        }
    }
)
async def test_what_a_later_limit_refuses_burns_nothing_in_an_earlier_one(port: int, upstream: FakeUpstream) -> None:
    first = await ask(port)
    assert first.status == 200
    assert labels(first, "ratelimit") == ["per_key.hour", "per_key.address.hour", "per_ip.hour"]
    assert labels(first, "ratelimit-policy") == labels(first, "ratelimit")
    refusals = [await ask(port) for _ in range(6)]
    assert [(refusal.status, refusal.get("x-sluice-limit")) for refusal in refusals] == [(429, "per_key.hour")] * 6
    # Of our own answer's two limits, the one that refused is told in OpenAI's form, once.
    told = [key for key, _ in refusals[0].lines if key.lower() == "x-ratelimit-remaining-requests"]
    assert (len(told), refusals[0].get("x-ratelimit-remaining-requests")) == (1, "0")
    # A missing key burns nothing either.
    assert [(await ask(port, key="")).status for _ in range(6)] == [401] * 6
    others = [await ask(port, key=f"sk-{number}") for number in range(4)]
    assert [other.status for other in others] == [200, 200, 200, 429]
    assert others[3].get("x-sluice-limit") == "per_ip.hour"
    assert len(upstream.ledger) == 4


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN)
@pytest.mark.config({"stages": {"limit": {"hour": 2, "limits": {"per_key": {"by": "credential", "hour": 2}}}}})
async def test_what_was_certainly_not_sent_is_given_back(port: int, upstream: FakeUpstream) -> None:
    await upstream.refuse()
    failures = [await ask(port) for _ in range(5)]
    assert [failure.status for failure in failures] == [502] * 5
    assert {failure.get("x-sluice-upstream-sent") for failure in failures} == {"no"}
    # The answer is ours: it says in OpenAI's form, too, what was left while it was under way.
    assert {failure.get("x-ratelimit-remaining-requests") for failure in failures} == {"1"}
    assert upstream.ledger == []
    await upstream.accept_again()
    assert await statuses(port, *[("/v1/models", "sk-a")] * 3) == [200, 200, 429]
    assert len(upstream.ledger) == 2


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN)
@pytest.mark.config({"stages": {"limit": {"hour": 2}}})
async def test_what_may_have_been_sent_is_not(port: int, upstream: FakeUpstream) -> None:
    async def drop(received: Received, wire: Wire) -> None:
        wire.reset()

    upstream.script = drop
    failures = [await ask(port) for _ in range(3)]
    assert [failure.status for failure in failures] == [502, 502, 429]
    assert failures[0].get("x-sluice-upstream-sent") == "unknown"


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN)
@pytest.mark.config(
    {"stages": {"limit": {"minute": 2, "limits": {"steady": {"hour": 3600, "algorithm": "gcra", "burst": 9}}}}}
)
async def test_headers_of_a_forwarded_answer_and_of_a_refusal(port: int, upstream: FakeUpstream) -> None:
    async def with_limits(received: Received, wire: Wire) -> None:
        await wire.send(b"HTTP/1.1 200 OK\r\nx-ratelimit-remaining-requests: 499\r\nContent-Length: 2\r\n\r\n{}")

    upstream.script = with_limits
    answers = [await ask(port) for _ in range(3)]
    policy = '"limit.minute";q=2;w=60, "limit.steady.hour";q=3600;w=3600'
    assert {answer.get("ratelimit-policy") for answer in answers} == {policy}
    told = [dict(parse_list([answer.get("ratelimit") or ""])) for answer in answers]
    assert [items["limit.minute"]["r"] for items in told] == [1, 0, 0]
    assert [items["limit.steady.hour"]["r"] for items in told[:2]] == [8, 7]
    # OpenAI's own words pass unchanged, and ours are not mixed with them.
    assert [answer.get("x-ratelimit-remaining-requests") for answer in answers] == ["499", "499", "0"]
    assert [answer.get("x-ratelimit-limit-requests") for answer in answers] == [None, None, "2"]
    refusal = answers[2]
    seconds, milliseconds = int(refusal.get("retry-after") or 0), int(refusal.get("retry-after-ms") or 0)
    assert 55_000 < milliseconds <= 60_000
    assert seconds == -(-milliseconds // 1000)
    assert int(told[2]["limit.minute"]["t"]) <= seconds
    assert answers[0].get("x-sluice-limit") is None


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN)
@pytest.mark.config({"stages": {"limit": {"by": "credential", "hour": 1}}})
async def test_the_sdk_raises_what_it_raises_for_openai(port: int) -> None:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-mine", max_retries=1) as client:
        await client.models.with_raw_response.list()
        with pytest.raises(openai.RateLimitError) as raised:
            await client.models.list()
    error = raised.value
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert "At most 1 request per hour is allowed." in error.message
    assert error.request_id
    # So long a wait is none that the SDK sits through: it raises at once, and its user knows when.
    headers = error.response.headers
    assert 3_500_000 < int(headers["retry-after-ms"]) <= 3_600_000
    assert headers["x-sluice-limit"] == "limit.hour"
    assert headers["x-ratelimit-reset-requests"].startswith(("59m", "1h0m0s"))
    assert error.response.request.headers["x-stainless-retry-count"] == "0"


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN)
@pytest.mark.config({"stages": {"limit": {"second": 1}}})
async def test_the_sdk_waits_as_told_and_is_admitted(port: int, upstream: FakeUpstream) -> None:
    async with AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="sk-mine", max_retries=1) as client:
        await client.models.with_raw_response.list()
        answer = await client.models.with_raw_response.list()
    assert answer.retries_taken == 1
    assert len(upstream.ledger) == 2


@pytest.mark.gen_test
@pytest.mark.environ(CHAIN)
@pytest.mark.config({"stages": {"limit": {"by": ["credential", "path"], "hour": 2}}})
async def test_the_chat_route_speaks_the_callers_language_and_shares_the_count(
    port: int, upstream: FakeUpstream
) -> None:
    assert await statuses(port, *[("/v1/chat/completions", "sk-a")] * 2) == [200, 200]
    client = await RawClient.connect(port)
    body = json.dumps({"user_content": "q", "api_key": "sk-a"}).encode()
    answer = await client.ask(request("/api", body=body, headers=("Accept-Language: ru",)))
    client.close()
    assert answer.status == 429
    assert answer.json["code"] == 429
    said = json.dumps(answer.json, ensure_ascii=False)
    assert "Слишком много запросов" in said
    assert "в час" in said
    assert answer.get("x-sluice-limit") == "limit.hour"
    assert int(answer.get("retry-after") or 0) > 3500
    assert len(upstream.ledger) == 2
