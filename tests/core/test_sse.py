"""Streams of events: where an event ends, and whether the stream has had its last one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import sse
from proxy.core.headers import Headers
from proxy.core.sse import EventWatch, is_event_stream, promises_terminal_event

DELTA = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"[DONE] is just text"}}]}\n\n'
RESPONSES_DELTA = (
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","sequence_number":4}\n\n'
)
TERMINAL = [
    b"data: [DONE]\n\n",
    b"data:[DONE]\n\n",
    b"data: [DONE]\r\n\r\n",
    b"data: [DONE]\r\r",
    b'event: response.completed\ndata: {"type":"response.completed","sequence_number":9}\n\n',
    b'event: response.failed\ndata: {"type":"response.failed"}\n\n',
    b"event: response.incomplete\ndata: {}\n\n",
    b'data: {"type":"response.completed","response":{}}\n\n',
    b'event: error\ndata: {"type":"error","message":"m"}\n\n',
    b'data: {"error":{"message":"m"}}\n\n',
    b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"AA=="}\n\n',
    b'event: image_edit.completed\ndata: {"b64_json":"AA==","type":"image_edit.completed"}\n\n',
    b'data: {"type":"transcript.text.done","text":"x"}\n\n',
    b'data: {"type": "transcript.text.done", "text": "x"}\n\n',
    b'data: {"type":"speech.audio.done","usage":{}}\n\n',
    b'data: {"type":"response.cancelled"}\n\n',
]
ORDINARY = [
    DELTA,
    RESPONSES_DELTA,
    b": a comment\n\n",
    b'data: {"choices":[{"delta":{"content":"event: response.completed"}}]}\n\n',
    b'data: {"a":"\\"error\\":"}\n\n',
    b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image","b64_json":"AA=="}\n\n',
    b'data: {"type":"transcript.text.delta","delta":"speech.audio.done"}\n\n',
    b'data: {"type":"transcript.text.done.not"}\n\n',
    b"data: not [DONE]\n\n",
    b"id: 1\nretry: 5\ndata: x\n\n",
    b"event: response.completed.not\ndata: x\n\n",
    b"data: " + b"x" * 300 + b"[DONE]\n\n",
    b"x" * 120 + b"data: [DONE]\n\n",
]


def watched(*pieces: bytes) -> EventWatch:
    watch = EventWatch()
    for piece in pieces:
        watch.feed(piece)
    return watch


def cuts(data: bytes) -> list[list[bytes]]:
    """The data whole, byte by byte, and in every pair of halves."""
    return [
        [data],
        [data[n : n + 1] for n in range(len(data))],
        *([data[:n], data[n:]] for n in range(1, len(data))),
    ]


@pytest.mark.parametrize("last", TERMINAL)
def test_a_terminal_event_is_seen_however_it_is_cut(last: bytes) -> None:
    for pieces in cuts(DELTA + RESPONSES_DELTA + last):
        watch = watched(*pieces)
        assert (watch.is_terminated, watch.is_between_events) == (True, True), pieces


@pytest.mark.parametrize("blank", [b"", b" "])
@pytest.mark.parametrize("name", sse._TERMINAL_TYPES)
def test_a_terminal_type_is_seen_without_a_line_of_its_own(name: bytes, blank: bytes) -> None:
    event = b'data: {"type":%b"%b","sequence_number":5}\n\n' % (blank, name)
    for pieces in cuts(DELTA + event):
        assert watched(*pieces).is_terminated, pieces


@pytest.mark.parametrize("event", ORDINARY)
def test_an_ordinary_event_ends_no_stream_however_it_is_cut(event: bytes) -> None:
    for pieces in cuts(event + event):
        watch = watched(*pieces)
        assert (watch.is_terminated, watch.is_between_events) == (False, True), pieces


@pytest.mark.parametrize(
    "event", [DELTA, RESPONSES_DELTA, DELTA.replace(b"\n", b"\r\n"), DELTA.replace(b"\n", b"\r")]
)
def test_within_an_event_there_is_no_room(event: bytes) -> None:
    blank = len(event.rstrip(b"\r\n"))
    for length in range(1, blank + 1):
        assert not watched(DELTA, event[:length]).is_between_events, event[:length]
    assert watched(DELTA, event).is_between_events


def test_a_new_stream_has_room() -> None:
    assert EventWatch().is_between_events


def test_the_last_sequence_number_is_known() -> None:
    assert EventWatch().sequence_number == -1
    assert watched(RESPONSES_DELTA).sequence_number == 4
    assert watched(RESPONSES_DELTA, RESPONSES_DELTA.replace(b"4}", b"51,")).sequence_number == 51
    assert watched(RESPONSES_DELTA.replace(b"4}", b"x}")).sequence_number == -1


def test_a_long_line_costs_no_memory() -> None:
    watch = watched(*[b"data: " + b"x" * 10_000] * 100)
    assert len(watch._line) <= 96


def oracle(data: bytes) -> tuple[bool, bool]:
    """(terminated, between events), by reading everything at once."""
    lines = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    rest = lines.pop()
    values = [line.partition(b":")[::2] for line in lines]
    terminated = any(
        (name == b"data" and value.removeprefix(b" ").startswith((b"[DONE]", b'{"error":')))
        or (name == b"event" and value.removeprefix(b" ") in (b"error", b"response.completed"))
        for name, value in values
    )
    return terminated, not rest and (not lines or lines[-1] == b"")


FRAGMENTS = st.sampled_from(
    [
        *(b"data: ", b"event: ", b"[DONE]", b'{"error":', b"error", b"response.completed", b"x", b":", b" "),
        *(b"\n", b"\n\n", b"\r\n", b"\r", b'data: {"id":1}\n\n', b'data: {"a":1}'),
    ]
)


@given(st.lists(st.lists(FRAGMENTS, max_size=4).map(b"".join), max_size=8))
def test_pieces_are_read_as_the_whole_would_be(pieces: list[bytes]) -> None:
    watch = watched(*pieces)
    assert (watch.is_terminated, watch.is_between_events) == oracle(b"".join(pieces))


@pytest.mark.parametrize(
    ("content_type", "encoding", "expected"),
    [
        ("text/event-stream", None, True),
        ("Text/Event-Stream; charset=utf-8", None, True),
        ("text/event-stream", "identity", True),
        ("text/event-stream", "gzip", False),
        ("text/event-streams", None, False),
        ("application/json", None, False),
        (None, None, False),
    ],
)
def test_what_is_a_stream_of_events(content_type: str | None, encoding: str | None, expected: bool) -> None:
    pairs = [("Content-Type", content_type), ("Content-Encoding", encoding)]
    headers = Headers.from_pairs((name, value) for name, value in pairs if value is not None)
    assert is_event_stream(headers) is expected


def test_which_paths_promise_a_terminal_event() -> None:
    assert promises_terminal_event(b"/v1/chat/completions")
    assert promises_terminal_event(b"/v1/responses")
    assert not promises_terminal_event(b"/v1/audio/speech")


TERMINAL_AFTER_USUAL = [
    b"data: [DONE]\n\n",
    b'data: {"error":{"message":"no"}}\n\n',
    b'data: {"type":"response.completed","response":{}}\n\n',
    b'data: {"type": "error"}\n\n',
    b'event: response.failed\ndata: {"a":1}\n\n',
    b'data: {"id":"chatcmpl-1","choices":[]}\n\ndata: [DONE]\n\n',
    b'data: {"id":"chatcmpl-1","choices":[]}\r\rdata: [DONE]\n\n',
    b'data: {"type":"response.output_text.delta","delta":"a"}\ndata: x\n\nevent: error\n\n',
    b'data: {"type":"response.output_text.delta","delta":"a"}\revent: error\n\n',
]


@pytest.mark.parametrize(
    "usual",
    [
        b'data: {"type":"response.output_text.delta","delta":"a"}\n\n',
        b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"a"}\n\n',
        b'data: {"id":"chatcmpl-1","choices":[]}\n\n',
        b'data: {"a,b":1}\n\n',
        b'data: {"type":"res,x":1}\n\n',
        b'data: {"":"x","y":1}\n\n',
        b'data: {"a":5,"b":1}\n\n',
        b'data: {",ype": "error"}\n\n',
        b'data: {"type":",x","y":1}\n\n',
    ],
)
@pytest.mark.parametrize("terminal", TERMINAL_AFTER_USUAL)
def test_what_is_usual_hides_no_terminal_event(usual: bytes, terminal: bytes) -> None:
    watch = EventWatch()
    for _ in range(3):
        watch.feed(usual)
        assert (watch.is_terminated, watch.is_between_events) == (False, True)
    watch.feed(usual[:-1])
    assert not watch.is_between_events
    watch.feed(b"\n")
    watch.feed(terminal)
    assert watch.is_terminated
