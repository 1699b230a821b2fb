"""Server-sent events: what `EventWatch` says of a stream, however it is cut.

The oracle follows the HTML standard, section 9.2, over the whole stream at once. ``sequence_number`` is left out of
the comparison of cuts: of a line that comes in several pieces only its beginning is remembered.
"""

from __future__ import annotations

import re

from fuzz.target import Target, require
from fuzz.targets.mock import cuts
from proxy.core.headers import Headers, field
from proxy.core.sse import EventWatch, is_event_stream, promises_terminal_event

_LINE = re.compile(rb"([^\r\n]*)(\r\n|\r|\n)")
_TERMINAL_NAMES = (b"response.completed", b"response.failed", b"response.incomplete")


def _lines(stream: bytes) -> tuple[list[bytes], bytes]:
    """(the whole lines of a stream, what stands behind the last of them)"""
    lines: list[bytes] = []
    end = 0
    for match in _LINE.finditer(stream):
        lines.append(match[1])
        end = match.end()
    return lines, stream[end:]


def _value(line: bytes, name: bytes) -> bytes | None:
    """The value of a line of this field."""
    field, colon, value = line.partition(b":")
    return value.removeprefix(b" ") if field == name and colon else None


def _must_be_terminal(lines: list[bytes]) -> bool:
    """Whether a terminal event is beyond doubt: one that is written as OpenAI writes it."""
    named = any(_value(line, b"event") in _TERMINAL_NAMES for line in lines)
    return named or any(_value(line, b"data") == b"[DONE]" for line in lines)


def _may_be_terminal(lines: list[bytes]) -> bool:
    """Whether any line could be taken for one."""
    hints = (b"[DONE]", b"error", b"response.", b"done", b"completed")
    return any(hint in line for line in lines for hint in hints)


def try_sse(data: bytes) -> None:
    """Feed it in three ways; see the module's docstring."""
    lines, rest = _lines(data)
    between = not rest and (not lines or not lines[-1])
    for segments in cuts(data):
        watch = EventWatch()
        for segment in segments:
            watch.feed(segment)
        require(watch.is_between_events == between, "the place between two events", (between, segments))
        if _must_be_terminal(lines):
            require(watch.is_terminated, "a terminal event was missed", segments)
        if watch.is_terminated:
            require(_may_be_terminal(lines), "a stream is called whole without a terminal event", segments)
        require(watch.sequence_number >= -1, "a sequence number below its start", watch.sequence_number)
    _try_values(data)


def _try_values(data: bytes) -> None:
    """What is said of header values and paths."""
    first = data.split(b"\n", 1)[0]
    headers = Headers([field(b"Content-Type", first.strip())])
    if is_event_stream(headers):
        require(first.lower().lstrip().startswith(b"text/event-stream"), "taken for a stream of events", first)
    headers.add(b"Content-Encoding", b"gzip")
    require(not is_event_stream(headers), "events that cannot be read are watched")
    require(promises_terminal_event(b"/v1/responses"), "a path whose streams have a terminal event")
    require(not promises_terminal_event(b"/v1/files/" + first + b"/"), "a path without a terminal event")


WORDS = (
    b"data: [DONE]\n\n", b"data: [DONE]", b"data:[DONE]\r\n\r\n", b"event: response.completed\n",
    b"event:response.failed\r", b'data: {"type":"response.completed","sequence_number":7}\n\n',
    b'data: {"error":{"message":"x"}}\n\n', b'data: {"id":"c","choices":[]}\n\n', b'"sequence_number":',
    b'event: image_edit.completed\n', b'data: {"type":"transcript.text.done"', b'data: {"type": "speech.audio.done"',
    b": keep-alive\n\n", b"id: 1\n", b"retry: 10\n", b"\xef\xbb\xbf", b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\0",
    b"\x85", b"\xe2\x80\xa8", b"data", b"event", b":", b"text/event-stream", b"text/event-stream; charset=utf-8",
    b'data: {"type":"error"', b"data: {", b"x" * 100,
)  # fmt: skip

TARGET = Target("sse", "server-sent events and their terminal one", try_sse, WORDS)
