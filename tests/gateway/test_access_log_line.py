"""One line of the access log: always one JSON object on one line, and never a secret in it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.core.chain import Chain
from proxy.core.exchange import Exchange, Route, UpstreamSent
from proxy.core.messages import IP_NOT_ALLOWED
from proxy.core.reply import Reply
from proxy.gateway.access_log import MAX_LINE_BYTES, line_of
from tests.support.canary import BODY_KEY, CLIENT_KEY, SERVER_KEY, UNUSUAL_KEY, assert_silent
from tests.support.exchange import make_exchange, make_stage

KEYS = [
    "v", "time_ns", "seq", "request_id", "peer_ip", "client_ip", "forwarded", "credential", "key", "route", "method",
    "path", "model", "stages", "status", "upstream_sent", "bytes_in", "bytes_out", "first_byte_ms", "total_ms",
    "stream",
    "aborted",
]  # fmt: skip
UPSTREAM = make_stage("upstream", [], headers=None, terminal=True)
CHAIN = Chain([make_stage("ip_allowlist", [], headers=None), make_stage("limit", [], headers=None), UPSTREAM])


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


def read(exchange: Exchange, now_s: float = 0.0, chain: Chain = CHAIN) -> dict[str, Any]:
    line = line_of(exchange, chain, now_s)
    assert line.isascii()
    assert line.endswith("}\n")
    assert line.count("\n") == 1
    assert len(line) <= MAX_LINE_BYTES
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
        '"bytes_in":350,"bytes_out":1200,"first_byte_ms":250.000,"total_ms":1500.000,"stream":null,"aborted":null}\n'
    )


def test_an_exchange_no_chain_saw() -> None:
    entry = read(make_exchange(route=Route.CHAT, target=b"/nowhere"))
    nothing = ("credential", "key", "model", "first_byte_ms", "stream", "aborted")
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
        assert read(exchange)["credential"] == digest("sk-client")
        exchange.credential = "sk-server"
        assert read(exchange)["credential"] == digest("sk-server")

    @pytest.mark.parametrize("lines", [(), (("Authorization", "Bearer "),), (("Authorization", "Basic x"),)])
    def test_none_without_a_credential(self, lines: tuple[tuple[str, str], ...]) -> None:
        assert read(make_exchange(*lines))["credential"] is None

    def test_keys_that_begin_alike_differ(self) -> None:
        same = "sk-proj-0123456789abcdefghij"
        one, other = (make_exchange(("Authorization", f"Bearer {same}{end}")) for end in "12")
        assert read(one)["credential"] != read(other)["credential"]

    @pytest.mark.parametrize(
        "value", [b"Bearer \xff\xfe", b"Bearer a\r\nb", b"Bearer \x00", b"Bearer " + b"k" * 10_240]
    )
    def test_any_bytes_have_one(self, value: bytes) -> None:
        found = read(make_exchange((b"Authorization", value)))["credential"]
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
    texts = (target.decode("latin-1"), method, forwarded.decode("latin-1"), model or "")
    # What is masked is tested above.
    assume(not any("sk-" in text or (credential and credential in text) for text in texts))
    exchange = make_exchange(target=target, method=method)
    exchange.forwarded_chain = forwarded.decode("latin-1")
    exchange.model = model
    exchange.credential = credential
    entry = read(exchange)
    assert entry["path"] == target.partition(b"?")[0].decode("latin-1")
    assert entry["method"] == method
    assert entry["forwarded"] == forwarded.decode("latin-1")
    assert entry["model"] == (model or None)


FILLERS = ["a", "\x00", "\x1b", "\x7f", "\u202e", "\U0001f600", "\ud800", '"', "\\"]


@pytest.mark.parametrize("filler", FILLERS)
def test_no_client_can_write_a_long_line(filler: str) -> None:
    exchange = make_exchange(target=(filler * 1_000_000).encode("utf-8", "surrogatepass"), method=filler * 100_000)
    exchange.forwarded_chain = exchange.model = filler * 1_000_000
    line = line_of(exchange, CHAIN, 0.0)
    assert len(line) <= MAX_LINE_BYTES
    # Nothing is cut that there was room for.
    assert len(line) > MAX_LINE_BYTES - 4 * 12 or filler == "a"
    entry = read(exchange)
    for name in ("model", "forwarded", "method", "path"):
        assert 100 < len(entry[name]) <= 1024
    assert set(entry["model"]) == {filler}


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("name", ["forwarded_chain", "model", "method"])
def test_one_long_text_may_have_the_room_of_all(name: str, filler: str) -> None:
    exchange = make_exchange()
    setattr(exchange, name, filler * 1024)
    entry = read(exchange)
    shown = entry[name.removesuffix("_chain")]
    assert len(shown) == 1024 or len(json.dumps(shown)) > 7000
    assert entry["path"] == "/v1/chat/completions"


text = st.text(st.one_of(st.characters(codec=None), st.sampled_from("\x1b\r\n\u202e\u2028\x7f")))


@given(
    texts=st.lists(st.tuples(text, st.integers(1, 2000)), min_size=3, max_size=3),
    target=st.tuples(st.binary(max_size=20), st.integers(1, 2000)),
    credential=st.one_of(st.none(), text),
    stages=st.integers(0, 300),
)
def test_the_limit_is_exact_for_any_text(
    texts: list[tuple[str, int]], target: tuple[bytes, int], credential: str | None, stages: int
) -> None:
    names = [f"stage_number_{number}" for number in range(stages)]
    chain = Chain([*(make_stage(name, [], headers=None) for name in names), UPSTREAM])
    exchange = make_exchange(target=target[0] * target[1])
    exchange.forwarded_chain, exchange.model, exchange.method = (words * count for words, count in texts)
    exchange.credential = credential
    chain.proceed(exchange)
    line = line_of(exchange, chain, 0.0)
    assert len(line) <= MAX_LINE_BYTES
    entry = read(exchange, chain=chain)
    assert not entry["stages"] or list(entry["stages"])[-1] == "upstream"


def test_a_chain_of_any_length_keeps_its_end() -> None:
    chain = Chain([*(make_stage(f"a_long_name_for_stage_{n}", [], headers=None) for n in range(1000)), UPSTREAM])
    exchange = make_exchange()
    chain.proceed(exchange)
    assert read(exchange, chain=chain)["stages"] == {"upstream": "pass"}
    endless = make_stage("n" * 10_000, [], headers=None, terminal=True)
    other = make_exchange()
    Chain([endless]).proceed(other)
    assert read(other, chain=Chain([endless]))["stages"] == {}


class TestKeysWhereTheyDoNotBelong:
    """A key that its owner has put into a path or a model's name is not written down."""

    @pytest.mark.parametrize("key", [CLIENT_KEY, UNUSUAL_KEY])
    @pytest.mark.parametrize("before", [0, 500, 1000, 1010, 1020, 1023, 1024, 5000])
    def test_the_credential_itself(self, key: str, before: int) -> None:
        around = "x" * before + "/"
        exchange = make_exchange(("Authorization", f"Bearer {key}"), target=f"{around}{key}/y?{key}".encode())
        exchange.model = exchange.forwarded_chain = f"{around}{key} {key}"
        entry = read(exchange)
        assert_silent(json.dumps(entry), "the line")
        assert entry["credential"] == digest(key)
        if before <= 1000:
            assert entry["path"] == f"{around}sk-***/y"

    def test_what_looks_like_a_key(self) -> None:
        exchange = make_exchange(target=f"/v1/models/{CLIENT_KEY}".encode())
        exchange.model = f"{BODY_KEY[:10]},{SERVER_KEY}"
        assert (read(exchange)["path"], read(exchange)["model"]) == ("/v1/models/sk-***", "sk-***,sk-***")

    @pytest.mark.parametrize("path", ["/v1/risk-assessment", "/v1/task-0123456789", "/v1/sk-1", "/v1/models/k"])
    def test_what_only_resembles_one_stays(self, path: str) -> None:
        exchange = make_exchange(("Authorization", "Bearer models"), target=path.encode())
        assert read(exchange)["path"] == path
