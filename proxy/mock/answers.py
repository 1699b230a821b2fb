"""Chat completions, embeddings, models and speech, made of the openai package's own types.

What the types serialise is what the SDK expects, so no shape is written down here a second time.
Shapes: https://platform.openai.com/docs/api-reference.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterator, Sequence
from typing import Literal

from openai import BaseModel
from openai.types import CompletionUsage, CreateEmbeddingResponse, Embedding, Model
from openai.types.audio import Transcription
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessage
from openai.types.chat import chat_completion as completion
from openai.types.chat import chat_completion_chunk as chunk
from openai.types.create_embedding_response import Usage as EmbeddingUsage

from proxy.mock.behaviour import MODELS
from proxy.mock.text import Reply

DONE = b"data: [DONE]\n\n"
"""The last line of a chat stream."""

MODEL_NAMES: tuple[str, ...] = (
    "gpt-4.1",
    "gpt-4.1-mini",
    "gpt-4o-mini",
    "gpt-5-mini",
    "o3-mini",
    "text-embedding-3-small",
    "tts-1",
    "whisper-1",
    *MODELS,
)
"""What ``GET /v1/models`` lists. Other names are answered too."""

DIMENSIONS = 1536
"""The length of an embedding unless ``dimensions`` is given: that of text-embedding-3-small."""

_FINGERPRINT = "fp_mock"
_SPEECH_PART_BYTES = 2048


def to_json(model: BaseModel) -> bytes:
    """A typed object as OpenAI sends it: the fields that were set, null included, UTF-8."""
    return model.to_json(indent=None).encode()


def event(model: BaseModel, name: str | None = None) -> bytes:
    """A typed object as one server-sent event, with an ``event:`` line if it has a name."""
    line = b"data: " + to_json(model) + b"\n\n"
    return line if name is None else b"event: " + name.encode() + b"\n" + line


def listing(models: Sequence[BaseModel], **extra: object) -> bytes:
    """A list object of typed objects."""
    data = {"object": "list", "data": [model.to_dict(mode="json") for model in models], **extra}
    return json.dumps(data, ensure_ascii=False).encode()


def _usage(reply: Reply) -> CompletionUsage:
    spoken = len(reply.words)
    return CompletionUsage(
        prompt_tokens=reply.prompt_tokens, completion_tokens=spoken, total_tokens=reply.prompt_tokens + spoken
    )


def _finish(reply: Reply) -> Literal["length", "stop"]:
    return "length" if reply.cut else "stop"


def chat(reply: Reply, model: str, id: str, created: int) -> bytes:
    """A chat completion with one choice."""
    message = ChatCompletionMessage(role="assistant", content=reply.text, refusal=None, annotations=[])
    choice = completion.Choice(index=0, message=message, logprobs=None, finish_reason=_finish(reply))
    return to_json(
        ChatCompletion(
            id=f"chatcmpl-{id}",
            object="chat.completion",
            created=created,
            model=model,
            choices=[choice],
            usage=_usage(reply),
            service_tier="default",
            system_fingerprint=_FINGERPRINT,
        )
    )


def chat_stream(reply: Reply, model: str, id: str, created: int, include_usage: bool) -> Iterator[bytes]:
    """The same as events: the role, one delta a word, the end, the usage if asked for, ``[DONE]``."""

    def one(choices: list[chunk.Choice], usage: CompletionUsage | None = None) -> bytes:
        piece = ChatCompletionChunk(
            id=f"chatcmpl-{id}",
            object="chat.completion.chunk",
            created=created,
            model=model,
            choices=choices,
            service_tier="default",
            system_fingerprint=_FINGERPRINT,
        )
        if include_usage:
            # With include_usage every chunk has the field, null in all but the last.
            piece.usage = usage
        return event(piece)

    def delta(delta: chunk.ChoiceDelta, finish: Literal["length", "stop"] | None = None) -> bytes:
        return one([chunk.Choice(index=0, delta=delta, logprobs=None, finish_reason=finish)])

    yield delta(chunk.ChoiceDelta(role="assistant", content="", refusal=None))
    for word in reply.words:
        yield delta(chunk.ChoiceDelta(content=word))
    yield delta(chunk.ChoiceDelta(), _finish(reply))
    if include_usage:
        yield one([], _usage(reply))
    yield DONE


def embeddings(inputs: Sequence[str], model: str, dimensions: int, as_base64: bool) -> bytes:
    """One vector an input, the same for the same text; in base64 little-endian 32-bit floats."""
    tokens = sum(len(text.split()) for text in inputs)
    vectors = [vector(text, dimensions) for text in inputs]
    answer = CreateEmbeddingResponse(
        object="list",
        data=[Embedding(object="embedding", index=n, embedding=v) for n, v in enumerate(vectors)],
        model=model,
        usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens),
    )
    if not as_base64:
        return to_json(answer)
    # The type knows floats only: the SDK decodes base64 before it builds one.
    packed = [base64.b64encode(struct.pack(f"<{dimensions}f", *v)).decode() for v in vectors]
    data = answer.to_dict(mode="json")
    data["data"] = [
        {**item.to_dict(mode="json"), "embedding": text} for item, text in zip(answer.data, packed, strict=True)
    ]
    return json.dumps(data).encode()


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone, its numbers exact in 32 bits."""
    digest = hashlib.shake_256(text.encode()).digest(2 * dimensions)
    raw = [value - 32767.5 for value in struct.unpack(f"<{dimensions}H", digest)]
    length = sum(value * value for value in raw) ** 0.5
    packed = struct.pack(f"<{dimensions}f", *(value / length for value in raw))
    return list(struct.unpack(f"<{dimensions}f", packed))


def model(name: str) -> bytes:
    """One model."""
    return to_json(_model(name))


def models() -> bytes:
    """The list of models."""
    return listing([_model(name) for name in MODEL_NAMES])


def _model(name: str) -> Model:
    owner = "sluice-mock" if name in MODELS else "openai"
    return Model(id=name, object="model", created=1_700_000_000, owned_by=owner)


def speech(text: str) -> Iterator[bytes]:
    """Bytes that stand for spoken text, the same for the same text, in pieces; no player can play them."""
    sound = hashlib.shake_256(text.encode()).digest(4 * _SPEECH_PART_BYTES + len(text))
    for start in range(0, len(sound), _SPEECH_PART_BYTES):
        yield sound[start : start + _SPEECH_PART_BYTES]


def transcription(filename: str, content: bytes) -> Transcription:
    """What the mock hears in a sound file: its name and size."""
    return Transcription(text=f"{filename} has {len(content)} bytes.")
