"""What the access log remembers from line to line: it stands for the same again, and is never another exchange's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from proxy.core.chain import Chain
from proxy.core.exchange import Exchange
from proxy.core.messages import IP_NOT_ALLOWED
from proxy.core.reply import Reply
from proxy.core.stage import Mode
from proxy.gateway import access_log
from proxy.gateway.access_log import line_of
from tests.support.exchange import make_exchange, make_stage

REMEMBERING = (access_log._stages, access_log._or_null, access_log._digest_of)
DENIAL = Reply.of(403, "permission_error", "ip_not_allowed", IP_NOT_ALLOWED)
OTHER_DENIAL = Reply.of(403, "permission_error", "other_code", IP_NOT_ALLOWED)
SECRETS = ["", "sk-one", "sk-two", "sk-one ", "null", '"', "\xff", "\udfff", "k" * 5000]
ODD_WORDS = ['a "word"', "back\\slash", "line\nfeed", "\x00\x1b", "\u202e\U0001f600", "\ud800", "null", "w" * 2000]


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    for remembering in REMEMBERING:
        remembering.cache_clear()
    yield
    for remembering in REMEMBERING:
        remembering.cache_clear()


def chain_of(**outcomes: Reply | None) -> Chain:
    """Stages of these names in front of the upstream, each with its answer."""
    stages = [make_stage(name, [], headers=outcome) for name, outcome in outcomes.items()]
    return Chain([*stages, make_stage("upstream", [], headers=None, terminal=True)])


def read(exchange: Exchange, chain: Chain) -> dict[str, Any]:
    line = line_of(exchange, chain, 1001.0)
    assert line.isascii()
    assert line.count("\n") == 1
    assert line.endswith("}\n")
    entry: dict[str, Any] = json.loads(line)
    return entry


def test_credentials_do_not_get_mixed_up() -> None:
    chain = chain_of()
    expected = {
        secret: hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()[:12] if secret else None
        for secret in SECRETS
    }
    assert len(set(expected.values())) == len(SECRETS)
    for _ in range(2):
        for secret in SECRETS:
            assert read(make_exchange(credential=secret), chain)["credential"] == expected[secret]
    # Those that travel as they came have the same, whoever used them before.
    for secret in SECRETS[1:3]:
        header = make_exchange(("Authorization", f"Bearer {secret}"))
        assert read(header, chain)["credential"] == expected[secret]


def test_more_credentials_than_are_remembered() -> None:
    chain = chain_of()
    secrets = [f"sk-{number}" for number in range(access_log._digest_of.cache_parameters()["maxsize"] + 10)]
    for secret in (*secrets, *secrets[:20]):
        expected = hashlib.sha256(secret.encode()).hexdigest()[:12]
        assert read(make_exchange(credential=secret), chain)["credential"] == expected


def test_words_do_not_get_mixed_up() -> None:
    """The three fields of one word each, by every combination of what they may be."""
    chain = chain_of()
    sources = [None, "", "client", "server"]
    combinations = list(product(sources, ["", "complete", "truncated"], ["", "client", "upstream", "gateway"]))
    for source, stream, aborted in combinations + combinations[::-1]:
        exchange = make_exchange()
        exchange.credential_source, exchange.stream, exchange.aborted = source, stream, aborted
        entry = read(exchange, chain)
        assert (entry["key"], entry["stream"], entry["aborted"]) == (source or None, stream or None, aborted or None)


@pytest.mark.parametrize("word", ODD_WORDS)
def test_a_word_that_a_stage_of_ones_own_has_made_up_is_json_all_the_same(word: str) -> None:
    chain = chain_of()
    for credential in (None, "sk-long-enough-to-be-masked"):
        for target in (b"/v1/models", b"/v1/models/sk-long-enough-to-be-masked"):
            for source in (word, "client", None, word):
                exchange = make_exchange(target=target)
                exchange.credential, exchange.credential_source = credential, source
                entry = read(exchange, chain)
                assert entry["key"] == source
                assert entry["path"] == ("/v1/models" if target == b"/v1/models" else "/v1/models/sk-***")


def test_a_word_set_by_a_stage_is_that_exchanges_alone() -> None:
    class Vault(type(make_stage("vault", [], headers=None))):  # type: ignore[misc]
        def on_request_headers(self, exchange: Exchange) -> None:
            if exchange.client_ip == "192.0.2.1":
                exchange.credential, exchange.credential_source = "sk-from-the-vault", 'the "vault"'

    chain = Chain([Vault("vault", Mode.ENFORCE), make_stage("upstream", [], headers=None, terminal=True)])
    for client_ip, key in 2 * [("192.0.2.1", 'the "vault"'), ("192.0.2.2", None)]:
        exchange = make_exchange(client_ip=client_ip)
        chain.proceed(exchange)
        entry = read(exchange, chain)
        assert (entry["key"], entry["credential"] is None) == (key, key is None)


def test_verdicts_of_one_chain_are_not_anothers() -> None:
    chains = [
        chain_of(),
        chain_of(a=None),
        chain_of(a=None, b=None),
        chain_of(b=None, a=None),
        chain_of(a=DENIAL),
        chain_of(a=OTHER_DENIAL),
        chain_of(a=None, b=DENIAL, c=None),
    ]
    expected = [
        {"upstream": "pass"},
        {"a": "pass", "upstream": "pass"},
        {"a": "pass", "b": "pass", "upstream": "pass"},
        {"b": "pass", "a": "pass", "upstream": "pass"},
        {"a": "deny ip_not_allowed"},
        {"a": "deny other_code"},
        {"a": "pass", "b": "deny ip_not_allowed"},
    ]
    for _ in range(2):
        for chain, verdicts in zip(chains, expected, strict=True):
            exchange = make_exchange()
            assert read(exchange, chain)["stages"] == {}
            chain.proceed(exchange)
            shown = read(exchange, chain)["stages"]
            assert list(shown.items()) == list(verdicts.items())


def test_verdicts_of_one_exchange_are_not_the_next_ones() -> None:
    """The same chain: passed, stopped on the way, left unfinished, and refused in shadow."""
    watching = make_stage("watching", [], headers=DENIAL, mode=Mode.SHADOW)
    waiting = make_stage("waiting", [], body=None)
    chain = Chain([watching, waiting, make_stage("upstream", [], headers=None, terminal=True)])
    for _ in range(2):
        exchange = make_exchange()
        chain.proceed(exchange)
        shadowed = {"watching": "shadow_deny ip_not_allowed"}
        assert read(exchange, chain)["stages"] == shadowed | {"waiting": "unfinished"}
        exchange.refused_with = "body_too_large"
        assert read(exchange, chain)["stages"] == shadowed | {"waiting": "stopped body_too_large"}
        whole = make_exchange(body=b"{}")
        chain.proceed(whole)
        assert read(whole, chain)["stages"] == shadowed | {"waiting": "pass", "upstream": "pass"}
        whole.shadowed = None
        assert set(read(whole, chain)["stages"].values()) == {"pass"}


@pytest.mark.parametrize("code", ODD_WORDS[:-1])
def test_a_code_of_ones_own_is_json_all_the_same(code: str) -> None:
    chain = chain_of(a=Reply.of(403, "permission_error", code, IP_NOT_ALLOWED))
    exchange = make_exchange()
    chain.proceed(exchange)
    for _ in range(2):
        assert read(exchange, chain)["stages"] == {"a": f"deny {code}"}


def test_what_is_remembered_is_bounded() -> None:
    for remembering in REMEMBERING:
        assert 0 < (remembering.cache_parameters()["maxsize"] or 0) <= 1024


def test_long_credentials_are_not_remembered() -> None:
    for number in range(3):
        assert access_log._digest(f"{number}" * 100_000) != access_log._digest("x" * 100_000)
    assert access_log._digest_of.cache_info().currsize == 0
