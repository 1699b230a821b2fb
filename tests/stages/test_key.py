"""key: whose key the upstream sees, and that no key is ever shown."""

from __future__ import annotations

import base64
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from proxy.core.exchange import Exchange, Route
from proxy.core.messages import KEY_MALFORMED, KEY_MISSING, KEY_MISSING_CHAT, Sentence
from proxy.core.reply import Reply
from proxy.core.stage import Mode
from proxy.stages.key import Key, KeyConfig, bearer
from tests.stages.configs import refusal
from tests.support.exchange import make_exchange, make_services

MISSING = Reply(401, "invalid_request_error", "missing_api_key", (Sentence(KEY_MISSING),))
MISSING_CHAT = Reply(400, "invalid_request_error", "missing_api_key", (Sentence(KEY_MISSING_CHAT),), "api_key")
MALFORMED = Reply(400, "invalid_request_error", "invalid_api_key", (Sentence(KEY_MALFORMED),), "api_key")
PLACEHOLDERS = ["", "none", "null", "dummy", "EMPTY", "not-needed", "sk-no-key-required", "x"]
IN_ANY_CASE = sorted({form for word in PLACEHOLDERS for form in (word, word.upper(), word.title(), f" {word}\t")})

# What the upstream is sent: the client's own header line as it came, a line of ours, or nothing because we answer.
OWN_LINE = "the client's own line"
Outcome = tuple[str | None, str | None, str | None]
"""(credential, its source, what the upstream sees)"""


def make(*server_keys: str, **fields: object) -> Key:
    keys = [SecretStr(key) for key in server_keys]
    return Key("key", KeyConfig.model_validate({"server_keys": keys, **fields}), make_services())


def ask(stage: Key, exchange: Exchange) -> Reply | None:
    """Run the request hooks as the chain does."""
    reply = stage.on_request_headers(exchange)
    if reply is None and stage.wants_body(exchange):
        reply = stage.on_request_body(exchange)
    return reply


class Case(NamedTuple):
    """A request as it came, of which any number of exchanges can be made."""

    route: Route
    authorization: str | bytes | None
    api_key: str | None = None

    def exchange(self) -> Exchange:
        raw = self.authorization.encode("latin-1") if isinstance(self.authorization, str) else self.authorization
        lines = [] if raw is None else [(b"Authorization", raw)]
        return make_exchange(*lines, route=self.route, api_key=self.api_key)


def api(authorization: str | bytes | None) -> Case:
    return Case(Route.API, authorization)


def chat(api_key: str | None, authorization: str | bytes | None = None) -> Case:
    return Case(Route.CHAT, authorization, api_key)


def outcome(exchange: Exchange) -> Outcome:
    sent = exchange.authorization
    return exchange.credential, exchange.credential_source, OWN_LINE if sent is None else sent.decode("ascii")


class TestConfig:
    @pytest.mark.parametrize(
        ("key", "position"),
        [
            ("", 1),
            ("sk bad", 1),
            ("sk-bad\n", 1),
            ("sk-bad\r\nX-Evil: 1", 2),
            ("sk-\x00", 1),
            ("sk-ключ", 2),
            ("k" * 4097, 1),
        ],
    )
    def test_bad_server_keys(self, key: str, position: int) -> None:
        keys = ["sk-good"] * (position - 1) + [key]
        expected = f"Value error, key {position} is empty or holds spaces, control or non-ASCII characters"
        assert refusal(KeyConfig, server_keys=keys) == f"server_keys: {expected}"

    def test_other_bad_values(self) -> None:
        assert refusal(KeyConfig, server_keys="sk-one") == "server_keys: Input should be a valid list"
        assert refusal(KeyConfig, server_keys=[1]) == "server_keys.0: Input should be a valid string"
        assert refusal(KeyConfig, prefer="both") == "prefer: Input should be 'client' or 'server'"
        assert refusal(KeyConfig, placeholders=[None]) == "placeholders.0: Input should be a valid string"
        assert (
            refusal(KeyConfig, prefer="server")
            == ": Value error, prefer: server needs at least one key in server_keys"
        )
        assert refusal(KeyConfig, server_key="sk-one") == "server_key: Extra inputs are not permitted"

    def test_the_longest_key(self) -> None:
        assert ask(make("k" * 4096), api(None).exchange()) is None

    @pytest.mark.parametrize(
        "fields",
        [
            {"server_keys": ["sk-secret key"]},
            {"server_keys": ["sk-secret"], "prefer": "nobody", "mode": "on"},
            {"server_key": "sk-secret"},
            {"server_keys": "sk-secret"},
            {"server_keys": [["sk-secret"]]},
        ],
    )
    def test_a_problem_does_not_show_the_key(self, fields: dict[str, object]) -> None:
        with pytest.raises(ValidationError) as caught:
            KeyConfig.model_validate(fields)
        assert "secret" not in str(caught.value)
        assert "secret" not in repr(caught.value)

    def test_a_config_does_not_show_the_key(self) -> None:
        config = KeyConfig(server_keys=[SecretStr("sk-secret")])
        for shown in (repr(config), str(config), config.model_dump_json(), repr(config.model_dump())):
            assert "secret" not in shown


