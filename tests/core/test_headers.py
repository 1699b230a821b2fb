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
    connection_named,
    encode,
    end_to_end,
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
