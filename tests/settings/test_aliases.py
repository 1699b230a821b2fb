"""The short names: what they set, when they are ignored, and what is said about that."""

from __future__ import annotations

import pytest

from proxy.settings import load
from tests.settings.loading import environment_complaints
from tests.settings.test_environment import keys_of

GUARDED = {"IP_ALLOWLIST": "10.0.0.0/8"}


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("SECOND_LIMIT", "1", "stages.limit.second", 1),
        ("MINUTE_LIMIT", "3", "stages.limit.minute", 3),
        ("HOUR_LIMIT", "50", "stages.limit.hour", 50),
        ("DAY_LIMIT", "200", "stages.limit.day", 200),
        ("ROUTE", "/api/", "simple_chat.route", "api"),
        ("OPENAI_BASE_URL", "http://h/v1", "stages.upstream.base_url", "http://h/v1"),
        ("IP_ALLOWLIST", "10.0.0.0/8, any", "stages.ip_allowlist.allow", ["10.0.0.0/8", "any"]),
        ("TRUSTED_PROXIES", "10.0.0.1", "trusted_proxies", ["10.0.0.1"]),
        ("PORT", "8080", "listen.port", 8080),
        ("LOG_LEVEL", "INFO", "log_level", "info"),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("LANG", "zh_TW.UTF-8", "language", "zh_TW"),
        ("LANG", "ru", "language", "ru_RU"),
    ],
)
def test_short_names_set_what_they_stand_for(name: str, text: str, path: str, value: object) -> None:
    loaded = load(None, {name: text})
    found: object = loaded.settings
    for part in path.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert str(loaded.origins[path]) == f"environment {name}"


@pytest.mark.parametrize(
    "name",
    [
        *["API_KEY", "API_KEY_FILE", "OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "OPENAI_BASE_URL", "TRUSTED_PROXIES"],
        *["SECOND_LIMIT", "MINUTE_LIMIT", "HOUR_LIMIT", "DAY_LIMIT", "ROUTE", "LANG", "PORT", "LOG_LEVEL"],
    ],
)
def test_an_empty_short_name_counts_as_unset(name: str) -> None:
    nothing = load(None, {})
    found = load(None, {name: ""})
    assert (found.settings, found.origins, found.notices) == (nothing.settings, nothing.origins, nothing.notices)


def test_several_keys_are_separated_by_commas() -> None:
    assert keys_of(load(None, {"API_KEY": "sk-a, sk-b"}).settings) == ["sk-a", "sk-b"]


@pytest.mark.parametrize(
    ("written", "lang", "language", "notice"),
    [
        (None, "zh_CN", "zh_CN", False),
        (None, "C", "en_US", False),
        (None, "POSIX", "en_US", False),
        (None, "C.UTF-8", "en_US", False),
        (None, "de_DE.UTF-8", "en_US", True),
        ("ru_RU", "zh_CN", "ru_RU", False),
        ("ru_RU", "de_DE", "ru_RU", False),
    ],
)
def test_lang_only_fills_what_the_file_leaves_open(
    written: str | None, lang: str, language: str, notice: bool
) -> None:
    loaded = load({} if written is None else {"language": written}, {"LANG": lang})
    assert loaded.settings.language == language
    ignored = f"LANG={lang} is ignored: it names no language we have; answers are in en_US"
    assert (ignored in loaded.notices) is notice


def test_a_language_by_its_path_outranks_lang_and_file() -> None:
    loaded = load({"language": "ru_RU"}, {"LANG": "zh_CN", "SLUICE__LANGUAGE": "zh_TW"})
    assert loaded.settings.language == "zh_TW"


@pytest.mark.parametrize(
    "environ",
    [
        GUARDED,
        {"IP_ALLOWLIST": "unix"},
        {"SLUICE__LISTEN__HOST": "127.0.0.1"},
        {"SLUICE__LISTEN__HOST": "::1"},
        {"SLUICE__LISTEN__HOST": "localhost"},
        {"SLUICE__CHAIN": "door,key,upstream", "SLUICE__STAGES__DOOR__TYPE": "ip_allowlist"}
        | {"SLUICE__STAGES__DOOR__ALLOW": "10.0.0.1"},
    ],
)
def test_the_ambient_key_is_used_where_strangers_cannot_reach_it(environ: dict[str, str]) -> None:
    loaded = load(None, {"OPENAI_API_KEY": "sk-ambient", **environ})
    assert keys_of(loaded.settings) == ["sk-ambient"]
    assert str(loaded.origins["stages.key.server_keys"]) == "environment OPENAI_API_KEY"
    assert not [notice for notice in loaded.notices if "KEY" in notice]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"IP_ALLOWLIST": "any"},
        {"IP_ALLOWLIST": "10.0.0.0/8,any"},
        {"IP_ALLOWLIST": "10.0.0.0/8,0.0.0.0/0"},
        {"IP_ALLOWLIST": "::/0"},
        {**GUARDED, "SLUICE__STAGES__IP_ALLOWLIST__MODE": "shadow"},
        {**GUARDED, "SLUICE__STAGES__IP_ALLOWLIST__MODE": "off"},
        {**GUARDED, "SLUICE__CHAIN": "key,upstream"},
        {**GUARDED, "TRUSTED_PROXIES": "0.0.0.0/0"},
        {"SLUICE__LISTEN__HOST": "::"},
        {"SLUICE__LISTEN__HOST": "192.168.0.1"},
    ],
)
def test_the_ambient_key_is_ignored_where_strangers_could_spend_it(environ: dict[str, str]) -> None:
    loaded = load(None, {"OPENAI_API_KEY": "sk-ambient", **environ})
    assert keys_of(loaded.settings) == []
    assert [notice for notice in loaded.notices if notice.startswith("OPENAI_API_KEY is ignored: everybody could")]
    assert "sk-ambient" not in str(loaded.notices)


def test_an_ignored_key_is_not_even_judged() -> None:
    assert keys_of(load(None, {"OPENAI_API_KEY": "not a key"}).settings) == []


@pytest.mark.parametrize(
    ("config", "environ"),
    [
        ({"stages": {"key": {"server_keys": ["sk-own"]}}}, {}),
        ({}, {"API_KEY": "sk-own"}),
        ({}, {"SLUICE__STAGES__KEY__SERVER_KEYS": "sk-own"}),
    ],
)
def test_the_ambient_key_gives_way_to_any_other(config: dict[str, object], environ: dict[str, str]) -> None:
    loaded = load(config, {"OPENAI_API_KEY": "sk-ambient", **GUARDED, **environ})
    assert keys_of(loaded.settings) == ["sk-own"]


def test_without_a_key_stage_nothing_is_said_about_spending() -> None:
    loaded = load({"chain": ["upstream"]}, {"OPENAI_API_KEY": "sk-ambient"})
    assert loaded.notices == [
        "OPENAI_API_KEY has no effect: the chain has no stage named key. "
        "Set SLUICE__STAGES__<NAME>__SERVER_KEYS instead"
    ]


def test_the_ambient_key_satisfies_a_stage_that_prefers_the_servers() -> None:
    environ = {"OPENAI_API_KEY": "sk-ambient", "SLUICE__STAGES__KEY__PREFER": "server"}
    assert keys_of(load(None, environ | GUARDED).settings) == ["sk-ambient"]


def test_where_it_was_ignored_the_complaint_says_so() -> None:
    environ = {"OPENAI_API_KEY": "sk-ambient", "SLUICE__STAGES__KEY__PREFER": "server"}
    (found,) = environment_complaints(environ)
    assert "prefer: server needs at least one key in server_keys; OPENAI_API_KEY is ignored: everybody" in found
