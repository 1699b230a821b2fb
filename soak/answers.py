"""What the upstream of the figures says: every answer names the request it answers, and ends in a mark of its own.

So a client can tell a whole answer from one that only looks whole, and its own from somebody else's.
"""

from __future__ import annotations

import json
import re

FRAMINGS = ("length", "chunked", "close")
"""How a body is framed: RFC 9112 section 6.3, rules 6, 4 and 8."""
MARK = b"[DONE]"
"""In the last payload of every whole answer; in a stream it is OpenAI's terminal event."""
NONCE = re.compile(rb"n[0-9a-f]{8}-[0-9]{7}")

INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def answer(nonce: str, status: bytes = b"200 OK", more: bytes = b"") -> bytes:
    """A small JSON answer; ``more`` is header lines."""
    body = json.dumps({"nonce": nonce, "end": MARK.decode()}).encode()
    lines = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n"
    return lines % (status, more, len(body)) + body


def completion(nonce: str) -> bytes:
    """A chat completion, for the chat route."""
    message = {"role": "assistant", "content": f"{nonce} {MARK.decode()}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = json.dumps({"id": nonce, "object": "chat.completion", "choices": [choice]}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def events(nonce: str, count: int) -> list[bytes]:
    """The events of a stream, its terminal event included."""
    return [
        *(b'data: {"id":"%b","n":%d}\n\n' % (nonce.encode(), n) for n in range(count)),
        b"data: " + MARK + b"\n\n",
    ]


def stream(nonce: str, framing: str, count: int = 6) -> list[bytes]:
    """A stream of ``count`` events in one framing: the head, then each event, then what ends the framing."""
    payload = events(nonce, count)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    if framing == "length":
        return [head + b"Content-Length: %d\r\n\r\n" % sum(map(len, payload)), *payload]
    if framing == "chunked":
        chunks = [b"%x\r\n%b\r\n" % (len(event), event) for event in payload]
        return [head + b"Transfer-Encoding: chunked\r\n\r\n", *chunks, b"0\r\n\r\n"]
    return [head + b"Connection: close\r\n\r\n", *payload]
