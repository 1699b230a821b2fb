"""The two shapes our own answers come in, in the caller's language.

``/v1``         OpenAI's: ``{"error": {"message", "type", "param", "code"}}``, so that the SDKs raise typed errors
everything else the simple chat contract's: ``{"code", "msg", "data": {"response"}}``
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from proxy.core.catalogue import Catalogue
from proxy.core.headers import field
from proxy.core.messages import BAD_REQUEST, FAILED, HEADERS_TOO_LARGE, SUCCESS, TIMEOUT_READING, Sentence
from proxy.core.reply import INVALID_REQUEST, Reply
from proxy.wire.gate import ALLOWED_METHODS, RequestError

JSON_TYPE = b"application/json; charset=utf-8"


def openai_error(reply: Reply, catalogue: Catalogue, language: str) -> bytes:
    """The body of an error below ``/v1``; only ``message`` is translated."""
    return dump({"error": error_object(reply, catalogue, language)})


def error_object(reply: Reply, catalogue: Catalogue, language: str) -> dict[str, object]:
    """OpenAI's error object: ``message``, ``type``, ``param``, ``code``."""
    message = catalogue.text(reply.sentences, language)
    return {"message": message, "type": reply.type, "param": reply.param, "code": reply.code}


def error_event(path: bytes, error: Mapping[str, object], sequence_number: int) -> bytes:
    """A whole server-sent event that tells of a failure within a stream, in the form that the path's streams have.

    In both forms the key ``error`` is what OpenAI's SDKs look for to raise their ``APIError``; at and below
    ``/responses`` the rest is the Responses API's own ``error`` event
    (https://platform.openai.com/docs/api-reference/responses-streaming).
    """
    if b"/responses/" not in path + b"/":
        return b"data: " + dump({"error": error}) + b"\n\n"
    event = {
        "type": "error",
        "sequence_number": sequence_number,
        "code": error.get("code"),
        "message": error.get("message"),
        "param": error.get("param"),
        "error": error,
    }
    return b"event: error\ndata: " + dump(event) + b"\n\n"


def chat_error(reply: Reply, catalogue: Catalogue, language: str) -> bytes:
    """The body of an error of the simple chat contract."""
    reason = catalogue.text(reply.sentences, language)
    failed = catalogue.text((Sentence(FAILED),), language)
    return dump({"code": reply.status, "msg": failed, "data": {"response": reason}})


def chat_answer(
    response: str,
    dialogue: list[dict[str, str]],
    finish_reason: str | None,
    catalogue: Catalogue,
    language: str,
) -> bytes:
    """The body of a successful answer of the simple chat contract; an empty one says why it is empty."""
    data = {"response": response}
    if not response and finish_reason:
        data["finish_reason"] = finish_reason
    success = catalogue.text((Sentence(SUCCESS),), language)
    return dump({"code": 200, "msg": success, "data": data, "current_response": response, "result": dialogue})


def dump(value: object) -> bytes:
    """Compact JSON in UTF-8. Lone surrogates, which JSON can carry and UTF-8 cannot, become question marks."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def refusal_of(error: RequestError) -> Reply:
    """What is answered to a request the wire refused."""
    if error.status == 408:
        return Reply.of(408, INVALID_REQUEST, "request_timeout", TIMEOUT_READING)
    if error.status == 431:
        return Reply.of(431, INVALID_REQUEST, "headers_too_large", HEADERS_TOO_LARGE)
    if error.status == 405:
        allow = field(b"Allow", ALLOWED_METHODS.encode("ascii"))
        return Reply.of(
            405, INVALID_REQUEST, "method_not_allowed", BAD_REQUEST, headers=(allow,), reason=error.reason
        )
    return Reply.of(error.status, INVALID_REQUEST, "bad_request", BAD_REQUEST, reason=error.reason)
