"""The bytes that go through the gateway. Changing one changes what is counted: record the baseline again then."""

from __future__ import annotations

import json

LIMITED = "127.0.0.2"
"""The client that has one request an hour. Any other has ten thousand."""
SERVER_KEY = "sk-of-the-guard"

_FIELDS = (
    ("Host", "gateway.test:5000"),
    ("Accept", "application/json"),
    ("Accept-Encoding", "gzip, deflate"),
    ("Authorization", "Bearer sk-of-a-client"),
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
"""What the OpenAI SDK for Python sends with every call, besides Content-Length."""


def request_head(target: str, length: int, *fields: tuple[str, str]) -> bytes:
    """The head of a request whose body has ``length`` bytes, with more fields if need be."""
    lines = [f"{name}: {value}" for name, value in (*_FIELDS, *fields, ("Content-Length", str(length)))]
    return "\r\n".join([f"POST {target} HTTP/1.1", *lines, "", ""]).encode()


def answer_head(*fields: str) -> bytes:
    """The head of an upstream's answer."""
    lines = ["HTTP/1.1 200 OK", *fields, "x-request-id: req_0123456789abcdef", "openai-processing-ms: 1"]
    return "\r\n".join([*lines, "", ""]).encode()


def configuration(upstream_port: int, access_log: str) -> dict[str, object]:
    """A gateway with everything on: the allowlist, three limits in the shared table, the key, the access log."""
    return {
        "version": 1,
        "listen": {"host": "127.0.0.1", "port": 0},
        "chain": ["ip_allowlist", "limit", "key", "upstream"],
        "limits": {"store": "shared", "max_bytes": 16 << 20},
        "stages": {
            "ip_allowlist": {"allow": ["127.0.0.0/8", "10.0.0.0/8"]},
            "limit": {
                "by": "client_ip",
                "second": 10_000,
                "minute": 10_000,
                "hour": 10_000,
                "overrides": {LIMITED: {"hour": 1}},
            },
            "key": {"server_keys": [SERVER_KEY], "prefer": "server"},
            "upstream": {"base_url": f"http://127.0.0.1:{upstream_port}/v1"},
        },
        "access_log": {"path": access_log},
        "drain": {"delay_s": 0, "timeout_s": 1},
    }


_PROMPT = (
    "A sluice is a gate that regulates the flow of water in a channel. Explain in two sentences how one "
    "is operated, and what happens to the fields behind it when it stays open for too long in a wet spring."
)
QUESTION = json.dumps(
    {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": _PROMPT}], "max_tokens": 100}
).encode()
ANSWER = json.dumps(
    {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion",
        "created": 1_780_000_000,
        "model": "gpt-4.1-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "It is raised and lowered by a windlass." * 4},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 61, "completion_tokens": 17, "total_tokens": 78},
    }
).encode()
_CHAT = "/v1/chat/completions"
ASK = request_head(_CHAT, len(QUESTION)) + QUESTION
REPLY = answer_head("Content-Type: application/json", f"Content-Length: {len(ANSWER)}") + ANSWER


def ask_traced(number: int) -> bytes:
    """`ASK` with a line that only this number has, of the same length for all: a client's ``traceparent``."""
    trace = ("traceparent", f"00-{number:032x}-{number:016x}-01")
    return request_head(_CHAT, len(QUESTION), trace) + QUESTION


_EVENT = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","item_id":"msg_0123456789abcdef","output_index":0,'
    b'"content_index":0,"delta":" flooded","logprobs":[],"obfuscation":"abcdefgh"}\n\n'
)
ASK_STREAM = request_head("/v1/responses", len(QUESTION)) + QUESTION
STREAM_HEAD = answer_head("Content-Type: text/event-stream; charset=utf-8", "Transfer-Encoding: chunked")
CHUNK = b"%x\r\n%b\r\n" % (len(_EVENT), _EVENT)
LAST_CHUNK = b"0\r\n\r\n"

PIECE = bytes(32_768)
"""What is uploaded at a time: on loopback one segment, which is there as a whole or not at all."""
PIECES = 32
UPLOAD_HEAD = request_head("/v1/files", len(PIECE) * PIECES)
