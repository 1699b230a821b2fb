"""Settings by their path in the environment: types, lists, secrets in files."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.core.stage import Mode
from proxy.settings import ConfigError, Settings, load
from proxy.settings.shape import leaves
from proxy.stages.key import KeyConfig
from proxy.stages.upstream import UpstreamConfig
from tests.settings.loading import environment_complaints

KEYS = "SLUICE__STAGES__KEY__SERVER_KEYS"


def keys_of(settings: Settings) -> list[str]:
    config = settings.stages["key"]
    assert isinstance(config, KeyConfig)
    return [key.get_secret_value() for key in config.server_keys]


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("LISTEN__PORT", " 8080 ", 8080),
        ("DOWNSTREAM__HEADER_TIMEOUT_S", "2.5", 2.5),
        ("DOWNSTREAM__HEADER_TIMEOUT_S", "2", 2.0),
        ("ADMIN__ENABLED", "false", False),
        ("ACCESS_LOG__PATH", "5", "5"),
        ("VERSION", "1", 1),
        ("LANGUAGE", "zh", "zh_CN"),
        ("CHAIN", "ip_allowlist, key , upstream", ["ip_allowlist", "key", "upstream"]),
        ("CHAIN", '["upstream"]', ["upstream"]),
        ("TRUSTED_PROXIES", "", []),
        ("TRUSTED_PROXIES", "10.0.0.1,,10.0.0.2,", ["10.0.0.1", "10.0.0.2"]),
        ("MODEL_ALIASES", '{"a": "b"}', {"a": "b"}),
        ("MODEL_ALIASES", "", {}),
        ("SIMPLE_CHAT__MAX_TOKENS__MAXIMUM", "9", None),
        ("STAGES__LIMIT__MODE", "shadow", Mode.SHADOW),
        ("STAGES__KEY__PLACEHOLDERS", '["", "x,y"]', ["", "x,y"]),
        ("STAGES__UPSTREAM__CA_FILE", "", None),
    ],
)
def test_the_type_of_the_setting_decides(path: str, text: str, value: object) -> None:
    if value is None and "MAX_TOKENS" in path:
        assert environment_complaints({f"SLUICE__{path}": text})  # below its default
        return
    found: object = load(None, {f"SLUICE__{path}": text}).settings
    for part in path.lower().split("__"):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["", " ", "x", "0x10", "1_000", "01", "+1", "1.0", "1e3", "９", "9" * 40, "true"])
def test_an_integer_is_a_plain_decimal(text: str) -> None:
    (found,) = environment_complaints({"SLUICE__LISTEN__PORT": text})
    assert "listen.port  must be an integer" in found


@pytest.mark.parametrize("text", ["inf", "nan", "1e999", ".5", "1,5", ""])
def test_a_number_is_a_plain_decimal(text: str) -> None:
    (found,) = environment_complaints({"SLUICE__DOWNSTREAM__BODY_TIMEOUT_S": text})
    assert "downstream.body_timeout_s  must be a number" in found


@pytest.mark.parametrize("text", ["True", "yes", "1", "on", ""])
def test_a_boolean_is_true_or_false(text: str) -> None:
    (found,) = environment_complaints({"SLUICE__ADMIN__ENABLED": text})
    assert "admin.enabled  must be true or false" in found


@pytest.mark.parametrize("text", ['["a"', "[1, 2", '{"a": NaN}', "[" * 5000, '["' + "9" * 5000])
def test_broken_json_is_no_list(text: str) -> None:
    environment_complaints({"SLUICE__CHAIN": text})


def test_every_leaf_has_a_variable() -> None:
    variables = [leaf.variable for leaf in leaves().values()]
    assert len(set(variables)) == len(variables)
    assert "SLUICE__STAGES__LIMIT__HOUR" in variables
    assert "SLUICE__SIMPLE_CHAT__MAX_TOKENS__DEFAULT" in variables


@pytest.mark.parametrize("name", ["SLUICE__", "SLUICE__X", "SLUICE__listen__port", "SLUICE__LISTEN__PORT_FILE"])
def test_unknown_names_are_errors(name: str) -> None:
    (found,) = environment_complaints({name: "1"})
    assert found.startswith(f"environment {name}  unknown setting")


def test_names_of_others_are_left_alone() -> None:
    # Kubernetes sets such variables for a service called sluice.
    assert load(None, {"SLUICE_PORT": "tcp://10.0.0.1:5000", "SLUICE_SERVICE_HOST": "10.0.0.1"})


@pytest.mark.parametrize(
    ("content", "keys"),
    [
        ("sk-a\n", ["sk-a"]),
        ("sk-a,sk-b", ["sk-a", "sk-b"]),
        ("sk-a\r\nsk-b\n\n", ["sk-a", "sk-b"]),
        ('["sk-a"]', ["sk-a"]),
    ],
)
@pytest.mark.parametrize("name", [KEYS, "API_KEY"])
def test_secrets_come_from_files(tmp_path: Path, name: str, content: str, keys: list[str]) -> None:
    file = tmp_path / "key"
    file.write_text(content)
    loaded = load(None, {f"{name}_FILE": str(file)})
    assert keys_of(loaded.settings) == keys
    assert str(loaded.origins["stages.key.server_keys"]) == f"environment {name}_FILE"


@pytest.mark.parametrize("name", [KEYS, "API_KEY", "OPENAI_API_KEY"])
def test_a_secret_and_its_file_contradict_each_other(tmp_path: Path, name: str) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-file")
    environ = {name: "sk-from-variable", f"{name}_FILE": str(file), "IP_ALLOWLIST": "10.0.0.0/8"}
    found = environment_complaints(environ)
    assert found == [f"environment {name}_FILE  stages.key.server_keys  {name} is set as well; set one of them"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: no such file or directory"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"sk-\xff\xfe", "is not valid UTF-8"),
        (b"s" * 70_000, "is too large to be a secret"),
    ],
)
@pytest.mark.parametrize("name", [KEYS, "API_KEY"])
def test_an_unusable_secret_file_is_named_and_not_shown(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    found = environment_complaints({f"{name}_FILE": str(file)})
    assert found == [f'environment {name}_FILE  stages.key.server_keys  the file "{file}" {reason}']


def test_a_secret_file_with_a_name_no_system_takes() -> None:
    (found,) = environment_complaints({"API_KEY_FILE": "a\0b"})
    assert "cannot be read: not a usable path" in found
    assert "\0" not in found


SECRET = "topsecretvalue0123456789"


@pytest.mark.parametrize(
    ("config", "environ"),
    [
        ({"stages": {"key": {"server_keys": SECRET}}}, {}),
        ({"stages": {"key": {"server_keys": [f"{SECRET} {SECRET}"]}}}, {}),
        ({"stages": {"key": {"server_keys": {SECRET: 1}}}}, {}),
        ({"stages": {"key": SECRET}}, {}),
        ({"stages": {"key": {"api_key": SECRET}}}, {}),
        ({"server_keys": [SECRET]}, {}),
        ({"api_key": SECRET}, {}),
        ({"log_level": f"sk-{SECRET}"}, {}),
        ({"chain": [f"sk-{SECRET}"]}, {}),
        ({"stages": {"ip_allowlist": {"allow": [f"sk-{SECRET}"]}}}, {}),
        ({f"sk-{SECRET}": 1}, {}),
        ({}, {"API_KEY": f"{SECRET} {SECRET}"}),
        ({}, {"API_KEY": f'["{SECRET}"'}),
        ({}, {KEYS: f'["{SECRET}", 5, {{}}]'}),
        ({}, {"OPENAI_BASE_URL": f"https://user:{SECRET}@host/v1"}),
    ],
)
def test_no_complaint_shows_a_secret(config: dict[str, object], environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as raised:
        load(config, environ)
    assert SECRET not in str(raised.value)
    assert SECRET not in repr(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_no_complaint_about_yaml_shows_a_secret(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text("stages:\n  key:\n    server_keys: [0123456789, 0x1234567, 5]\n    server_key: 0777123\n")
    with pytest.raises(ConfigError) as raised:
        load(file, {})
    assert "***" in str(raised.value)
    for secret in ("123456789", "1234567", "777123"):
        assert secret not in str(raised.value)


def test_what_is_loaded_does_not_show_secrets() -> None:
    loaded = load(None, {"API_KEY": SECRET, "IP_ALLOWLIST": "10.0.0.0/8"})
    assert SECRET not in repr(loaded)
    assert SECRET not in loaded.settings.model_dump_json()
    assert keys_of(loaded.settings) == [SECRET]


def test_an_upstream_from_the_environment() -> None:
    upstream = load(None, {"OPENAI_BASE_URL": "http://10.0.0.9:8000"}).settings.stages["upstream"]
    assert isinstance(upstream, UpstreamConfig)
    assert upstream.base_url == "http://10.0.0.9:8000"