# fmt: off
NO_SERVER_KEY: list[tuple[Case, Outcome]] = [
    (api("Bearer sk-client"), ("sk-client", "client", OWN_LINE)),
    (api("bearer sk-client"), ("sk-client", "client", OWN_LINE)),
    (api("BEARER   sk-client "), ("sk-client", "client", OWN_LINE)),
    (chat("sk-body"), ("sk-body", "client", "Bearer sk-body")),
    (chat(" sk-body\n"), ("sk-body", "client", "Bearer sk-body")),
    (chat("sk-body", "Bearer sk-header"), ("sk-body", "client", "Bearer sk-body")),
    (chat(None, "Bearer sk-header"), ("sk-header", "client", OWN_LINE)),
    (chat("dummy", "Bearer sk-header"), ("sk-header", "client", OWN_LINE)),
    (chat("k" * 4096), ("k" * 4096, "client", f"Bearer {'k' * 4096}")),
]
REFUSED: list[tuple[Case, Reply]] = [
    (api(None), MISSING),
    (api(""), MISSING),
    (api("Bearer"), MISSING),
    (api("Bearer "), MISSING),
    (api("Bearer  \t "), MISSING),
    (api("Basic c2stY2xpZW50"), MISSING),
    (api("sk-client"), MISSING),
    (chat(None), MISSING_CHAT),
    (chat(""), MISSING_CHAT),
    (chat("none", "Bearer dummy"), MISSING_CHAT),
    (chat(None, "Basic c2stY2xpZW50"), MISSING_CHAT),
    (chat("sk\r\nX-Evil: 1"), MALFORMED),
    (chat("sk-\n-key"), MALFORMED),
    (chat("sk-\x00"), MALFORMED),
    (chat("sk-ключ"), MALFORMED),
    (chat("sk-\ud800"), MALFORMED),
    (chat("' OR '1'='1"), MALFORMED),
    (chat("k" * 10_240), MALFORMED),
    (chat("two keys", "Bearer sk-header"), MALFORMED),
]
# fmt: on


