"""One line of the access log: always one JSON object on one line, and never a secret in it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.chain import Chain
from proxy.core.exchange import Exchange, Route, UpstreamSent
from proxy.core.messages import IP_NOT_ALLOWED
from proxy.core.reply import Reply
from proxy.gateway.access_log import credential_digest, line_of
from tests.support.exchange import make_exchange, make_stage

KEYS = [
    "v", "time_ns", "seq", "request_id", "peer_ip", "client_ip", "forwarded", "credential", "key", "route", "method",
    "path", "model", "stages", "status", "upstream_sent", "bytes_in", "bytes_out", "first_byte_ms", "total_ms",
    "aborted",
]  # fmt: skip
CHAIN = Chain(
    [
        make_stage("ip_allowlist", [], headers=None),
        make_stage("limit", [], headers=None),
        make_stage("upstream", [], headers=None, terminal=True),
    ]
)


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def read(exchange: Exchange, now_s: float = 0.0, chain: Chain = CHAIN) -> dict[str, Any]:
    line = line_of(exchange, chain, now_s)
    assert line.isascii()
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert line.rstrip("\n").isprintable()
    entry: dict[str, Any] = json.loads(line)
    assert list(entry) == KEYS
    return entry


def test_a_whole_exchange() -> None:
    exchange = make_exchange(target=b"/v1/chat/completions?x=1", client_ip="192.0.2.1", peer_ip="10.0.0.1")
    CHAIN.proceed(exchange)
    exchange.sequence, exchange.started_ns, exchange.started_s = 7, 1_790_000_000_123_456_789, 100.0
    exchange.forwarded_chain = "192.0.2.1, 10.0.0.2"
    exchange.credential, exchange.credential_source = "sk-secret", "server"
    exchange.model, exchange.status, exchange.upstream_sent = "gpt-4o", 200, UpstreamSent.YES
    exchange.bytes_in, exchange.bytes_out, exchange.first_byte_s = 350, 1200, 100.25
    assert line_of(exchange, CHAIN, 101.5) == (
        '{"v":1,"time_ns":1790000000123456789,"seq":7,"request_id":"req_1","peer_ip":"10.0.0.1",'
        f'"client_ip":"192.0.2.1","forwarded":"192.0.2.1, 10.0.0.2","credential":"{digest("sk-secret")}",'
        '"key":"server","route":"api","method":"POST","path":"/v1/chat/completions","model":"gpt-4o",'
        '"stages":{"ip_allowlist":"pass","limit":"pass","upstream":"pass"},"status":200,"upstream_sent":"yes",'
        '"bytes_in":350,"bytes_out":1200,"first_byte_ms":250.000,"total_ms":1500.000,"aborted":null}\n'
    )


def test_an_exchange_no_chain_saw() -> None:
    entry = read(make_exchange(route=Route.CHAT, target=b"/nowhere"))
    nothing = ("credential", "key", "model", "first_byte_ms", "aborted")
    assert {name: entry[name] for name in nothing} == dict.fromkeys(nothing)
    assert (entry["stages"], entry["route"], entry["upstream_sent"]) == ({}, "chat", "no")


def test_verdicts_are_shown_as_far_as_it_came() -> None:
    denial = Reply.of(403, "permission_error", "ip_not_allowed", IP_NOT_ALLOWED)
    stages = [
        make_stage("a", [], headers=None),
        make_stage("b", [], headers=denial),
        make_stage("c", [], headers=None),
    ]
    chain = Chain([*stages, make_stage("up", [], headers=None, terminal=True)])
    exchange = make_exchange()
    chain.proceed(exchange)
    assert read(exchange, chain=chain)["stages"] == {"a": "pass", "b": "deny ip_not_allowed"}


@pytest.mark.parametrize("aborted", ["client", "upstream", "gateway"])
def test_who_ended_it_early(aborted: str) -> None:
    exchange = make_exchange()
    exchange.aborted = aborted
    assert read(exchange)["aborted"] == aborted


def test_no_query_body_header_or_secret_is_in_it() -> None:
    exchange = make_exchange(
        ("Authorization", "Bearer sk-secret-header"),
        ("Cookie", "secret-cookie"),
        target=b"/v1/files?key=secret-query",
        body=b'{"prompt": "secret-prompt"}',
        api_key="sk-secret-body",
    )
    exchange.credential, exchange.authorization = "sk-secret-server", b"Bearer sk-secret-server"
    assert "secret" not in line_of(exchange, CHAIN, 0.0)


class TestDigest:
    def test_the_key_that_was_used_counts_before_the_one_that_came(self) -> None:
        exchange = make_exchange(("Authorization", "Bearer sk-client"))
        assert credential_digest(exchange) == digest("sk-client")
        exchange.credential = "sk-server"
        assert credential_digest(exchange) == digest("sk-server")

    @pytest.mark.parametrize("lines", [(), (("Authorization", "Bearer "),), (("Authorization", "Basic x"),)])
    def test_none_without_a_credential(self, lines: tuple[tuple[str, str], ...]) -> None:
        assert credential_digest(make_exchange(*lines)) is None

    def test_keys_that_begin_alike_differ(self) -> None:
        same = "sk-proj-0123456789abcdefghij"
        one, other = (make_exchange(("Authorization", f"Bearer {same}{end}")) for end in "12")
        assert credential_digest(one) != credential_digest(other)

    @pytest.mark.parametrize(
        "value", [b"Bearer \xff\xfe", b"Bearer a\r\nb", b"Bearer \x00", b"Bearer " + b"k" * 10_240]
    )
    def test_any_bytes_have_one(self, value: bytes) -> None:
        found = credential_digest(make_exchange((b"Authorization", value)))
        assert found is not None
        assert len(found) == 12
        assert int(found, 16) >= 0


@given(
    target=st.binary(max_size=50),
    method=st.text(max_size=10),
    forwarded=st.binary(max_size=50),
    model=st.one_of(st.none(), st.text(max_size=50), st.just("\ud800")),
    credential=st.one_of(st.none(), st.text(max_size=20), st.just("\udfff")),
)
def test_whatever_a_client_sends_the_line_is_whole(
    target: bytes, method: str, forwarded: bytes, model: str | None, credential: str | None
) -> None:
    exchange = make_exchange(target=target, method=method)
    exchange.forwarded_chain = forwarded.decode("latin-1")
    exchange.model = model
    exchange.credential = credential
    entry = read(exchange)
    assert entry["path"] == target.partition(b"?")[0].decode("latin-1")
    assert entry["method"] == method
    assert entry["forwarded"] == forwarded.decode("latin-1")
    assert entry["model"] == (model or None)


@pytest.mark.parametrize("filler", ["a", "\x00", "\x1b", "\u202e", "\U0001f600", '"'])
def test_no_client_can_write_a_long_line(filler: str) -> None:
    exchange = make_exchange(target=(filler * 1_000_000).encode("utf-8"))
    exchange.forwarded_chain = exchange.model = filler * 1_000_000
    assert len(line_of(exchange, CHAIN, 0.0)) < 32_768
    assert read(exchange)["model"] == filler * 1024
