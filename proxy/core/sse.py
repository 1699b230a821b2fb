"""Server-sent events as far as a gateway must know them: where an event ends, and whether the stream said its last.

A streamed answer is complete only when its terminal event was seen: ``[DONE]`` on the chat route, one of
``response.completed``, ``response.failed`` and ``response.incomplete`` on the Responses route; images, transcripts
and speech each have one of their own. The end of the bytes alone says nothing (a body without length ends just so
when its server crashes).

Source: the HTML standard, section 9.2 (lines end with CR, LF or CRLF; a blank line ends an event).
"""

from __future__ import annotations

import re

from proxy.core.headers import Headers

_PROMISING_PATHS = ("/chat/completions", "/completions", "/responses")
_TERMINAL_TYPES = (
    b"response.completed",
    b"response.failed",
    b"response.incomplete",
    b"response.cancelled",
    b"image_generation.completed",
    b"image_edit.completed",
    b"transcript.text.done",
    b"speech.audio.done",
    b"error",
)
"""https://platform.openai.com/docs/api-reference, under Streaming of Responses, Images and Audio."""
_TERMINAL_EVENTS = frozenset({*_TERMINAL_TYPES, b"done"})
_TERMINAL_DATA = (
    b"[DONE]",
    b'{"error":',
    # Not every stream names its events in a line of their own, and not every writer of JSON leaves out the blank.
    *(b'{"type":%b"%b"' % (blank, name) for name in _TERMINAL_TYPES for blank in (b"", b" ")),
)
_KEPT = 96
"""Bytes of an unfinished line that are remembered: enough for every line that could be terminal."""
_NOT_TERMINAL = (
    rb'(?!error"|type": ?"(?:response\.(?:completed|failed|incomplete|cancelled)|'
    rb"image_|transcript\.text\.done|speech\.audio\.done|error))"
)
_ORDINARY = re.compile(
    rb'(?:(?:event: response\.[a-z_]+\.[a-z_.]+\n)?data: \{"%b[^\r\n]*\n\n)+\Z' % _NOT_TERMINAL
).match
"""What nearly every piece is: whole events of the usual forms, none of them terminal.

The types are written out once more because what they have in common need then be looked at only once.
"""
_BEGINNING = re.compile(rb'(?:event: [a-z_.]+\n)?data: \{"[^",\\]+": ?"[^",\\]*"').fullmatch
"""An event up to its first value, which is a whole one."""
_NUMBER = re.compile(rb'"sequence_number": ?([0-9]{1,12})')


def is_event_stream(headers: Headers) -> bool:
    """Whether an answer with these headers is a stream of events that can be read as it stands."""
    content_type = headers.get(b"content-type")
    if content_type is None or content_type[:17].lower() != b"text/event-stream":
        return False
    return content_type[17:18] in (b"", b";", b" ") and headers.get(b"content-encoding") in (None, b"identity")


def promises_terminal_event(path: bytes) -> bool:
    """Whether streams of this path always end with a terminal event, so that one without it was cut."""
    return path.decode("latin-1").endswith(_PROMISING_PATHS)


class EventWatch:
    """Follows the payload of one event stream, at the cost of a look at each piece.

    ``is_between_events``: a blank line was the last thing seen, or nothing yet. ``is_terminated``: the stream has
    had its terminal event.
    ``is_between_chunks`` is the wire's: whether the framing, too, would allow something in between here.
    """

    __slots__ = (
        "_last",
        "_line",
        "_line_is_long",
        "_skips_line_feed",
        "_usual",
        "is_between_chunks",
        "is_between_events",
        "is_terminated",
    )

    def __init__(self) -> None:
        self.is_between_chunks = True
        self.is_between_events = True
        self.is_terminated = False
        self._last = b""  # the last events, or the last line of data
        self._line = b""  # the beginning of a line whose end has not come yet
        self._line_is_long = False
        self._skips_line_feed = False
        self._usual = b""  # how the last single event of the usual forms began

    def feed(self, payload: bytes) -> None:
        """Look at the next piece of the payload, without its chunk framing."""
        if self.is_between_events:
            usual = self._usual
            # Looked for by find: "in" tries a number first, and costs four times as much.
            if (
                payload.startswith(usual)
                and payload.find(b"\n", len(usual)) == len(payload) - 2
                and payload.endswith(b"\n")
                and payload.find(b"\r") < 0
                and usual
            ) or self._is_ordinary(payload):
                self._last = payload
                return
        if payload:
            self._feed_lines(payload)

    def _is_ordinary(self, payload: bytes) -> bool:
        """Whether these are whole events of the usual forms; how a single one begins is what is usual from now on."""
        if _ORDINARY(payload) is None:
            return False
        usual, comma, _ = payload.partition(b",")
        # As far as its first value, and all of that: an event that begins so is no other kind of event.
        self._usual = usual if comma and _BEGINNING(usual) else b""
        return True

    def _feed_lines(self, payload: bytes) -> None:
        if self._skips_line_feed and payload.startswith(b"\n"):
            payload = payload[1:]
        self._skips_line_feed = payload.endswith(b"\r")
        for line in payload.splitlines(keepends=True):
            text = line.rstrip(b"\r\n")
            if len(text) == len(line):
                self._keep(text)
            elif not text and not self._line:
                self.is_between_events = True
            else:
                self.is_between_events = False
                self._judge(self._line + text if not self._line_is_long else self._line)
                self._line = b""
                self._line_is_long = False

    def _keep(self, text: bytes) -> None:
        """Remember the beginning of an unfinished line."""
        self.is_between_events = False
        if not self._line_is_long:
            self._line += text[: _KEPT - len(self._line)] if len(text) > _KEPT - len(self._line) else text
            self._line_is_long = len(self._line) >= _KEPT

    def _judge(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            if value in _TERMINAL_EVENTS:
                self.is_terminated = True
        elif name == b"data":
            if value.startswith(_TERMINAL_DATA):
                self.is_terminated = True
            self._last = value

    @property
    def sequence_number(self) -> int:
        """The number of the last event that had one, as those of the Responses API do; -1 if it had none."""
        numbers = _NUMBER.findall(self._last)
        return int(numbers[-1]) if numbers else -1
