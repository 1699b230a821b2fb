"""What is sent and what is answered: the bytes both ends of the bench agree on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

CLIENT_KEY = "sk-client"
SERVER_KEY = "sk-server"
"""The key that the upstream insists on: a gateway that forwards the client's is refused, and the run fails."""

JSON_TARGET = "/v1/chat/completions"
SSE_TARGET = "/v1/responses"
UPLOAD_TARGET = "/v1/files"
EVENTS_PER_STREAM = 200
FILE_BYTES = 2**20
"""The size of every uploaded file."""

FIELDS = (
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Authorization", f"Bearer {CLIENT_KEY}"),
    ("Connection", "keep-alive"),
    ("Content-Type", "application/json"),
    ("User-Agent", "OpenAI/Python 3.54.0"),
    ("X-Stainless-Arch", "x64"),
    ("X-Stainless-Lang", "python"),
    ("X-Stainless-OS", "Linux"),
    ("X-Stainless-Package-Version", "3.54.0"),
    ("X-Stainless-Runtime", "CPython"),
    ("X-Stainless-Runtime-Version", "3.11.7"),
)
"""Fields the OpenAI SDK for Python sends with every call, besides Host and Content-Length."""

_PROMPT = (
    "A sluice is a gate that regulates the flow of water in a channel. Explain in two sentences how one "
    "is operated, and what happens to the fields behind it when it stays open for too long in a wet spring."
)
QUESTION = json.dumps(
    {
        "model": "gpt-4.1-mini",
        "messages": [
            {"role": "system", "content": "You answer briefly and politely."},
            {"role": "user", "content": _PROMPT},
        ],
        "max_tokens": 100,
    },
    separators=(",", ":"),
).encode()
"""The body of every request for a plain answer: about 350 bytes."""

STREAM_QUESTION = json.dumps(
    {
        "model": "gpt-4.1-mini",
        "instructions": "You answer briefly and politely.",
        "input": _PROMPT,
        "max_output_tokens": 100,
        "store": False,
        "stream": True,
    },
    separators=(",", ":"),
).encode()
"""The body of every request for a stream: about 350 bytes."""

_BOUNDARY = "0123456789abcdef0123456789abcdef"
_LINE = b"The fields behind a sluice stay dry as long as somebody looks after the gate.\n"
UPLOAD = (
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="fields.txt"\r\n'
    "Content-Type: text/plain\r\n\r\n"
).encode() + b"%b\r\n--%b--\r\n" % ((_LINE * (FILE_BYTES // len(_LINE) + 1))[:FILE_BYTES], _BOUNDARY.encode())
"""The body of every upload: a form (RFC 7578) with a file of 1 MiB, as the SDK sends it."""

ANSWER = json.dumps(
    {
        "id": "chatcmpl-0000000000000000000000000000",
        "object": "chat.completion",
        "created": 1_780_000_000,
        "model": "gpt-4.1-mini",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "It is raised and lowered by a windlass. The fields behind it would be flooded.",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 61, "completion_tokens": 17, "total_tokens": 78},
    },
    separators=(",", ":"),
).encode()
"""The body of every plain answer: about 390 bytes."""

FILE_ANSWER = json.dumps(
    {
        "id": "file-000000000000000000000000",
        "object": "file",
        "bytes": FILE_BYTES,
        "created_at": 1_780_000_000,
        "filename": "fields.txt",
        "purpose": "user_data",
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    },
    separators=(",", ":"),
).encode()
"""The body of the answer to every upload."""

_DELTA = {
    "type": "response.output_text.delta",
    "item_id": "msg_00000000000000000000000000000000000000000000000000",
    "output_index": 0,
    "content_index": 0,
    "delta": " flooded",
    "logprobs": [],
    "obfuscation": "",
}
EVENT = b"event: response.output_text.delta\ndata: " + json.dumps(_DELTA, separators=(",", ":")).encode() + b"\n\n"
"""One event of every streamed answer: about 230 bytes."""

_COMPLETED = {
    "type": "response.completed",
    "sequence_number": EVENTS_PER_STREAM,
    "response": {
        "id": "resp_00000000000000000000000000000000000000000000000000",
        "object": "response",
        "created_at": 1_780_000_000,
        "status": "completed",
        "model": "gpt-4.1-mini",
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": 61,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 199,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 260,
        },
    },
}
LAST_EVENT = b"event: response.completed\ndata: " + json.dumps(_COMPLETED, separators=(",", ":")).encode() + b"\n\n"
"""The last one: a gateway that reads streams takes one without it for broken."""


_BODIES = {
    SSE_TARGET: ("application/json", STREAM_QUESTION),
    UPLOAD_TARGET: (f"multipart/form-data; boundary={_BOUNDARY}", UPLOAD),
}


def request(target: str, host: str, fields: Mapping[str, str] | None = None) -> bytes:
    """One whole request, head and body, with further ``fields`` if the gateway wants some."""
    content_type, body = _BODIES.get(target, ("application/json", QUESTION))
    sent = {"Host": host, **dict(FIELDS), **(fields or {}), "Content-Type": content_type}
    sent["Content-Length"] = str(len(body))
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def says_the_same(body: bytes, expected: bytes) -> bool:
    """Whether an answer that a gateway wrote anew says what the upstream's did: the same text, or the same file."""
    try:
        return _essence(json.loads(body)) == _essence(json.loads(expected))
    except (ValueError, TypeError, LookupError):
        return False


def _essence(answer: dict[str, Any]) -> object:
    if answer["object"] == "file":
        return answer["bytes"], answer["filename"]
    return answer["choices"][0]["message"]["content"], answer["usage"]["total_tokens"]
