"""Header lines: kept as they came, and sorted into those that may cross the gateway and those that may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.headers import (
    FORWARDING,
    HOP_BY_HOP,
    REPLACED_IN_INFORMATIONAL,
    REPLACED_IN_REQUESTS,
    REPLACED_IN_RESPONSES,
    Headers,
    Seen,
    connection_named,
    encode,
    end_to_end,
    field,
    taken_apart,
)
from tests.support.exchange import headers_of


def names(headers: Headers, replaced: frozenset[bytes] = frozenset()) -> list[bytes]:
    return [line[: len(lower)] for lower, line, _ in end_to_end(headers, replaced)]


class TestList:
    def test_lines_keep_order_spelling_and_duplicates(self) -> None:
        headers = headers_of(("B-x", "1"), ("a-X", "2"), ("b-X", "3"))
        assert list(headers.pairs()) == [("B-x", "1"), ("a-X", "2"), ("b-X", "3")]
        assert len(headers) == 3

    def test_get_takes_the_first_and_get_all_takes_all(self) -> None:
        headers = headers_of(("X-A", "1"), ("x-a", "2"))
        assert headers.get(b"x-a") == b"1"
        assert headers.get_all(b"x-a") == [b"1", b"2"]
        assert headers.get(b"x-b") is None
        assert headers.get_all(b"x-b") == []

    def test_set_replaces_every_line_of_the_name_by_one_at_the_end(self) -> None:
        headers = headers_of(("X-A", "1"), ("X-B", "2"), ("x-a", "3"))
        headers.set(b"X-a", b"4")
        assert list(headers.pairs()) == [("X-B", "2"), ("X-a", "4")]

    def test_remove_drops_every_line_of_the_name(self) -> None:
        headers = headers_of(("X-A", "1"), ("X-B", "2"), ("x-a", "3"))
        headers.remove(b"x-a")
        headers.remove(b"x-c")
        assert list(headers.pairs()) == [("X-B", "2")]

    def test_a_new_list_is_not_shared(self) -> None:
        one, other = Headers(), Headers()
        one.add(b"A", b"1")
        assert len(other) == 0

    @given(st.lists(st.tuples(st.text("aAbB-", min_size=1), st.text(st.characters(max_codepoint=255)))))
    def test_text_pairs_come_back_as_they_went_in(self, pairs: list[tuple[str, str]]) -> None:
        headers = Headers.from_pairs(pairs)
        assert list(headers.pairs()) == pairs
        assert all(line.lower().startswith(lower + b": ") for lower, line, _ in headers.fields)

    def test_repr_shows_names_and_no_value(self) -> None:
        shown = repr(headers_of(("Authorization", "Bearer sk-secret"), ("X-A", "1")))
        assert shown == "<Headers ['Authorization', 'X-A']>"

    def test_encoding_is_exact(self) -> None:
        headers = headers_of(("X-A", "1"), (b"x-b", b"\xff \t"), ("X-A", ""))
        assert encode(headers.fields) == b"X-A: 1\r\nx-b: \xff \t\r\nX-A: \r\n"
        assert encode([]) == b""


class TestConnection:
    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ((), set()),
            (("close",), {b"close"}),
            (("X-One, x-TWO ,,\tx-three",), {b"x-one", b"x-two", b"x-three"}),
            (("x-one", "x-two"), {b"x-one", b"x-two"}),
            ((" , ",), set()),
        ],
    )
    def test_named(self, values: tuple[str, ...], named: set[bytes]) -> None:
        headers = headers_of(*(("Connection", value) for value in values))
        assert connection_named(headers) == named

    @pytest.mark.parametrize("value", ["x-hop", "X-HOP", "keep-alive, x-hop", "x-hop,close", "close ,\tX-Hop"])
    def test_named_lines_do_not_cross(self, value: str) -> None:
        headers = headers_of(("Connection", value), ("X-Hop", "1"), ("X-Stays", "2"), ("x-hop", "3"))
        assert names(headers, HOP_BY_HOP) == [b"X-Stays"]

    @pytest.mark.parametrize("first", ["keep-alive", "close", "Keep-Alive", "x-other"])
    def test_lines_named_by_a_second_connection_line_do_not_cross(self, first: str) -> None:
        # RFC 9110 section 5.3: several lines of one name are one list.
        headers = headers_of(("Connection", first), ("Connection", "x-hop"), ("X-Hop", "1"), ("X-Stays", "2"))
        assert names(headers, HOP_BY_HOP) == [b"X-Stays"]

    @pytest.mark.parametrize("value", ["keep-alive", "Keep-Alive", "close", "CLOSE"])
    def test_usual_values_name_nothing_else(self, value: str) -> None:
        headers = headers_of(("Connection", value), ("X-A", "1"), ("Close", "2"))
        assert b"X-A" in names(headers, HOP_BY_HOP)


class TestEndToEnd:
    def test_the_lists_are_these(self) -> None:
        # RFC 9110 section 7.6.1, and the fields of RFC 7540 that only ever concern one connection.
        hop_by_hop = (
            b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer "
            b"transfer-encoding upgrade http2-settings"
        )
        forwarding = (
            b"forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-forwarded-port x-real-ip "
            b"cf-connecting-ip cf-connecting-ipv6 true-client-ip"
        )
        assert set(hop_by_hop.split()) == HOP_BY_HOP
        assert set(forwarding.split()) == FORWARDING

    @pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
    @pytest.mark.parametrize("replaced", [REPLACED_IN_REQUESTS, REPLACED_IN_RESPONSES])
    def test_hop_by_hop_lines_cross_in_no_direction(self, name: bytes, replaced: frozenset[bytes]) -> None:
        headers = headers_of((name.title(), b"x"), (b"X-Stays", b"1"))
        assert names(headers, replaced) == [b"X-Stays"]

    @pytest.mark.parametrize("name", [*sorted(FORWARDING), b"host", b"content-length", b"expect"])
    def test_lines_we_write_ourselves_or_keep_from_upstream_end_with_the_request(self, name: bytes) -> None:
        headers = headers_of((name.upper(), b"x"), (b"X-Stays", b"1"))
        assert names(headers, REPLACED_IN_REQUESTS) == [b"X-Stays"]

    def test_openais_own_lines_come_back_untouched(self) -> None:
        lines = [
            ("x-request-id", "req_up"),
            ("X-RateLimit-Remaining-Requests", "59"),
            ("Retry-After", "20"),
            ("retry-after-ms", "19999"),
            ("x-should-retry", "false"),
            ("Set-Cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("Content-Length", "3"),
        ]
        headers = headers_of(("Connection", "keep-alive"), *lines)
        kept = Headers(end_to_end(headers, REPLACED_IN_RESPONSES))
        assert list(kept.pairs()) == lines

    @pytest.mark.parametrize("name", ["X-Sluice-Request-Id", "x-sluice-upstream-sent"])
    @pytest.mark.parametrize("replaced", [REPLACED_IN_RESPONSES, REPLACED_IN_INFORMATIONAL])
    def test_what_another_gateway_says_of_its_own_exchange_ends_here(
        self, name: str, replaced: frozenset[bytes]
    ) -> None:
        headers = headers_of((name, "req_other"), ("X-Sluice-Else", "1"))
        assert names(headers, replaced) == [b"X-Sluice-Else"]

    def test_an_informational_answer_has_no_length(self) -> None:
        headers = headers_of(("Content-Length", "5"), ("Link", "</a>"))
        assert names(headers, REPLACED_IN_INFORMATIONAL) == [b"Link"]

    def test_the_headers_themselves_are_not_changed(self) -> None:
        headers = headers_of(("Connection", "x-a"), ("X-A", "1"))
        end_to_end(headers, HOP_BY_HOP)
        assert len(headers) == 2
        assert b"x-a" not in HOP_BY_HOP

    @given(
        lines=st.lists(
            st.tuples(
                st.sampled_from(["Connection", "connection", "TE", "X-A", "x-B", "Host", "Forwarded"]),
                st.sampled_from(["close", "keep-alive", "x-a", "X-B , close", "", ",", "te"]),
            ),
            max_size=8,
        )
    )
    def test_against_the_rule_of_the_rfc(self, lines: list[tuple[str, str]]) -> None:
        named = {
            token.strip().lower()
            for name, value in lines
            if name.lower() == "connection"
            for token in value.split(",")
        }
        forbidden = named | {"connection", "te", "host", "forwarded"}
        expected = [(name, value) for name, value in lines if name.lower() not in forbidden]
        kept = Headers(end_to_end(headers_of(*lines), REPLACED_IN_REQUESTS))
        assert list(kept.pairs()) == expected


LINES = st.lists(
    st.builds(
        lambda name, blank, value: name + b":" + blank + value + b"\r\n",
        st.sampled_from([b"A", b"x-b", b"X-B", b"Content-Length", b"connection", b"Set-Cookie"]),
        st.sampled_from([b"", b" ", b"\t  "]),
        st.binary(max_size=6).filter(lambda value: not set(value) & set(b"\r\n")),
    ),
    max_size=6,
)
BLOCK = b"X-A: 1\r\nx-B:2\r\nX-b: \t3 \r\nX-Empty:\r\n"


def both(block: bytes) -> tuple[Headers, Headers]:
    """Headers of these lines: as a block, and taken apart."""
    return Headers.of_block(block), Headers(taken_apart(block.splitlines(True)))


class TestBlock:
    """Lines kept as they stand on the wire are the same lines, before and after somebody has looked at them."""

    @given(LINES)
    def test_a_block_and_its_lines_say_the_same(self, lines: list[bytes]) -> None:
        whole, apart = both(b"".join(lines))
        assert whole.encode() == apart.encode() == b"".join(lines)
        assert whole.fields == apart.fields
        assert list(whole.pairs()) == list(apart.pairs())
        assert (len(whole), repr(whole)) == (len(apart), repr(apart))
        assert whole.encode() == b"".join(lines)

    @given(LINES, st.lists(st.sampled_from(["fold", "fields", "append", "set", "remove", "get", "crossing"])))
    def test_folding_and_unfolding_at_any_time_keeps_every_byte(self, lines: list[bytes], steps: list[str]) -> None:
        folded, apart = both(b"".join(lines))
        for number, step in enumerate(steps):
            for headers in (folded, apart):
                if step == "append":
                    headers.append(field(b"X-New-%d" % number, b"v\xff"))
                elif step == "set":
                    headers.set(b"X-B", b"%d" % number)
                elif step == "remove":
                    headers.remove(b"a")
            if step == "fold":
                folded.fold()
            elif step == "fields":
                assert folded.fields == apart.fields
            elif step == "get":
                assert folded.get(b"x-b") == apart.get(b"x-b")
                assert folded.get_all(b"set-cookie") == apart.get_all(b"set-cookie")
            elif step == "crossing":
                assert folded.crossing(REPLACED_IN_REQUESTS) == apart.crossing(REPLACED_IN_REQUESTS)
            assert folded.encode() == apart.encode()
        assert folded.fields == apart.fields

    def test_lines_of_a_block_are_found_by_their_names(self) -> None:
        headers = Headers.of_block(BLOCK)
        assert headers.get(b"x-b") == b"2"
        assert headers.get_all(b"x-b") == [b"2", b"3"]
        assert headers.get(b"x-empty") == b""
        assert headers.get(b"x-none") is None
        assert len(Headers.of_block(b"")) == 0

    def test_a_line_is_appended_to_a_block_without_taking_it_apart(self) -> None:
        headers = Headers.of_block(BLOCK)
        headers.append((b"x-c", b"X-C:4\r\n", b"4"))
        headers.add(b"X-D", b"5")
        assert headers._fields is None
        assert headers.encode() == BLOCK + b"X-C:4\r\nX-D: 5\r\n"
        assert (headers.get(b"x-c"), headers.get(b"x-d"), len(headers)) == (b"4", b"5", 6)

    def test_set_and_remove_on_a_block(self) -> None:
        headers = Headers.of_block(BLOCK)
        headers.set(b"x-B", b"9")
        assert headers.encode() == b"X-A: 1\r\nX-Empty:\r\nx-B: 9\r\n"
        headers.fold()
        headers.remove(b"x-b")
        headers.fold()
        headers.remove(b"x-none")
        assert headers.encode() == b"X-A: 1\r\nX-Empty:\r\n"

    def test_nothing_is_held_twice(self) -> None:
        headers = Headers.of_block(BLOCK)
        assert headers.get(b"x-a") == b"1"
        assert (headers._block, len(headers._fields or ())) == (b"", 4)
        headers.fold()
        assert (headers._block, headers._fields) == (BLOCK, None)
        headers.fold()
        assert headers.encode() == BLOCK

    def test_lines_of_a_block_cross_by_the_same_rule(self) -> None:
        block = b"Connection: X-Own, close\r\nX-Own: 1\r\nX-Stays:2\r\nHost: a\r\nx-own:3\r\n"
        headers = Headers.of_block(block)
        assert headers.crossing(REPLACED_IN_REQUESTS) == b"X-Stays:2\r\n"
        assert headers.encode() == block


class TestSeen:
    """What is remembered of lines that come again holds for those lines alone."""

    LINES = (("Host", "a"), ("X-A", "1"), ("Content-Length", "5"), ("Connection", "x-own"), ("X-Own", "2"))

    def again(self, seen: Seen, length: str = "5") -> Headers:
        """The same lines once more, with another length."""
        lines = [(name, length if name == "Content-Length" else value) for name, value in self.LINES]
        return Headers(headers_of(*lines).fields, seen)

    def test_what_may_cross_is_found_out_once(self) -> None:
        seen = Seen(headers_of(*self.LINES))
        assert self.again(seen).crossing(REPLACED_IN_REQUESTS) == b"X-A: 1\r\n"
        assert seen.crossings == {REPLACED_IN_REQUESTS: b"X-A: 1\r\n"}
        remembered = seen.crossings[REPLACED_IN_REQUESTS]
        assert self.again(seen, "7").crossing(REPLACED_IN_REQUESTS) is remembered

    def test_each_set_of_replaced_names_has_its_own_lines(self) -> None:
        seen = Seen(headers_of(*self.LINES))
        fewer = REPLACED_IN_REQUESTS - {b"host"}
        for _ in range(2):
            assert self.again(seen).crossing(REPLACED_IN_REQUESTS) == b"X-A: 1\r\n"
            assert self.again(seen).crossing(fewer) == b"Host: a\r\nX-A: 1\r\n"

    def test_lines_that_cross_with_their_length_are_not_remembered(self) -> None:
        seen = Seen(headers_of(*self.LINES))
        for length in ("5", "6"):
            crossing = self.again(seen, length).crossing(HOP_BY_HOP)
            assert crossing == b"Host: a\r\nX-A: 1\r\nContent-Length: %b\r\n" % length.encode()
        assert seen.crossings == {}

    @pytest.mark.parametrize("change", ["add", "append", "set", "remove"])
    def test_a_change_ends_it_for_the_changed_lines_and_for_no_others(self, change: str) -> None:
        seen = Seen(headers_of(*self.LINES))
        changed, other = self.again(seen), self.again(seen)
        assert changed.crossing(REPLACED_IN_REQUESTS) == b"X-A: 1\r\n"
        if change == "add":
            changed.add(b"X-New", b"3")
        elif change == "append":
            changed.append((b"x-new", b"X-New: 3\r\n", b"3"))
        elif change == "set":
            changed.set(b"X-New", b"3")
        else:
            changed.remove(b"x-a")
        expected = b"" if change == "remove" else b"X-A: 1\r\nX-New: 3\r\n"
        assert changed.crossing(REPLACED_IN_REQUESTS) == expected
        assert changed.get(b"x-new") == (None if change == "remove" else b"3")
        assert changed.get_all(b"x-a") == ([] if change == "remove" else [b"1"])
        assert other.crossing(REPLACED_IN_REQUESTS) == b"X-A: 1\r\n"
        assert other.get(b"x-a") == b"1"
        assert seen.crossings == {REPLACED_IN_REQUESTS: b"X-A: 1\r\n"}

    def test_what_is_not_among_the_names_is_not_looked_for(self) -> None:
        headers = self.again(Seen(headers_of(*self.LINES)), "7")
        assert headers.get(b"authorization") is None
        assert headers.get_all(b"authorization") == []
        assert (headers.get(b"content-length"), headers.get_all(b"x-own")) == (b"7", [b"2"])

    def test_lines_that_were_seen_are_not_folded_until_they_change(self) -> None:
        headers = self.again(Seen(headers_of(*self.LINES)), "7")
        encoded = headers.encode()
        headers.fold()
        assert headers._fields is not None
        assert headers.encode() == encoded
        changed = self.again(Seen(headers_of(*self.LINES)), "7")
        changed.add(b"X-New", b"3")
        changed.fold()
        assert changed._fields is None
        assert changed.encode() == encoded + b"X-New: 3\r\n"
