"""What is sent and what is answered: the bytes both ends of the bench agree on."""

from __future__ import annotations

import json

CLIENT_KEY = "sk-client"
SERVER_KEY = "sk-server"
"""The key that the upstream insists on: a gateway that forwards the client's is refused, and the run fails."""

JSON_TARGET = "/v1/chat/completions"
SSE_TARGET = "/v1/responses"
EVENTS_PER_STREAM = 200

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
"""The body of every request: about 350 bytes."""

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


def request(target: str, host: str) -> bytes:
    """One whole request, head and body."""
    fields = (("Host", host), *FIELDS, ("Content-Length", str(len(QUESTION))))
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + QUESTION
