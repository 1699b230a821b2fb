"""The server's key in the upstream's own words: hidden from callers, whatever pieces it comes in."""

from __future__ import annotations

import gzip
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.errors import ProtocolError, UpstreamError
from proxy.core.exchange import Exchange
from proxy.gateway.masking import MAX_UNPACKED_BYTES, KeyMask, masked, may_tell_key, sealed
from proxy.wire.framing import Framing
from proxy.wire.gate import ResponseHead
from tests.support.canary import SERVER_KEY
from tests.support.exchange import headers_of, make_exchange

KEY = SERVER_KEY.encode("ascii")
STARS = b"*" * len(KEY)


class Taker:
    """Notes what it is given; ``complete_after`` pieces it ends its exchange."""

    def __init__(self, exchange: Exchange, complete_after: int = 0) -> None:
        self.exchange = exchange
        self.pieces: list[bytes] = []
        self.ended = 0
        self.errors: list[UpstreamError] = []
        self._complete_after = complete_after

    def on_answer_informational(self, head: ResponseHead) -> None:
        """Never called here."""
        raise AssertionError

    def on_answer_switch(self, head: ResponseHead, connection: object, data: bytes) -> None:
        """Never called here."""
        raise AssertionError

    def on_answer_headers(self, head: ResponseHead) -> bool:
        """Never called here."""
        raise AssertionError

    def on_answer_data(self, data: bytes) -> None:
        """Keep it."""
        self.pieces.append(data)
        if len(self.pieces) == self._complete_after:
            self.exchange.completed = True

    def on_answer_end(self) -> None:
        """Count."""
        self.ended += 1

    def on_answer_error(self, error: UpstreamError) -> None:
        """Keep it, and end the exchange as a delegate does."""
        self.errors.append(error)
        self.exchange.completed = True


def exchange_with(source: str | None = "server") -> Exchange:
    exchange = make_exchange()
    exchange.credential, exchange.credential_source = SERVER_KEY, source
    return exchange


def head_of(*lines: tuple[str, str], status: int = 401, framing: Framing = Framing.LENGTH) -> ResponseHead:
    head = ResponseHead(status, b"", "1.1", headers_of(*lines))
    head.framing = framing
    return head


def answer(head: ResponseHead, *pieces: bytes, complete_after: int = 0) -> Taker:
    """What a taker is given of an answer in these pieces."""
    taker = Taker(exchange_with(), complete_after)
    through = masked(taker, taker.exchange, head)
    for piece in pieces:
        if not taker.exchange.completed:
            through.on_answer_data(piece)
    if not taker.exchange.completed:
        through.on_answer_end()
    return taker


def feed_all(pieces: list[bytes]) -> bytes:
    mask = KeyMask(KEY)
    return b"".join([*map(mask.feed, pieces), mask.rest()])


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


WORDS = st.lists(st.sampled_from([KEY, KEY[:-1], KEY[:7], KEY[1:], b"sk-", b"s", b"*", b"\x00", b"Hi "]), max_size=8)


class TestKeyMask:
    @given(words=WORDS, places=st.lists(st.integers(0, 10_000), max_size=12))
    def test_however_it_is_cut_the_key_is_hidden_and_nothing_else_is_changed(
        self, words: list[bytes], places: list[int]
    ) -> None:
        data = b"".join([*words, b"."])  # a body that does not end within the key
        shown = feed_all(cut(data, places))
        assert shown == data.replace(KEY, STARS)

    @given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
    def test_without_the_key_bytes_stay_as_they_are(self, data: bytes, places: list[int]) -> None:
        assert feed_all(cut(data, places)) == data

    @given(st.lists(st.sampled_from([b"a", b"b"]), max_size=40))
    def test_a_key_that_repeats_itself(self, letters: list[bytes]) -> None:
        mask = KeyMask(b"abaabaab")
        shown = b"".join([*map(mask.feed, letters), mask.rest()])
        assert shown == b"".join(letters).replace(b"abaabaab", b"*" * 8)

    @pytest.mark.parametrize("length", range(1, len(KEY)))
    def test_a_body_that_ends_within_the_key(self, length: int) -> None:
        shown = feed_all([b"key: ", KEY[:length]])
        assert shown == b"key: " + (KEY[:length] if length < 12 else b"*" * length)

    def test_only_what_may_be_the_key_waits(self) -> None:
        mask = KeyMask(KEY)
        assert mask.feed(b"Incorrect: ") == b"Incorrect: "
        assert mask.feed(KEY[:5] + b"!" + KEY[:5]) == KEY[:5] + b"!"
        assert KEY[:5].decode() not in repr(mask)
        assert mask.feed(KEY[5:] + b".") == STARS + b"."