class TestWithoutServerKeys:
    @pytest.mark.parametrize(("case", "expected"), NO_SERVER_KEY)
    def test_the_clients_key_is_used(self, case: Case, expected: Outcome) -> None:
        exchange = case.exchange()
        assert ask(make(), exchange) is None
        assert outcome(exchange) == expected

    @pytest.mark.parametrize(("case", "reply"), REFUSED)
    def test_no_key_or_a_malformed_one_is_refused(self, case: Case, reply: Reply) -> None:
        exchange = case.exchange()
        assert ask(make(), exchange) == reply
        assert outcome(exchange) == (None, None, OWN_LINE)

    @pytest.mark.parametrize("placeholder", IN_ANY_CASE)
    def test_a_placeholder_is_no_key(self, placeholder: str) -> None:
        assert ask(make(), api(f"Bearer {placeholder}").exchange()) == MISSING
        assert ask(make(), chat(placeholder).exchange()) == MISSING_CHAT

    def test_the_operators_own_placeholders(self) -> None:
        stage = make(placeholders=["", "Internal"])
        assert ask(stage, api("Bearer INTERNAL").exchange()) == MISSING
        assert ask(stage, api("Bearer dummy").exchange()) is None

    @pytest.mark.parametrize(
        "key", ["' OR '1'='1", "k" * 10_240, "a\x00b", "k\xff\xe9", "sk\r\nX-Evil: 1", "sk\x85", "\xa0"]
    )
    def test_an_odd_key_in_the_header_goes_on_as_it_came(self, key: str) -> None:
        # It stands in the client's own line: refusing it is the upstream's business, and nothing is copied.
        exchange = api(f"Bearer {key}").exchange()
        assert ask(make(), exchange) is None
        assert outcome(exchange) == (key, "client", OWN_LINE)


class TestWithServerKeys:
    @pytest.mark.parametrize("case", [case for case, _ in NO_SERVER_KEY])
    def test_the_clients_own_key_comes_first(self, case: Case) -> None:
        exchange = case.exchange()
        assert ask(make("sk-server"), exchange) is None
        assert exchange.credential_source == "client"

    @pytest.mark.parametrize(
        "case",
        [
            *(case for case, reply in REFUSED if reply != MALFORMED),
            *(api(f"Bearer {placeholder}") for placeholder in IN_ANY_CASE),
            *(chat(placeholder, "Bearer x") for placeholder in IN_ANY_CASE),
        ],
    )
    def test_without_one_the_servers_is_used(self, case: Case) -> None:
        exchange = case.exchange()
        assert ask(make("sk-server"), exchange) is None
        assert outcome(exchange) == ("sk-server", "server", "Bearer sk-server")

    @pytest.mark.parametrize("case", [case for case, reply in REFUSED if reply == MALFORMED])
    def test_a_malformed_key_is_refused_all_the_same(self, case: Case) -> None:
        exchange = case.exchange()
        assert ask(make("sk-server"), exchange) == MALFORMED
        assert exchange.credential is None

    @pytest.mark.parametrize("case", [case for case, *_ in NO_SERVER_KEY] + [case for case, _ in REFUSED])
    def test_prefer_server_uses_it_whatever_came(self, case: Case) -> None:
        exchange = case.exchange()
        stage = make("sk-server", prefer="server")
        assert not stage.wants_body(exchange)
        assert stage.on_request_headers(exchange) is None
        assert outcome(exchange) == ("sk-server", "server", "Bearer sk-server")

    def test_several_are_used_in_turn(self) -> None:
        stage = make("sk-1", "sk-2", "sk-3")
        used = []
        for _ in range(7):
            exchange = api(None).exchange()
            ask(stage, exchange)
            used.append(exchange.credential)
            ask(stage, api("Bearer sk-client").exchange())  # takes none
        assert used == ["sk-1", "sk-2", "sk-3", "sk-1", "sk-2", "sk-3", "sk-1"]

    def test_keys_that_begin_alike_are_two_keys(self) -> None:
        for key in ("sk-proj-0123456789abcdefghij-one", "sk-proj-0123456789abcdefghij-two"):
            exchange = api(f"Bearer {key}").exchange()
            assert ask(make("sk-server"), exchange) is None
            assert exchange.credential == key


class TestPhases:
    def test_only_the_chat_route_waits_for_the_body(self) -> None:
        stage = make("sk-server")
        assert stage.wants_body(chat("sk-body").exchange())
        assert not stage.wants_body(api("Bearer sk-client").exchange())
        exchange = chat("sk-body").exchange()
        assert stage.on_request_headers(exchange) is None
        assert outcome(exchange) == (None, None, OWN_LINE)

    @pytest.mark.parametrize("prefer", ["client", "server"])
    @pytest.mark.parametrize("case", [api(None), api("Bearer sk-client"), chat("sk-body"), chat(None)])
    def test_shadow_writes_nothing_and_uses_up_no_key(self, case: Case, prefer: str) -> None:
        exchange = case.exchange()
        stage = make("sk-1", "sk-2", prefer=prefer, mode=Mode.SHADOW)
        assert ask(stage, exchange) is None
        assert outcome(exchange) == (None, None, OWN_LINE)
        assert next(stage._server_keys) == "sk-1"

    def test_shadow_still_says_what_it_would_refuse(self) -> None:
        assert ask(make(mode=Mode.SHADOW), api(None).exchange()) == MISSING


