"""The official OpenAI SDK through the gateway, by changing ``base_url`` only: sync and async."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from tornado.ioloop import IOLoop

import proxy
from proxy.gateway.plane import DataPlane
from proxy.mock.server import MockOpenAI

SAY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three four"}]
SERVER_KEY = {"API_KEY": "sk-server"}


@pytest.fixture
def mock(io_loop: IOLoop) -> Iterator[MockOpenAI]:
    """The mock OpenAI."""
    made = MockOpenAI()
    io_loop.run_sync(made.start)
    yield made
    io_loop.run_sync(made.stop)


@pytest.fixture
def plane(io_loop: IOLoop, mock: MockOpenAI, request: pytest.FixtureRequest) -> Iterator[DataPlane]:
    """The gateway in front of the mock."""
    environ = request.node.get_closest_marker("environ")
    made = proxy.mount({"stages": {"upstream": {"base_url": mock.base_url}}}, environ.args[0] if environ else None)
    yield made
    io_loop.run_sync(made.close)


@pytest.fixture
def base_url(port: int) -> str:
    """What a client sets."""
    return f"http://127.0.0.1:{port}/v1"


def drive(client: OpenAI) -> dict[str, object]:
    """Everything the sync SDK is asked to do."""
    done: dict[str, object] = {}
    completion = client.chat.completions.create(model="gpt-4.1-mini", messages=SAY)
    done["chat"] = completion.choices[0].message.content
    stream = client.chat.completions.create(model="gpt-4.1-mini", messages=SAY, stream=True)
    done["chat stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    done["response"] = client.responses.create(model="gpt-4.1-mini", input="one two three four").output_text
    events = client.responses.create(model="gpt-4.1-mini", input="one two three four", stream=True)
    done["response stream"] = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    done["embedding"] = len(client.embeddings.create(model="text-embedding-3-small", input="x").data[0].embedding)
    file = client.files.create(file=("notes.txt", io.BytesIO(b"\x00\xff" * 5000)), purpose="assistants")
    done["file"] = file.bytes
    done["file content"] = client.files.content(file.id).read() == b"\x00\xff" * 5000
    done["models"] = bool(client.models.list().data)
    done["speech"] = len(client.audio.speech.create(model="tts-1", voice="alloy", input="hello").read()) > 0
    return done


async def drive_async(client: AsyncOpenAI) -> dict[str, object]:
    """Everything the async SDK is asked to do."""
    done: dict[str, object] = {}
    completion = await client.chat.completions.create(model="gpt-4.1-mini", messages=SAY)
    done["chat"] = completion.choices[0].message.content
    stream = await client.chat.completions.create(model="gpt-4.1-mini", messages=SAY, stream=True)
    done["chat stream"] = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
    done["response"] = (await client.responses.create(model="gpt-4.1-mini", input="one two three four")).output_text
    events = await client.responses.create(model="gpt-4.1-mini", input="one two three four", stream=True)
    done["response stream"] = "".join([e.delta async for e in events if e.type == "response.output_text.delta"])
    embeddings = await client.embeddings.create(model="text-embedding-3-small", input="x")
    done["embedding"] = len(embeddings.data[0].embedding)
    file = await client.files.create(file=("notes.txt", io.BytesIO(b"\x00\xff" * 5000)), purpose="assistants")
    done["file"] = file.bytes
    done["file content"] = (await client.files.content(file.id)).read() == b"\x00\xff" * 5000
    done["models"] = bool((await client.models.list()).data)
    speech = await client.audio.speech.create(model="tts-1", voice="alloy", input="hello")
    done["speech"] = len(speech.read()) > 0
    return done


def check(done: dict[str, object], mock: MockOpenAI, credential: str) -> None:
    """Everything came through, and the upstream saw each request once, with the right key."""
    said = "You said: one two three four"
    assert done == {
        "chat": said,
        "chat stream": said,
        "response": said,
        "response stream": said,
        "embedding": done["embedding"],
        "file": 10_000,
        "file content": True,
        "models": True,
        "speech": True,
    }
    assert isinstance(done["embedding"], int)
    assert done["embedding"] > 100
    assert [(entry.method, entry.target) for entry in mock.ledger.entries] == [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/responses"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/files"),
        ("GET", f"/v1/files/{next(iter(mock.files))}/content"),
        ("GET", "/v1/models"),
        ("POST", "/v1/audio/speech"),
    ]
    assert {entry.authorization for entry in mock.ledger.entries} == {f"Bearer {credential}"}


@pytest.mark.gen_test(timeout=20)
async def test_the_sync_sdk_with_its_own_key(base_url: str, mock: MockOpenAI, io_loop: IOLoop) -> None:
    with OpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client:
        check(await io_loop.run_in_executor(None, drive, client), mock, "sk-mine")


@pytest.mark.gen_test(timeout=20)
@pytest.mark.environ(SERVER_KEY)
async def test_the_sync_sdk_with_a_dummy_key_and_a_server_key(
    base_url: str, mock: MockOpenAI, io_loop: IOLoop
) -> None:
    with OpenAI(base_url=base_url, api_key="none", max_retries=0) as client:
        check(await io_loop.run_in_executor(None, drive, client), mock, "sk-server")


@pytest.mark.gen_test(timeout=20)
@pytest.mark.environ(SERVER_KEY)
@pytest.mark.parametrize(("api_key", "seen"), [("sk-mine", "sk-mine"), ("none", "sk-server")])
async def test_the_async_sdk(base_url: str, mock: MockOpenAI, api_key: str, seen: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        check(await drive_async(client), mock, seen)


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize(
    ("model", "api_key", "expected", "status", "code"),
    [
        ("unknown-model", "sk-mine", openai.NotFoundError, 404, "model_not_found"),
        ("gpt-4.1-mini", "sk-wrong", openai.AuthenticationError, 401, "invalid_api_key"),
        ("mock-429", "sk-mine", openai.RateLimitError, 429, "rate_limit_exceeded"),
        ("mock-500", "sk-mine", openai.InternalServerError, 500, None),
        ("gpt-4.1-mini", "none", openai.AuthenticationError, 401, "missing_api_key"),
    ],
)
async def test_errors_raise_the_sdks_own_exceptions_with_a_request_id(
    model: str, api_key: str, expected: type[openai.APIStatusError], status: int, code: str | None, base_url: str
) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0) as client:
        with pytest.raises(expected) as raised:
            await client.chat.completions.create(model=model, messages=SAY)
    assert raised.value.status_code == status
    assert (raised.value.request_id or "").startswith("req_")
    if code:
        assert raised.value.code == code


@pytest.mark.gen_test(timeout=20)
@pytest.mark.environ({"MINUTE_LIMIT": "1"})
async def test_our_own_429_is_a_rate_limit_error_too(base_url: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client:
        await client.models.list()
        with pytest.raises(openai.RateLimitError) as raised:
            await client.models.list()
    assert raised.value.code == "rate_limit_exceeded"
    assert raised.value.response.headers["retry-after"] == "60"
    assert raised.value.request_id == raised.value.response.headers["x-sluice-request-id"]


@pytest.mark.gen_test(timeout=20)
@pytest.mark.environ({"SECOND_LIMIT": "1"})
async def test_the_sdk_waits_as_told_and_succeeds(base_url: str, mock: MockOpenAI) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key="sk-mine", max_retries=2) as client:
        await asyncio.gather(client.models.list(), client.models.list())
    assert len(mock.ledger.entries) == 2


@pytest.mark.gen_test(timeout=20)
async def test_a_stream_cut_upstream_raises_in_the_sdk(base_url: str) -> None:
    async with AsyncOpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client:
        stream = await client.chat.completions.create(model="mock-cut", messages=SAY, stream=True)
        seen = []

        async def read() -> None:
            async for chunk in stream:
                seen.append(chunk)  # noqa: PERF401 - what was seen before the cut must be kept

        with pytest.raises(openai.APIError, match="broke off") as raised:
            await read()
    assert raised.value.code == "upstream_protocol_error"
    assert len(seen) == 3


@pytest.mark.gen_test(timeout=20)
async def test_leaving_a_stream_early_is_noticed_upstream(base_url: str, mock: MockOpenAI) -> None:
    mock.behaviour = mock.behaviour.but("chunk-delay-ms=50; chunks=200", "test")
    async with AsyncOpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client:
        stream = await client.chat.completions.create(model="gpt-4.1-mini", messages=SAY, stream=True)
        await anext(stream)
        await stream.close()
    for _ in range(60):
        if mock.ledger.entries[0].aborted:
            break
        await asyncio.sleep(0.02)
    assert mock.ledger.entries[0].aborted


@pytest.mark.gen_test(timeout=20)
async def test_prompts_arrive_byte_for_byte(base_url: str, mock: MockOpenAI) -> None:
    prompt = "naïve 你好 привет \u2028 \\u0041 \x7f" * 100
    async with AsyncOpenAI(base_url=base_url, api_key="sk-mine", max_retries=0) as client:
        await client.chat.completions.create(model="gpt-4.1-mini", messages=[{"role": "user", "content": prompt}])
    body = mock.ledger.entries[0].body
    assert body is not None
    assert json.loads(body)["messages"][0]["content"] == prompt
