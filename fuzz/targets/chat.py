"""The simple chat contract: a client's JSON, and what an upstream says to it.

A body is a request that keeps the contract, or a 400 that is told in both shapes and every language. What is accepted
goes up as JSON that says the same. Any answer of the upstream gives words, or an error with one of the statuses
the contract knows; its ``retry-after`` lines are passed on as they came.

An input is the client's body, then a line ``--``, a status, a line of a header, and the upstream's body.
"""

from __future__ import annotations

import json

from fuzz.target import ERRORS, Target, require
from proxy.core.catalogue import LANGUAGES, Catalogue, find_locales
from proxy.core.headers import Headers, field
from proxy.core.reply import Reply
from proxy.gateway.chat_contract import (
    ROLES,
    ChatRequest,
    Defaults,
    Refused,
    failure,
    parse,
    read_answer,
    upstream_body,
)
from proxy.gateway.envelope import chat_answer, chat_error, openai_error

CATALOGUE = Catalogue.load(find_locales())
DEFAULTS = Defaults("text-davinci-003", 100, 3500, "auto", {"text-davinci-003": "gpt-4.1-mini"})
STATUSES = frozenset({400, 401, 403, 429, 502, 504})
_SEPARATOR = b"\n--\n"


def _check_reply(reply: Reply, statuses: frozenset[int], language: str) -> None:
    require(reply.status in statuses, "a status outside the contract", reply.status)
    shown = json.loads(openai_error(reply, CATALOGUE, language).decode("utf-8"))["error"]
    require(bool(shown["message"]) and isinstance(shown["type"], str), "an error without words", shown)
    envelope = json.loads(chat_error(reply, CATALOGUE, language).decode("utf-8"))
    require(envelope["code"] == reply.status and bool(envelope["data"]["response"]), "the envelope", envelope)


def _check_request(body: bytes, request: ChatRequest) -> None:
    fields = json.loads(body)
    require(isinstance(fields, dict), "accepted, and no object")
    require(fields["user_content"] == request.dialogue[-1]["content"], "another question")
    require(bool(request.dialogue[-1]["content"].strip()), "an empty question")
    require(all(turn["role"] in ROLES for turn in request.dialogue), "an unknown role")
    require(1 <= request.max_tokens <= DEFAULTS.most_tokens, "more tokens than allowed", request.max_tokens)
    require(request.api_key == (fields.get("api_key") or None), "another key")
    for is_openai, name in ((True, "max_completion_tokens"), (False, "max_tokens")):
        sent = json.loads(upstream_body(request, DEFAULTS, is_openai=is_openai).decode("utf-8"))
        model = DEFAULTS.aliases.get(request.model, request.model)
        require(sent == {"model": model, "messages": request.dialogue, name: request.max_tokens}, "sent otherwise")


def _try_answer(status_text: bytes, line: bytes, body: bytes, language: str) -> None:
    status = int(status_text) if status_text.isdigit() and len(status_text) == 3 else 500
    name, _, value = line.partition(b":")
    headers = Headers([field(name, value.strip())])
    answer = read_answer(body)
    if answer is not None:
        rendered = chat_answer(answer.text, [], answer.finish_reason, CATALOGUE, language)
        require(json.loads(rendered.decode("utf-8"))["code"] == 200, "an answer that is none")
    reply = failure(status, headers, body, body.decode("latin-1"))
    _check_reply(reply, STATUSES, language)
    for kept in reply.headers:
        require(kept in headers.fields, "a line that never came", kept)
    if reply.status in (429, 502) and name.lower() in (b"retry-after", b"retry-after-ms", b"x-should-retry"):
        require(headers.fields[0] in reply.headers, "a retry line is lost", line)


def try_chat(data: bytes) -> None:
    """Both directions; see the module's docstring."""
    body, _, rest = data.partition(_SEPARATOR)
    language = LANGUAGES[len(data) % len(LANGUAGES)]
    try:
        request = parse(body, DEFAULTS)
    except Refused as refused:
        _check_reply(refused.reply, frozenset({400}), language)
    else:
        _check_request(body, request)
    status, _, rest = rest.partition(b"\n")
    line, _, answer = rest.partition(b"\n")
    _try_answer(status, line, answer, language)
    ERRORS.check()


WORDS = (
    b'"user_content"', b'"sys_content"', b'"system_content"', b'"continuous"', b'"continuous_dialogue"',
    b'"api_key"', b'"model"', b'"max_tokens"', b'"role"', b'"content"', b'"system"', b'"user"', b'"assistant"',
    b'"text-davinci-003"', b"null", b"true", b"NaN", b"-Infinity", b"1e999", b"1.0", b"{}", b"[]", b'""',
    b'"\\ud800"', b'"\\udc00\\ud800"', b'"\\u0000"', b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"[" * 200,
    b'{"a":' * 100, b"9" * 5000, b"\n--\n", b"200\n", b"401\n", b"403\n", b"404\n", b"408\n", b"429\n", b"500\n",
    b"retry-after: 5\n", b"retry-after-ms: -1\n", b'{"error":{"code":"model_not_found","message":"x"}}',
    b'{"error":{"code":"insufficient_quota"}}', b'{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}',
    b'{"error":[]}', b'{"choices":{}}', b"{0}",
)  # fmt: skip

TARGET = Target("chat", "the simple chat contract, both ways", try_chat, WORDS, 8192)
