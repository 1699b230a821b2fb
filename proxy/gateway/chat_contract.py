"""The simple chat contract, pure: its request into one for chat completions, the answer back into its own.

    {"user_content", "sys_content", "model", "api_key", "max_tokens", "continuous"}

``system_content`` is the same as ``sys_content`` and ``continuous_dialogue`` as ``continuous``: clients in the wild
send either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.core.headers import Headers
from proxy.core.messages import (
    DIALOGUE_ROLE,
    DIALOGUE_SHAPE,
    FIELD_NOT_INTEGER,
    FIELD_NOT_TEXT,
    FIELD_OUT_OF_RANGE,
    FIELD_REQUIRED,
    INVALID_JSON,
    NOT_AN_OBJECT,
    UNKNOWN_MODEL,
    UPSTREAM_BAD_REQUEST,
    UPSTREAM_FAILED,
    UPSTREAM_FORBIDDEN,
    UPSTREAM_QUOTA,
    UPSTREAM_RATE_LIMIT,
    UPSTREAM_REFUSED_KEY,
    UPSTREAM_TIMEOUT,
    Message,
)
from proxy.core.reply import INVALID_REQUEST, PERMISSION, RATE_LIMIT, SERVER_ERROR, Reply, invalid_request

ROLES = ("system", "user", "assistant")
_SHOWN = 200  # characters of a caller's or the upstream's own text that an error repeats
_RETRY_FIELDS = (b"retry-after", b"retry-after-ms", b"x-should-retry")

Turn = dict[str, str]
"""One message of a dialogue: ``role`` and ``content``."""


class Refused(Exception):
    """The request breaks the contract; ``reply`` says how."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.code)
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the settings say about the contract."""

    model: str
    max_tokens: int
    most_tokens: int
    token_field: str
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request of the contract, checked."""

    dialogue: list[Turn] = field(repr=False)
    model: str
    max_tokens: int
    api_key: str | None = field(repr=False)


def parse(body: bytes, defaults: Defaults) -> ChatRequest:
    """Check a request's body. Raises Refused."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(invalid_request(INVALID_JSON)) from None
    if not isinstance(fields, dict):
        raise Refused(invalid_request(NOT_AN_OBJECT))
    user = _text(fields, "user_content")
    if not user.strip():
        raise Refused(invalid_request(FIELD_REQUIRED, param="user_content", field="user_content"))
    system = _text(fields, "sys_content") or _text(fields, "system_content")
    earlier = _dialogue(fields, "continuous") or _dialogue(fields, "continuous_dialogue")
    if system and earlier and earlier[0]["role"] == "system":
        earlier = earlier[1:]
    start: list[Turn] = [{"role": "system", "content": system}] if system else []
    return ChatRequest(
        dialogue=[*start, *earlier, {"role": "user", "content": user}],
        model=_text(fields, "model") or defaults.model,
        max_tokens=_max_tokens(fields, defaults),
        api_key=_text(fields, "api_key") or None,
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or not _is_text(value):
        raise _refused(FIELD_NOT_TEXT, name)
    return value


def _is_text(value: str) -> bool:
    """False for half of a surrogate pair, which JSON can carry and UTF-8 cannot."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _max_tokens(fields: dict[str, Any], defaults: Defaults) -> int:
    value = fields.get("max_tokens")
    if value is None:
        return defaults.max_tokens
    if not isinstance(value, int) or isinstance(value, bool):
        raise _refused(FIELD_NOT_INTEGER, "max_tokens")
    if not 1 <= value <= defaults.most_tokens:
        raise _refused(FIELD_OUT_OF_RANGE, "max_tokens", minimum=1, maximum=defaults.most_tokens)
    return value


def _dialogue(fields: dict[str, Any], name: str) -> list[Turn]:
    value = fields.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise _refused(DIALOGUE_SHAPE, name)
    turns: list[Turn] = []
    for turn in value:
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(role, str) or not isinstance(content, str) or not _is_text(role + content):
            raise _refused(DIALOGUE_SHAPE, name)
        if role not in ROLES:
            raise _refused(DIALOGUE_ROLE, name, role=role[:_SHOWN])
        turns.append({"role": role, "content": content})
    return turns


def _refused(message: Message, name: str, **params: object) -> Refused:
    return Refused(invalid_request(message, param=name, field=name, **params))


def upstream_body(request: ChatRequest, defaults: Defaults, *, is_openai: bool) -> bytes:
    """The chat-completions body for a request; ``is_openai`` decides what ``token_field: auto`` means."""
    field = defaults.token_field
    if field == "auto":
        # OpenAI's reasoning models refuse max_tokens; many compatible servers know nothing else.
        field = "max_completion_tokens" if is_openai else "max_tokens"
    model = defaults.aliases.get(request.model, request.model)
    body = {"model": model, "messages": request.dialogue, field: request.max_tokens}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What the model said; ``finish_reason`` tells why it stopped."""

    text: str
    finish_reason: str | None


def read_answer(body: bytes) -> ChatAnswer | None:
    """The model's words in a chat completion, a refusal's text included; None if it is no such thing."""
    try:
        choice = json.loads(body)["choices"][0]
        message = choice["message"]
        text = message.get("content") or message.get("refusal") or ""
        finish_reason = choice.get("finish_reason")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None
    if not isinstance(text, str):
        return None
    return ChatAnswer(text, finish_reason if isinstance(finish_reason, str) else None)


def failure(status: int, headers: Headers, body: bytes, model: str) -> Reply:
    """The contract's reply for an answer of the upstream that is not a success."""
    code, reason = _openai_error(body)
    retry = tuple(line for line in headers.fields if line[0] in _RETRY_FIELDS)
    if status in (404, 400) and code == "model_not_found":
        return Reply.of(400, INVALID_REQUEST, code, UNKNOWN_MODEL, param="model", model=model[:_SHOWN])
    if status in (400, 404, 422):
        return Reply.of(400, INVALID_REQUEST, code or "invalid_request", UPSTREAM_BAD_REQUEST, reason=reason)
    if status == 401:
        return Reply.of(401, INVALID_REQUEST, "invalid_api_key", UPSTREAM_REFUSED_KEY)
    if status == 403:
        return Reply.of(403, PERMISSION, code or "forbidden", UPSTREAM_FORBIDDEN, reason=reason)
    if status == 429 and code == "insufficient_quota":
        return Reply.of(429, RATE_LIMIT, code, UPSTREAM_QUOTA, headers=retry)
    if status == 429:
        return Reply.of(429, RATE_LIMIT, "upstream_rate_limit", UPSTREAM_RATE_LIMIT, headers=retry)
    if status in (408, 504):
        return Reply.of(504, SERVER_ERROR, "upstream_timeout", UPSTREAM_TIMEOUT)
    return Reply.of(502, SERVER_ERROR, "upstream_error", UPSTREAM_FAILED, headers=retry)


def _openai_error(body: bytes) -> tuple[str, str]:
    """(code, message) of an error in OpenAI's shape; empty strings where there are none."""
    try:
        error = json.loads(body)["error"]
        code, message = error.get("code"), error.get("message")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "", ""
    return (code if isinstance(code, str) else ""), (message if isinstance(message, str) else "")[:_SHOWN]