class TestWhich:
    @pytest.mark.parametrize(
        ("source", "status", "looked_into"),
        [
            ("server", 401, True), ("server", 403, True), ("server", 400, True), ("server", 500, True),
            ("server", 200, False), ("server", 302, False),
            ("client", 401, False), (None, 401, False),
        ],
    )  # fmt: skip
    def test_errors_about_a_server_key_alone(self, source: str | None, status: int, looked_into: bool) -> None:
        exchange = exchange_with(source)
        taker, head = Taker(exchange), head_of(("X", SERVER_KEY), status=status)
        assert may_tell_key(exchange, status) is looked_into
        assert (masked(taker, exchange, head) is not taker) is looked_into
        assert (SERVER_KEY in str(list(head.headers.pairs()))) is not looked_into

    def test_the_head_is_masked_in_place(self) -> None:
        line = ("WWW-Authenticate", f'Bearer error="no {SERVER_KEY}"')
        head = head_of(("X-Request-Id", "r"), line, ("Content-Length", "2"))
        head.reason = b"No " + KEY
        answer(head)
        assert head.reason == b"No " + STARS
        masked_line = ("WWW-Authenticate", f'Bearer error="no {STARS.decode()}"')
        assert list(head.headers.pairs()) == [("X-Request-Id", "r"), masked_line, ("Content-Length", "2")]
        assert all(b": " + value + b"\r\n" in line for _, line, value in head.headers.fields)

    @pytest.mark.parametrize("coding", [None, "identity", "gzip", "X-GZIP"])
    def test_what_can_be_looked_into_is_not_replaced(self, coding: str | None) -> None:
        assert sealed(head_of(*([("Content-Encoding", coding)] if coding else []))) is None

    @pytest.mark.parametrize("coding", ["br", "zstd", "deflate", "gzip, br", "unheard-of"])
    @pytest.mark.parametrize(("status", "code"), [(401, "invalid_api_key"), (403, "forbidden")])
    def test_a_refusal_that_cannot_be_is(self, coding: str, status: int, code: str) -> None:
        lines = (("Content-Encoding", coding), ("x-request-id", "req_upstream"), ("X", SERVER_KEY))
        reply = sealed(head_of(*lines, status=status))
        assert reply is not None
        assert (reply.status, reply.code) == (status, code)
        assert [line[0] for line in reply.headers] == [b"x-request-id"]
        assert SERVER_KEY not in repr(reply)

    def test_other_errors_and_answers_without_a_body_are_not(self) -> None:
        coding = ("Content-Encoding", "br")
        assert sealed(head_of(coding, status=400)) is None
        assert sealed(head_of(coding, framing=Framing.NONE)) is None


class TestMaskedAnswer:
    def test_a_plain_body_keeps_its_length_and_framing(self) -> None:
        head = head_of(("Content-Length", "99"), ("ETag", "a"))
        taker = answer(head, b"no: " + KEY[:9], KEY[9:] + b"!")
        assert b"".join(taker.pieces) == b"no: " + STARS + b"!"
        assert (taker.ended, head.framing, len(head.headers)) == (1, Framing.LENGTH, 2)

    @pytest.mark.parametrize("by", [1, 7, 10_000])
    def test_a_gzip_body_is_unpacked(self, by: int) -> None:
        packed = gzip.compress(b"no: " + KEY + b"!", mtime=0) + b"garbage"
        pieces = [packed[start : start + by] for start in range(0, len(packed), by)]
        head = head_of(("Content-Encoding", "gzip"), ("Content-Length", str(len(packed))), ("ETag", "a"), ("X", "y"))
        taker = answer(head, *pieces)
        assert b"".join(taker.pieces) == b"no: " + STARS + b"!"
        assert (taker.ended, head.framing, list(head.headers.pairs())) == (1, Framing.CHUNKED, [("X", "y")])

    @pytest.mark.parametrize("framing", [Framing.CHUNKED, Framing.CLOSE])
    def test_other_framings_stay(self, framing: Framing) -> None:
        head = head_of(("Content-Encoding", "gzip"), framing=framing)
        assert answer(head, gzip.compress(b"x", mtime=0)).pieces == [b"x"]
        assert head.framing is framing

    def test_an_empty_body_is_an_empty_body(self) -> None:
        taker = answer(head_of(("Content-Encoding", "gzip"), ("Content-Length", "0")))
        assert (taker.pieces, taker.ended, taker.errors) == ([], 1, [])

    def test_the_answer_to_a_head_stays_as_it_was(self) -> None:
        head = head_of(("Content-Encoding", "gzip"), ("Content-Length", "9"), framing=Framing.NONE)
        assert answer(head).ended == 1
        assert (head.framing, len(head.headers)) == (Framing.NONE, 2)

    @pytest.mark.parametrize(
        "body",
        [b"{}", gzip.compress(b"x" * 100, mtime=0)[:-4], gzip.compress(bytes(MAX_UNPACKED_BYTES + 1), mtime=0)],
    )
    def test_what_is_no_gzip_or_a_bomb_is_cut(self, body: bytes) -> None:
        taker = answer(head_of(("Content-Encoding", "gzip")), body)
        assert (taker.ended, [type(error) for error in taker.errors]) == (0, [ProtocolError])
        assert sum(map(len, taker.pieces)) <= MAX_UNPACKED_BYTES

    def test_as_much_as_may_be_unpacked_is(self) -> None:
        taker = answer(head_of(("Content-Encoding", "gzip")), gzip.compress(bytes(MAX_UNPACKED_BYTES)))
        assert (sum(map(len, taker.pieces)), taker.ended) == (MAX_UNPACKED_BYTES, 1)

    def test_a_cut_shows_no_half_of_a_key(self) -> None:
        taker = Taker(exchange_with())
        through = masked(taker, taker.exchange, head_of())
        through.on_answer_data(b"no: " + KEY[:-1])
        through.on_answer_error(ProtocolError("cut"))
        assert (taker.pieces, taker.ended, len(taker.errors)) == ([b"no: "], 0, 1)

    def test_a_taker_that_has_ended_hears_no_more(self) -> None:
        assert answer(head_of(), b"a", b"b", complete_after=1).pieces == [b"a"]
        late = answer(head_of(), b"a" + KEY[:3], complete_after=2)
        assert (late.pieces, late.ended) == ([b"a", KEY[:3]], 0)
