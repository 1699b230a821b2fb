"""Where a body ends: every reader, however its bytes are cut, with bytes of the next message behind it."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.framing import (
    MAX_LINE,
    BodyReader,
    ChunkedReader,
    CloseReader,
    Framing,
    FramingError,
    LengthReader,
    reader_for,
)

BEHIND = b"GET /next HTTP/1.1\r\n\r\n"
PAYLOAD = b"Hello, \r\n0\r\n\r\n world"  # holds what looks like an end
CHUNKED = b'7\r\nHello, \r\nB\r\n\r\n0\r\n\r\n wor\r\n002;name="v"\r\nld\r\n0\r\n\r\n'
TRAILED = b"1 ; a=b\r\nx\r\n0;last\r\nX-Sum: 1\r\nAuthorization: Bearer forged\r\n\r\n"


def segments_of(data: bytes, cuts: list[int]) -> list[bytes]:
    """The data cut at these offsets; empty segments never come from a socket."""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


def read_all(reader: BodyReader, segments: list[bytes]) -> tuple[bytes, int, bytes]:
    """(payload, total offset behind the end or -1, what was not read)."""
    pieces: list[bytes] = []
    seen = 0
    for index, segment in enumerate(segments):
        end = reader.read(segment, pieces)
        if end >= 0:
            assert 0 <= end <= len(segment)
            return b"".join(pieces), seen + end, segment[end:] + b"".join(segments[index + 1 :])
        seen += len(segment)
    return b"".join(pieces), -1, b""


def bodies() -> list[tuple[BodyReader, bytes, bytes]]:
    """(a fresh reader, its body on the wire, its payload)."""
    return [
        (LengthReader(len(PAYLOAD)), PAYLOAD, PAYLOAD),
        (LengthReader(1), b"x", b"x"),
        (ChunkedReader(), CHUNKED, PAYLOAD),
        (ChunkedReader(), b"0\r\n\r\n", b""),
        (ChunkedReader(), b"000000000000000\r\n\r\n", b""),
        (ChunkedReader(), TRAILED, b"x"),
    ]


KINDS = range(len(bodies()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("behind", [b"", b"\r\n", BEHIND])
def test_whole(kind: int, behind: bytes) -> None:
    reader, body, payload = bodies()[kind]
    assert read_all(reader, [body + behind]) == (payload, len(body), behind)


@pytest.mark.parametrize("kind", KINDS)
def test_one_byte_at_a_time(kind: int) -> None:
    reader, body, payload = bodies()[kind]
    data = body + BEHIND
    assert read_all(reader, [data[i : i + 1] for i in range(len(data))]) == (payload, len(body), BEHIND)


@pytest.mark.parametrize("kind", KINDS)
def test_every_split_in_two_and_every_missing_end(kind: int) -> None:
    _, body, payload = bodies()[kind]
    data = body + BEHIND
    for cut in range(1, len(data)):
        reader = bodies()[kind][0]
        assert read_all(reader, [data[:cut], data[cut:]]) == (payload, len(body), BEHIND), cut
    for cut in range(len(body)):
        assert bodies()[kind][0].read(body[:cut], None) == -1, cut


@pytest.mark.parametrize("kind", KINDS)
def test_without_pieces_nothing_is_copied_and_the_end_is_the_same(kind: int) -> None:
    reader, body, _ = bodies()[kind]
    assert reader.read(body + BEHIND, None) == len(body)


def test_a_whole_segment_within_the_length_is_handed_over_as_it_is() -> None:
    segment = bytes(100)
    pieces: list[bytes] = []
    reader = LengthReader(200)
    assert reader.read(segment, pieces) == -1
    assert reader.read(segment, pieces) == 100
    assert all(piece is segment for piece in pieces)


def test_a_close_delimited_body_never_ends_by_its_bytes() -> None:
    reader = CloseReader()
    pieces: list[bytes] = []
    assert [reader.read(data, pieces) for data in (CHUNKED, b"0\r\n\r\n", BEHIND)] == [-1, -1, -1]
    assert b"".join(pieces) == CHUNKED + b"0\r\n\r\n" + BEHIND
    assert reader.read(b"x", None) == -1


def test_the_reader_follows_the_framing() -> None:
    assert reader_for(Framing.NONE, 0) is None
    assert reader_for(Framing.LENGTH, 0) is None
    length = reader_for(Framing.LENGTH, 5)
    assert isinstance(length, LengthReader)
    assert length.remaining == 5
    assert isinstance(reader_for(Framing.CHUNKED, 0), ChunkedReader)
    assert isinstance(reader_for(Framing.CLOSE, 0), CloseReader)


MALFORMED = [
    # sizes
    b"\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"g\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\t\r\nhello\r\n0\r\n\r\n",
    b"5,5\r\nhello\r\n0\r\n\r\n",
    b"5 5\r\nhello\r\n0\r\n\r\n",
    b"5.0\r\nhello\r\n0\r\n\r\n",
    b"\xb2\r\nab\r\n0\r\n\r\n",
    b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    b"FFFFFFFFFFFFFFFF1\r\nhello\r\n0\r\n\r\n",
    b";x\r\nhello\r\n0\r\n\r\n",
    # line ends
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\r\rhello\r\n0\r\n\r\n",
    b"5\n\rhello\r\n0\r\n\r\n",
    b"5\x0b\r\nhello\r\n0\r\n\r\n",
    b"5\x00\r\nhello\r\n0\r\n\r\n",
    # extensions
    b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    b"5;a\x7fb\r\nhello\r\n0\r\n\r\n",
    b"5;\r\nhello\r\n0\r\n\r\n",
    b"5; \r\nhello\r\n0\r\n\r\n",
    b"5;;a\r\nhello\r\n0\r\n\r\n",
    b"5;=b\r\nhello\r\n0\r\n\r\n",
    b"5;a=\r\nhello\r\n0\r\n\r\n",
    b"5;a b\r\nhello\r\n0\r\n\r\n",
    b"5;a \r\nhello\r\n0\r\n\r\n",
    b'5;a="b\r\nhello\r\n0\r\n\r\n',
    b'5;a=b"c"\r\nhello\r\n0\r\n\r\n',
    b'5;a="\\\r\nhello"\r\n0\r\n\r\n',
    # the end of a chunk
    b"5\r\nhelloX\r\n0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"5\r\nhello\n\r0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello, world\r\n0\r\n\r\n",
    # trailers
    b"0\r\nno colon\r\n\r\n",
    b"0\r\nX : y\r\n\r\n",
    b"0\r\n: y\r\n\r\n",
    b"0\r\nX: y\r\n folded\r\n\r\n",
    b"0\r\nX: a\x00b\r\n\r\n",
    b"0\r\nX: a\rb\r\n\r\n",
    b"0\r\nX: a\nY: b\r\n\r\n",
]


@pytest.mark.parametrize(
    "extension", [b";a", b" ; a", b";a=b", b"; a = b ;c", b';a="b;\\"c\t\xe4"', b';a="";b', b";a=b;c=d;e"]
)
def test_extensions_that_rfc_9112_knows_mean_nothing(extension: bytes) -> None:
    body = b"5" + extension + b"\r\nhello\r\n0" + extension + b"\r\n\r\n"
    assert read_all(ChunkedReader(), [body + BEHIND]) == (b"hello", len(body), BEHIND)
    assert read_all(ChunkedReader(), segments_of(body + BEHIND, list(range(len(body))))) == (
        b"hello",
        len(body),
        BEHIND,
    )


@pytest.mark.parametrize("filler", [b";a", b";a=b", b' ; a = "b"', b";a\t", b'"', b";a ="])
def test_a_long_extension_takes_a_bounded_time(filler: bytes) -> None:
    start_s = time.process_time()
    with pytest.raises(FramingError):
        ChunkedReader().read(b"5" + filler * (200_000 // len(filler)) + b"\0\r\n", None)
    assert time.process_time() - start_s < 0.5


@pytest.mark.parametrize("body", MALFORMED)
@pytest.mark.parametrize("by", [0, 1, 2, 3])
def test_malformed_chunks_are_refused_however_they_are_cut(body: bytes, by: int) -> None:
    data = body + BEHIND
    step = by or len(data)
    with pytest.raises(FramingError):
        read_all(ChunkedReader(), [data[i : i + step] for i in range(0, len(data), step)])


@pytest.mark.parametrize(
    "begun",
    [b"5\n", b"5\r\r", b"x", b"5 5", b"1234567890abcdef", b"5\r\nhelloX", b"5\r\nhello\rX", b"5\r\nhello\n"],
)
def test_a_chunk_that_can_no_longer_become_good_is_refused_at_once(begun: bytes) -> None:
    with pytest.raises(FramingError):
        read_all(ChunkedReader(), [begun[i : i + 1] for i in range(len(begun))])


@pytest.mark.parametrize("start", [b"5;", b"5" + b" " * 10 + b";", b"0\r\n", b"0\r\nX: "])
@pytest.mark.parametrize("by", [1, 1000, 65_536])
def test_a_line_without_an_end_takes_bounded_memory_and_time(start: bytes, by: int) -> None:
    reader = ChunkedReader()
    reader.read(start, None)
    taken = 0
    begun_s = time.process_time()
    with pytest.raises(FramingError):  # noqa: PT012 - the loop is what is bounded
        while taken <= MAX_LINE + by:
            reader.read(b"a" * by, None)
            taken += by
    assert taken <= MAX_LINE
    assert time.process_time() - begun_s < 2


@pytest.mark.parametrize("extra", [0, 100])
@pytest.mark.parametrize("by", [0, 1])
def test_the_longest_size_line_is_the_same_however_it_is_cut(extra: int, by: int) -> None:
    line = b"5;" + b"e" * (MAX_LINE - 4 + extra) + b"\r\n"
    assert len(line) == MAX_LINE + extra
    data = line + b"hello\r\n0\r\n\r\n"
    segments = [data[i : i + (by or len(data))] for i in range(0, len(data), by or len(data))]
    if extra:
        with pytest.raises(FramingError):
            read_all(ChunkedReader(), segments)
    else:
        assert read_all(ChunkedReader(), segments) == (b"hello", len(data), b"")


@pytest.mark.parametrize("extra", [0, 100])
@pytest.mark.parametrize("by", [0, 1])
def test_the_longest_trailers_are_the_same_however_they_are_cut(extra: int, by: int) -> None:
    trailers = b"X: " + b"e" * (MAX_LINE - 7 + extra) + b"\r\n\r\n"
    assert len(trailers) == MAX_LINE + extra
    data = b"0\r\n" + trailers
    segments = [data[i : i + (by or len(data))] for i in range(0, len(data), by or len(data))]
    if extra:
        with pytest.raises(FramingError):
            read_all(ChunkedReader(), segments)
    else:
        assert read_all(ChunkedReader(), segments) == (b"", len(data), b"")


SIZES = st.sampled_from(["%x", "%X", "0%x", "%x;ext", '%x ; q="a b"', "%x;a=1;b"])
CUTS = st.lists(st.integers(0, 5000), max_size=40)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=90), SIZES), max_size=12), CUTS, st.binary(max_size=20))
def test_any_chunking_reads_back_the_same_under_any_segmentation(
    chunks: list[tuple[bytes, str]], cuts: list[int], behind: bytes
) -> None:
    body = (
        b"".join([(size % len(chunk)).encode() + b"\r\n" + chunk + b"\r\n" for chunk, size in chunks]) + b"0\r\n\r\n"
    )
    payload = b"".join([chunk for chunk, _ in chunks])
    assert read_all(ChunkedReader(), segments_of(body + behind, cuts)) == (payload, len(body), behind)


@given(st.lists(st.sampled_from([b"5", b"\r\n", b"\r", b"\n", b";", b" ", b"0", b"a:b", b"hello", b"\0"])), CUTS)
def test_any_bytes_mean_the_same_under_any_segmentation(tokens: list[bytes], cuts: list[int]) -> None:
    data = b"".join(tokens)

    def outcome(segments: list[bytes]) -> tuple[bytes, int, bytes] | None:
        try:
            return read_all(ChunkedReader(), segments)
        except FramingError:
            return None

    whole, cut = outcome([data] if data else []), outcome(segments_of(data, cuts))
    if whole is None or cut is None:
        # What is refused may be refused later in the other cut, but it is never accepted there.
        assert (whole or (b"", -1, b""))[1] == (cut or (b"", -1, b""))[1] == -1
    else:
        assert whole == cut


@given(st.integers(1, 500), st.binary(min_size=500, max_size=600), CUTS)
def test_a_length_is_met_to_the_byte_under_any_segmentation(length: int, data: bytes, cuts: list[int]) -> None:
    expected = (data[:length], length, data[length:])
    assert read_all(LengthReader(length), segments_of(data, cuts)) == expected


# one chunk at a time, as streams of events come


def read_whole_chunks_first(reader: ChunkedReader, segments: list[bytes]) -> tuple[bytes, int, int]:
    """What `read_all` says of segments each tried as a whole chunk first, and how many were one."""
    payload = b""
    seen = whole = 0
    for segment in segments:
        chunk = reader.whole_chunk(segment)
        if chunk is not None:
            payload += chunk
            whole += 1
        else:
            piece, end, _ = read_all(reader, [segment])
            payload += piece
            if end >= 0:
                return payload, seen + end, whole
        seen += len(segment)
    return payload, -1, whole


def state(reader: ChunkedReader) -> tuple[object, ...]:
    return tuple(getattr(reader, name) for name in ChunkedReader.__slots__)


WHOLE = [
    (b"1\r\nx\r\n", b"x"),
    (b"01\r\nx\r\n", b"x"),
    (b"00000001\r\nx\r\n", b"x"),
    (b"5\r\nhello\r\n", b"hello"),
    (b"A\r\n0123456789\r\n", b"0123456789"),
    (b"0a\r\n0123456789\r\n", b"0123456789"),
    (b"5;a=b\r\nhello\r\n", b"hello"),
    (b"5 ;a\r\nhello\r\n", b"hello"),
    (b"2\r\n\r\n\r\n", b"\r\n"),
    (b"4\r\n\r\n\r\n\r\n", b"\r\n\r\n"),
    (b"7\r\n0\r\n\r\n\r\n\r\n", b"0\r\n\r\n\r\n"),
    (b"100\r\n" + b"e" * 256 + b"\r\n", b"e" * 256),
    (b"fFfF\r\n" + b"e" * 65_535 + b"\r\n", b"e" * 65_535),
]
# Right as part of a body, and left to `read` all the same.
NOT_WHOLE = [
    b"",
    b"5",
    b"5\r",
    b"5\r\n",
    b"5\r\nhell",
    b"5\r\nhello",
    b"5\r\nhello\r",
    b"5\r\nhello\r\n0",
    b"5\r\nhello\r\n1\r\nx\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"00\r\nX: y\r\n\r\n",
    b"00000000\r\n\r\n",
    b"000000001\r\nx\r\n",
    b"5;name=value\r\nhello\r\n",
    b"ffffffff\r\nx\r\n",
]
# As long as a whole chunk, with another end.
WRONG_END = [
    b"5\r\nhelloXX",
    b"5\r\nhello\n\r",
    b"5\r\nhello\r\r",
    b"5\r\nhelloX\n",
    b"5\r\nhello\n\n",
    b"1\n\nx\r\n",
]


@pytest.mark.parametrize(("data", "payload"), WHOLE)
def test_a_whole_chunk_is_what_reading_it_would_give(data: bytes, payload: bytes) -> None:
    reader, other = ChunkedReader(), ChunkedReader()
    for _ in range(2):
        assert reader.whole_chunk(data) == payload
        assert read_all(other, [data]) == (payload, -1, b"")
        assert state(reader) == state(other) == state(ChunkedReader())
        assert reader.is_between_chunks
    assert read_all(reader, [b"0\r\n\r\n" + BEHIND]) == (b"", 5, BEHIND)


@pytest.mark.parametrize("data", [*NOT_WHOLE, *WRONG_END, *MALFORMED])
def test_what_is_not_exactly_one_chunk_is_left_as_it_is(data: bytes) -> None:
    reader = ChunkedReader()
    for _ in range(2):
        assert reader.whole_chunk(data) is None
        assert state(reader) == state(ChunkedReader())


@pytest.mark.parametrize(
    "begun", [b"5", b"5\r", b"5\r\n", b"5\r\nhello", b"5\r\nhello\r", b"5;a", b"0\r\n", b"0\r\nX:"]
)
def test_in_the_middle_of_anything_nothing_is_a_whole_chunk(begun: bytes) -> None:
    reader = ChunkedReader()
    reader.read(begun, None)
    before = state(reader)
    for data, _ in WHOLE:
        assert reader.whole_chunk(data) is None
    assert state(reader) == before


SIZE_LINES = st.sampled_from(
    ["%x", "%X", "0%x", "%08x", "%09x", "%x;a", "%x ; a=b", "%x\n", " %x", "-%x", "%x\x0b", "0x%x"]
)
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"", b"x\n", b"\n\r", b"\r\n\r\n"])
SEGMENTS = st.builds(
    lambda payload, line, off, end: (line % (len(payload) + off)).encode() + b"\r\n" + payload + end,
    st.one_of(
        st.binary(max_size=20), st.sampled_from([b"", b"\r", b"\r\n", b"0\r\n\r\n", b"1\r\nx\r\n", b"e" * 300])
    ),
    SIZE_LINES,
    st.sampled_from([0, 0, 0, 0, 1, 2, 16]),
    ENDS,
)


@given(st.lists(SEGMENTS, max_size=4), st.one_of(st.just([]), CUTS))
def test_trying_whole_chunks_first_changes_nothing(segments: list[bytes], cuts: list[int]) -> None:
    data = b"".join(segments)
    if cuts:
        segments = segments_of(data, cuts)

    reader, other = ChunkedReader(), ChunkedReader()
    try:
        payload, end, whole = read_whole_chunks_first(reader, segments)
    except FramingError:
        with pytest.raises(FramingError):
            read_all(other, segments)
        return
    assert (payload, end) == read_all(other, segments)[:2]
    assert state(reader) == state(other)
    assert whole <= len(segments)


def test_a_stream_of_events_is_whole_chunks_throughout() -> None:
    events = [b"%x\r\ndata: %b\n\n\r\n" % (8 + size, b"e" * size) for size in range(1, 2000)]
    payload, end, whole = read_whole_chunks_first(ChunkedReader(), [*events, b"0\r\n\r\n"])
    assert payload == b"".join([b"data: %b\n\n" % (b"e" * size) for size in range(1, 2000)])
    assert (end, whole) == (sum(map(len, events)) + 5, len(events))
