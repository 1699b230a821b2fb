"""The exchange: what it holds at the start, and what it never shows."""

from __future__ import annotations

import pytest

from proxy.core.exchange import Exchange, Route, UpstreamSent
from proxy.core.headers import Headers
from tests.support.exchange import make_exchange


def test_a_new_exchange_claims_nothing() -> None:
    exchange = Exchange(method="GET", target=b"/v1/models", headers=Headers(), peer_ip="192.0.2.1")
    assert exchange.body is None
    assert exchange.credential is None
    assert exchange.credential_source is None
    assert exchange.authorization is None
    assert exchange.reply is None
    assert exchange.response_headers is None
    assert exchange.shadowed is None
    assert exchange.status == 0
    assert exchange.upstream_sent is UpstreamSent.NO
    assert exchange.entered == -1
    assert not exchange.completed
    assert not exchange.aborted


def test_the_client_is_the_peer_unless_told_otherwise() -> None:
    assert make_exchange(client_ip="192.0.2.1").client_ip == "192.0.2.1"
    behind = Exchange(
        method="GET", target=b"/", headers=Headers(), peer_ip="10.0.0.1", client_ip="192.0.2.9", route=Route.CHAT
    )
    assert (behind.peer_ip, behind.client_ip) == ("10.0.0.1", "192.0.2.9")
    alone = Exchange(method="GET", target=b"/", headers=Headers(), peer_ip="10.0.0.1")
    assert alone.client_ip == "10.0.0.1"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/models", b"/v1/models"),
        (b"/v1/models?limit=2", b"/v1/models"),
        (b"/v1/models?a=1?b=2", b"/v1/models"),
        (b"/v1/a%3Fb?c", b"/v1/a%3Fb"),
        (b"?", b""),
    ],
)
def test_path_is_the_target_without_its_query(target: bytes, path: bytes) -> None:
    assert make_exchange(target=target).path == path


def test_fields_are_fixed() -> None:
    # A misspelt field must not be silently created.
    with pytest.raises(AttributeError):
        make_exchange().credentail = "x"  # type: ignore[attr-defined]


def test_repr_shows_no_query_header_or_credential() -> None:
    exchange = make_exchange(
        ("Authorization", "Bearer sk-one"), target=b"/v1/models?key=sk-two", api_key="sk-three", body=b"sk-four"
    )
    exchange.credential = "sk-five"
    exchange.authorization = b"Bearer sk-five"
    exchange.status = 200
    assert repr(exchange) == "<Exchange req_1 POST /v1/models from 192.0.2.1 status=200>"


def test_words_are_the_ones_that_are_logged_and_sent() -> None:
    assert [str(route) for route in Route] == ["api", "chat"]
    assert [sent.encode("ascii") for sent in UpstreamSent] == [b"no", b"unknown", b"yes"]
