"""OpenAI's errors: ``{"error": {"message", "type", "param", "code"}}`` with their status and headers.

Types and codes follow https://platform.openai.com/docs/guides/error-codes and answers of the live service.
"""

from __future__ import annotations

import http.client
import json
import math
from typing import NamedTuple

INVALID = "invalid_request_error"


class ApiError(Exception):
    """An answer that is an error. ``headers`` are added to those every answer has."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers = headers

    def body(self) -> bytes:
        """The JSON body."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False, indent=2).encode()


class _Kind(NamedTuple):
    type: str
    code: str | None
    message: str


_KINDS = {
    400: _Kind(INVALID, None, "The request is invalid."),
    401: _Kind(INVALID, "invalid_api_key", "Incorrect API key provided."),
    403: _Kind("request_forbidden", "unsupported_country_region_territory", "Your region is not supported."),
    404: _Kind(INVALID, None, "Not found."),
    408: _Kind("timeout", None, "The request timed out."),
    409: _Kind(INVALID, "conflict", "The resource was changed by another request. Try again."),
    413: _Kind(INVALID, None, "The request body is too large."),
    422: _Kind(INVALID, None, "The request could not be processed."),
    429: _Kind("requests", "rate_limit_exceeded", "Rate limit reached on requests per minute (RPM)."),
    500: _Kind("server_error", None, "The server had an error while processing your request."),
    503: _Kind("service_unavailable_error", "server_is_overloaded", "Our servers are currently overloaded."),
}
_QUOTA = _Kind(
    "insufficient_quota",
    "insufficient_quota",
    "You exceeded your current quota, please check your plan and billing details.",
)


def of_status(status: int, code: str | None, retry_after_s: float | None) -> ApiError:
    """The error of a status; a ``code`` of its own replaces the usual one.

    429 and 503 carry ``x-should-retry``. A 429 that says to come back carries ``retry-after`` (whole seconds,
    RFC 9110 section 10.2.3) and ``retry-after-ms``, after one second unless told otherwise; so does any other
    status when told. An exhausted quota does not come back.
    """
    exhausted = status == 429 and code == _QUOTA.code
    kind = _QUOTA if exhausted else _KINDS.get(status) or _unlisted(status)
    headers: list[tuple[str, str]] = []
    if status == 429 and not exhausted and retry_after_s is None:
        retry_after_s = 1.0
    if retry_after_s is not None:
        headers.append(("retry-after", str(math.ceil(retry_after_s))))
        headers.append(("retry-after-ms", str(round(retry_after_s * 1000))))
    if status in (429, 503):
        headers.append(("x-should-retry", "false" if exhausted else "true"))
    return ApiError(status, kind.message, type=kind.type, code=code or kind.code, headers=tuple(headers))


def _unlisted(status: int) -> _Kind:
    reason = http.client.responses.get(status, "Error")
    return _Kind("server_error" if status >= 500 else INVALID, None, f"{reason}.")


def missing_key() -> ApiError:
    """401 without a code: what OpenAI answers when there is no Authorization header."""
    return ApiError(
        401,
        "You didn't provide an API key. You need to provide your API key in an Authorization header using "
        "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
    )


def wrong_key(key: str) -> ApiError:
    """401 ``invalid_api_key``; the message shows no more of the key than its ends."""
    shown = f"{key[:8]}{'*' * (len(key) - 12)}{key[-4:]}" if len(key) > 16 else f"{key[:3]}***{key[-2:]}"
    return ApiError(
        401,
        f"Incorrect API key provided: {shown}. "
        "You can find your API key at https://platform.openai.com/account/api-keys.",
        code="invalid_api_key",
    )


def unknown_model(model: str) -> ApiError:
    """404 ``model_not_found``."""
    return ApiError(
        404, f"The model `{model}` does not exist or you do not have access to it.", code="model_not_found"
    )


def unknown_url(method: str, path: str) -> ApiError:
    """404: there is no such path, or it does not take this method."""
    return ApiError(404, f"Invalid URL ({method} {path})")


def missing_parameter(name: str) -> ApiError:
    """400: a field that must be there is not."""
    return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")


def wrong_type(name: str, expected: str) -> ApiError:
    """400: a field has a value of another type."""
    return ApiError(400, f"Invalid type for '{name}': expected {expected}.", param=name, code="invalid_type")


def invalid_value(name: str, expected: str) -> ApiError:
    """400: a field has the right type and a value that cannot be."""
    return ApiError(400, f"Invalid value for '{name}': expected {expected}.", param=name, code="invalid_value")
