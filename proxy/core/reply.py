"""Replies: answers of our own making, returned by a stage instead of going on."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.core.headers import Field
from proxy.core.messages import Message, Sentence

INVALID_REQUEST = "invalid_request_error"
PERMISSION = "permission_error"
RATE_LIMIT = "rate_limit_error"
SERVER_ERROR = "server_error"


@dataclass(frozen=True, slots=True)
class Reply:
    """A local answer, still without language and envelope.

    ``type``, ``code`` and ``param`` are OpenAI's (https://platform.openai.com/docs/guides/error-codes) and are
    never translated; ``sentences`` are. ``headers`` are added to the answer.
    """

    status: int
    type: str
    code: str | None
    sentences: tuple[Sentence, ...]
    param: str | None = None
    headers: tuple[Field, ...] = ()

    @classmethod
    def of(
        cls,
        status: int,
        type: str,
        code: str | None,
        message: Message,
        /,
        *,
        param: str | None = None,
        headers: tuple[Field, ...] = (),
        **params: object,
    ) -> Reply:
        """A reply of one sentence."""
        return cls(status, type, code, (Sentence(message, params),), param, headers)


def invalid_request(message: Message, /, *, param: str | None = None, **params: object) -> Reply:
    """400: the request itself is wrong; repeating it cannot help."""
    return Reply(400, INVALID_REQUEST, "invalid_request", (Sentence(message, params),), param)