@given(
    header=st.one_of(st.none(), st.binary(max_size=40), st.binary(max_size=40).map(lambda key: b"Bearer " + key)),
    api_key=st.one_of(st.none(), st.text(max_size=40), st.text(st.characters(max_codepoint=127), max_size=40)),
    route=st.sampled_from(Route),
    server_keys=st.sampled_from([(), ("sk-server",)]),
)
def test_whatever_comes_is_answered_or_safe_to_send(
    header: bytes | None, api_key: str | None, route: Route, server_keys: tuple[str, ...]
) -> None:
    exchange = (api(header) if route is Route.API else chat(api_key, header)).exchange()
    stage = make(*server_keys)
    reply = ask(stage, exchange)
    assert "\n" not in stage.explain(exchange)
    if reply is not None:
        assert reply in (MISSING, MISSING_CHAT, MALFORMED)
        assert exchange.credential is None
    else:
        assert exchange.credential_source in ("client", "server")
        sent = exchange.authorization
        assert sent is None or (sent.startswith(b"Bearer ") and all(0x21 <= byte <= 0x7E for byte in sent[7:]))
        assert sent is not None or header is not None


class TestSecrecy:
    CANARY = "sk-canary-0123456789abcdefghijklmnop"

    @pytest.mark.parametrize("route", list(Route))
    @pytest.mark.parametrize("prefer", ["client", "server"])
    @pytest.mark.parametrize("spoilt", ["", " \x00"])
    def test_no_secret_is_shown(self, route: Route, prefer: str, spoilt: str) -> None:
        client_key = self.CANARY + "-client" + spoilt
        exchange = make_exchange(
            ("Authorization", f"Bearer {client_key}"), route=route, api_key=client_key, target=b"/v1/x?k=" + b"secret"
        )
        stage = make(self.CANARY + "-server", prefer=prefer)
        reply = ask(stage, exchange)
        shown = [stage, exchange, exchange.headers, reply, stage.explain(exchange), exchange.credential_source]
        for text in (f"{thing!r} {thing}" for thing in shown):
            for secret in (self.CANARY[3:15], base64.b64encode(self.CANARY.encode()).decode(), "secret"):
                assert secret not in text


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (None, None),
        ("", None),
        ("Bearer", None),
        ("Bearer ", ""),
        ("bEaReR sk", "sk"),
        ("Bearer sk two", "sk two"),
        ("Basic sk", None),
        ("Bearersk", None),
        (b"Bearer \xff", "\xff"),
    ],
)
def test_bearer(value: str | bytes | None, token: str | None) -> None:
    assert bearer(api(value).exchange()) == token


EXPLAINED: list[tuple[Key, Case, str]] = [
    (make(), api("Bearer sk-client"), "the client's own key is used"),
    (make("sk-s"), chat("sk-body"), "the client's own key is used"),
    (make("sk-s"), api(None), "the client sent no key, so a server key is used"),
    (make("sk-s"), api("Bearer dummy"), "the client sent only a placeholder, so a server key is used"),
    (make(), api("Bearer "), "the client sent no key, and there is no server key"),
    (make(), chat("none"), "the client sent only a placeholder, and there is no server key"),
    (make("s", prefer="server"), api("Bearer sk"),
     "the server's key is used, whatever the client sent (prefer: server)"),
]  # fmt: skip


@pytest.mark.parametrize(("stage", "case", "explained"), EXPLAINED)
def test_explain(stage: Key, case: Case, explained: str) -> None:
    assert stage.explain(case.exchange()) == explained
