"""The models of the settings: their defaults, and what single values may be."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from proxy.settings import ConfigError, Settings, load
from proxy.settings.listen import Listen
from proxy.settings.model import SimpleChat
from proxy.settings.section import Section
from proxy.settings.shape import leaves, section_model


def test_the_defaults_are_those_of_the_published_table() -> None:
    settings = load({}, {}).settings
    assert settings == Settings()
    assert (settings.listeners[0].host, settings.listeners[0].port) == ("0.0.0.0", 5000)
    assert (settings.admin.host, settings.admin.port, settings.admin.enabled) == ("127.0.0.1", 5001, True)
    assert settings.chain == list(settings.stages) == ["ip_allowlist", "limit", "key", "upstream"]
    assert settings.simple_chat.max_tokens.model_dump() == {"default": 100, "maximum": 3500}
    assert settings.model_aliases == {"text-davinci-003": "gpt-4.1-mini"}
    assert settings.downstream.max_body_bytes == 2 * 1024**3


def test_every_setting_is_described_in_one_line() -> None:
    for leaf in leaves().values():
        assert leaf.description, leaf
        assert "\n" not in leaf.description


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().listeners[0].port = 1


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
    with pytest.raises(ConfigError, match=r"downstream\.body_timeout_s"):
        load({"downstream": {"body_timeout_s": value}}, {})


@pytest.mark.parametrize(("given", "language"), [("zh", "zh_CN"), ("zh_TW.UTF-8", "zh_TW"), ("ru_RU", "ru_RU")])
def test_a_language_may_be_spelled_otherwise(given: str, language: str) -> None:
    assert load({"language": given}, {}).settings.language == language


def test_no_model_takes_unknown_keys_or_converts() -> None:
    def models(model: type[BaseModel]) -> list[type[BaseModel]]:
        inner = [section_model(field.annotation) for field in model.model_fields.values()]
        return [model, *[one for below in inner if below is not None for one in models(below)]]

    assert len(models(Settings)) == 11
    for model in models(Settings):
        assert issubclass(model, Section)
        assert model.model_config.get("extra") == "forbid"
        assert model.model_config.get("strict") is True


def test_the_defaults_of_what_guards_the_gateway() -> None:
    settings = Settings()
    assert settings.downstream.write_timeout_s == 60
    assert settings.overload.model_dump() == {"max_connections": 0, "max_in_flight": 0, "max_memory_bytes": 0}
    assert settings.drain.model_dump() == {"delay_s": 0, "timeout_s": 660}
    assert settings.client_ip_header == "x-forwarded-for"
    upstream = settings.stages["upstream"].model_dump()
    assert (upstream["heartbeat_s"], upstream["max_connections"]) == (0, 0)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("OVERLOAD__MAX_MEMORY_BYTES", "67108863", "write at least 67108864 (64 MiB), or 0 for no cap"),
        ("OVERLOAD__MAX_CONNECTIONS", "-1", "must be at least 0, not the number -1"),
        ("OVERLOAD__MAX_IN_FLIGHT", "1.5", "must be an integer, not the number 1.5"),
        ("DRAIN__DELAY_S", "-1", "must be at least 0.0, not the number -1"),
        ("DRAIN__TIMEOUT_S", "86401", "must be at most 86400.0, not the number 86401"),
        ("DOWNSTREAM__WRITE_TIMEOUT_S", "0", "must be more than 0.0, not the number 0"),
        ("STAGES__UPSTREAM__HEARTBEAT_S", "0.5", "write at least 1 second, or 0 for off"),
        ("STAGES__UPSTREAM__MAX_CONNECTIONS", "-1", "must be at least 0, not the number -1"),
        ("CLIENT_IP_HEADER", "x-real-ip", "must be x-forwarded-for, forwarded or cf-connecting-ip, not the text"),
        ("CLIENT_IP_HEADER", "X-Forwarded-For", "did you mean"),
    ],
)
def test_what_guards_the_gateway_has_bounds(variable: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load({}, {f"SLUICE__{variable}": text})
    (problem,) = raised.value.problems
    assert problem.path == variable.lower().replace("__", ".")
    assert message in f"{problem.message}; {problem.hint}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OVERLOAD__MAX_MEMORY_BYTES", "67108864"),
        ("DRAIN__TIMEOUT_S", "0"),
        ("STAGES__UPSTREAM__HEARTBEAT_S", "1"),
        ("CLIENT_IP_HEADER", "cf-connecting-ip"),
    ],
)
def test_the_bounds_themselves_are_within(variable: str, text: str) -> None:
    loaded = load({}, {f"SLUICE__{variable}": text})
    assert str(loaded.origins[variable.lower().replace("__", ".")]) == f"environment SLUICE__{variable}"
