"""The real SDK against the mock: what it builds, and what it raises."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import ResponseCompletedEvent, ResponseTextDeltaEvent

from proxy.mock.behaviour import MODELS
from proxy.mock.server import MockOpenAI

SAID: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Grüße, 你好 Мир"},
]
ANSWER = "You said: Grüße, 你好 Мир"


def test_chat(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="gpt-4.1-mini", messages=SAID)
    answer = raw.parse()
    assert answer.model == "gpt-4.1-mini"
    assert answer.choices[0].message.content == ANSWER
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 5, 10)
    assert answer._request_id == raw.headers["x-request-id"]
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["openai-version"] == "2020-10-01"
    assert raw.headers["openai-processing-ms"].isdigit()
    for kind in ("requests", "tokens"):
        assert int(raw.headers[f"x-ratelimit-remaining-{kind}"]) < int(raw.headers[f"x-ratelimit-limit-{kind}"])
        assert raw.headers[f"x-ratelimit-reset-{kind}"]


def test_the_last_user_message_counts_and_parts_are_joined(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="gpt-4.1-mini",
        messages=[
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes"},
            {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "text", "text": "part"}]},
        ],
    )
    assert answer.choices[0].message.content == "You said: second part"


def test_chat_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(model="gpt-4.1-mini", messages=SAID, stream=True) as stream:
        chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [delta.content for delta in deltas] == ["", "You", " said:", " Grüße,", " 你好", " Мир", None]
    assert deltas[0].role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 6 + ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    assert all("usage" not in chunk.model_fields_set for chunk in chunks)


def test_chat_stream_with_usage(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="gpt-4.1-mini", messages=SAID, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = stream
    assert all("usage" in chunk.model_fields_set and chunk.usage is None for chunk in chunks)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 10


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_token_limit_cuts_the_answer(client: openai.OpenAI, field: str) -> None:
    answer = client.chat.completions.create(model="gpt-4.1-mini", messages=SAID, extra_body={field: 3})
    assert answer.choices[0].message.content == "You said: Grüße,"
    assert answer.choices[0].finish_reason == "length"
    with client.chat.completions.create(
        model="gpt-4.1-mini", messages=SAID, stream=True, extra_body={field: 2}
    ) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "You said:"
    assert chunks[-1].choices[0].finish_reason == "length"


def test_reasoning_models_refuse_max_tokens(client: openai.OpenAI) -> None:
    for model in ("o1", "o3-mini", "gpt-5-mini"):
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=SAID, max_tokens=5)
        assert (caught.value.param, caught.value.code) == ("max_tokens", "unsupported_parameter")
        answer = client.chat.completions.create(model=model, messages=SAID, max_completion_tokens=5)
        assert answer.choices[0].message.content == ANSWER


def test_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="gpt-4.1-mini", input="Grüße, 你好", instructions="Be brief.")
    assert answer.output_text == "You said: Grüße, 你好"
    assert (answer.status, answer.model, answer.instructions) == ("completed", "gpt-4.1-mini", "Be brief.")
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (4, 4)


def test_responses_take_items_and_a_limit(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="gpt-4.1-mini",
        input=[{"role": "user", "content": [{"type": "input_text", "text": "one two"}]}],
        max_output_tokens=3,
    )
    assert answer.output_text == "You said: one"
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


def test_responses_stream(client: openai.OpenAI) -> None:
    with client.responses.create(model="gpt-4.1-mini", input="Grüße", stream=True) as stream:
        events = list(stream)
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(11))
    text = "".join(event.delta for event in events if isinstance(event, ResponseTextDeltaEvent))
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent)
    assert text == last.response.output_text == "You said: Grüße"


def test_responses_stream_that_is_cut_by_a_limit(client: openai.OpenAI) -> None:
    with client.responses.stream(model="gpt-4.1-mini", input="a b c", max_output_tokens=2) as stream:
        types = [event.type for event in stream]
    assert types[-1] == "response.incomplete"
    assert types.count("response.output_text.delta") == 2


def test_embeddings(client: openai.OpenAI, mock: MockOpenAI) -> None:
    model = "text-embedding-3-small"
    packed = client.embeddings.create(model=model, input=["one", "two", "one"])
    assert b'"base64"' in (mock.ledger.entries[-1].body or b"")
    floats = client.embeddings.create(model=model, input="one", encoding_format="float")
    one, two, again = (item.embedding for item in packed.data)
    assert one == again != two
    assert one == floats.data[0].embedding
    assert len(one) == 1536
    assert sum(value * value for value in one) == pytest.approx(1)
    assert len(client.embeddings.create(model=model, input=[1, 2], dimensions=8).data[0].embedding) == 8
    text = client.post(
        "/embeddings", cast_to=dict[str, object], body={"model": model, "input": "one", "encoding_format": "base64"}
    )["data"][0]["embedding"]  # type: ignore[index]
    assert list(struct.unpack("<1536f", base64.b64decode(text))) == one


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert set(MODELS) < set(names)
    assert client.models.retrieve("gpt-4.1-mini").id == "gpt-4.1-mini"
    assert client.models.retrieve("ft:gpt/x").id == "ft:gpt/x"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


def test_files(client: openai.OpenAI, mock: MockOpenAI) -> None:
    content = bytes(range(256)) * 9000 + b"\r\n--boundary\r\n"
    about = client.files.create(file=("Bericht – 報告.bin", content), purpose="user_data")
    assert (about.bytes, about.filename, about.purpose) == (len(content), "Bericht – 報告.bin", "user_data")
    assert mock.files[about.id].sha256 == hashlib.sha256(content).hexdigest()
    assert client.files.content(about.id).content == content
    assert client.files.retrieve(about.id) == about
    assert client.files.delete(about.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.content(about.id)


def test_the_list_of_files_comes_in_pages(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}.txt", b"x"), purpose="batch").id for n in range(3)]
    client.files.create(file=("evals.txt", b"x"), purpose="evals")
    assert [about.id for about in client.files.list(purpose="batch", limit=2)] == made[::-1]
    page = client.files.list(purpose="batch", limit=2, order="asc")
    assert [about.id for about in page.data] == made[:2]
    assert page.has_more
    assert [about.purpose for about in client.files.list(limit=1).data] == ["evals"]
    for query in ({"limit": "0"}, {"order": "up"}, {"after": "file-x"}):
        with pytest.raises(openai.BadRequestError, match=next(iter(query))):
            client.files.list(extra_query=query)


def test_the_expiry_of_a_file(client: openai.OpenAI) -> None:
    about = client.files.create(
        file=("a.txt", b""), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert (about.bytes, about.expires_at) == (0, about.created_at + 3600)
    with pytest.raises(openai.BadRequestError, match="3600"):
        client.files.create(
            file=("a.txt", b""), purpose="batch", expires_after={"anchor": "created_at", "seconds": 1}
        )


def test_speech(client: openai.OpenAI) -> None:
    one = client.audio.speech.create(model="tts-1", voice="alloy", input="one")
    again = client.audio.speech.create(model="tts-1", voice="alloy", input="one")
    two = client.audio.speech.create(model="tts-1", voice="alloy", input="two", response_format="flac")
    assert one.response.headers["content-type"] == "audio/mpeg"
    assert two.response.headers["content-type"] == "audio/flac"
    assert one.content == again.content != two.content
    assert len(one.content) > 8000


def test_transcriptions(client: openai.OpenAI) -> None:
    heard = client.audio.transcriptions.create(model="whisper-1", file=("call.mp3", b"12345"))
    assert heard.text == "call.mp3 has 5 bytes."
    text = client.audio.transcriptions.create(model="whisper-1", file=("a.mp3", b"1"), response_format="text")
    assert text == "a.mp3 has 1 bytes.\n"


@pytest.mark.parametrize("key", ["sk-wrong", "sk-invalid-0123456789abcdef"])
def test_a_wrong_key(mock: MockOpenAI, key: str) -> None:
    with (
        openai.OpenAI(api_key=key, base_url=mock.base_url, max_retries=0) as sdk,
        pytest.raises(openai.AuthenticationError) as caught,
    ):
        sdk.models.list()
    assert caught.value.code == "invalid_api_key"
    assert "*" in caught.value.message
    assert key not in caught.value.message
    assert caught.value.request_id == mock.ledger.entries[0].request_id


@pytest.mark.parametrize("model", ["no-such-model", "unknown-9"])
def test_an_unknown_model(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError, match=model) as caught:
        client.chat.completions.create(model=model, messages=SAID)
    assert caught.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model=model, input="x")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=model, input="x")


def test_a_path_that_is_not_there(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/images/generations\)"):
        client.images.generate(prompt="x")


def test_the_async_client_and_many_at_once(mock: MockOpenAI) -> None:
    async def one(sdk: openai.AsyncOpenAI, number: int) -> str:
        stream = await sdk.chat.completions.create(
            model="gpt-4.1-mini", messages=[{"role": "user", "content": f"n{number}"}], stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def run() -> list[str]:
        async with openai.AsyncOpenAI(api_key="sk-test", base_url=mock.base_url, max_retries=0) as sdk:
            return await asyncio.gather(*(one(sdk, number) for number in range(20)))

    assert asyncio.run(run()) == [f"You said: n{number}" for number in range(20)]
    assert not any(entry.aborted for entry in mock.ledger.entries)
