"""The models of the settings: their defaults, and what single values may be."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from proxy.settings import ConfigError, Settings, load
from proxy.settings.model import Listen, SimpleChat
from proxy.settings.shape import leaves


def test_the_defaults_are_those_of_the_published_table() -> None:
    settings = load({}, {}).settings
    assert settings == Settings()
    assert (settings.listen.host, settings.listen.port) == ("0.0.0.0", 5000)
    assert (settings.admin.host, settings.admin.port, settings.admin.enabled) == ("127.0.0.1", 5001, True)
    assert settings.chain == list(settings.stages) == ["ip_allowlist", "limit", "key", "upstream"]
    assert settings.simple_chat.max_tokens.model_dump() == {"default": 100, "maximum": 3500}
    assert settings.model_aliases == {"text-davinci-003": "gpt-4.1-mini"}
    assert settings.listen.max_body_bytes == 2 * 1024**3


def test_every_setting_is_described_in_one_line() -> None:
    for leaf in leaves().values():
        assert leaf.description, leaf
        assert "\n" not in leaf.description


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().listen.port = 1


@pytest.mark.parametrize(
    ("given", "route"),
    [
        ("", ""),
        ("/", ""),
        ("api", "api"),
        ("/api/", "api"),
        ("team/chat", "team/chat"),
        ("v1x", "v1x"),
        ("a.b", "a.b"),
    ],
)
def test_a_route_loses_the_slashes_at_its_ends(given: str, route: str) -> None:
    assert SimpleChat(route=given).route == route


@pytest.mark.parametrize(
    "route",
    [
        "v1",
        "/v1/",
        "v1/chat",
        "healthz",
        "readyz",
        "..",
        "a/../b",
        ".",
        "a/./b",
        "a//b",
        "a b",
        "a?b",
        "a#b",
        "a%2e",
        "a\\b",
        "a\nb",
        "чат",
        "a\x00",
    ],
)
def test_routes_that_clash_or_are_no_plain_path_are_refused(route: str) -> None:
    with pytest.raises(ConfigError, match=r"simple_chat\.route"):
        load({"simple_chat": {"route": route}}, {})


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "127.0.0.1", "::", "::1", "fe80::1%eth0", "localhost", "gateway.example.com", "a_b", "host."]
)
def test_hosts_to_listen_on(host: str) -> None:
    assert Listen(host=host).host == host


@pytest.mark.parametrize(
    "host",
    [
        "",
        "*",
        "[::1]",
        "127.1",
        "2130706433",
        "0x7f.1",
        "010.0.0.1",
        "256.0.0.1",
        "a b",
        "-a",
        "a..b",
        "é",
        "a:b",
        "x" * 64,
        ".".join(["abc"] * 70),
        "10.0.0.0/8",
    ],
)
def test_hosts_that_cannot_be_listened_on_are_refused(host: str) -> None:
    for section in ("listen", "admin"):
        with pytest.raises(ConfigError, match=rf"{section}\.host"):
            load({section: {"host": host}}, {})


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e9, -1.0])
def test_timeouts_are_finite_and_reasonable(value: float) -> None:
    with pytest.raises(ConfigError, match=r"listen\.body_timeout_s"):
        load({"listen": {"body_timeout_s": value}}, {})


@pytest.mark.parametrize(("given", "language"), [("zh", "zh_CN"), ("zh_TW.UTF-8", "zh_TW"), ("ru_RU", "ru_RU")])
def test_a_language_may_be_spelled_otherwise(given: str, language: str) -> None:
    assert load({"language": given}, {}).settings.language == language


def test_no_model_takes_unknown_keys_or_converts() -> None:
    def models(model: type[BaseModel]) -> list[type[BaseModel]]:
        inner = [f.annotation for f in model.model_fields.values()]
        below = [m for m in inner if isinstance(m, type) and issubclass(m, BaseModel)]
        return [model, *[one for m in below for one in models(m)]]

    assert len(models(Settings)) == 6
    for model in models(Settings):
        assert model.model_config.get("extra") == "forbid"
        assert model.model_config.get("strict") is True
