"""Loading: which layer wins, and what is said to be the origin of each value."""

from __future__ import annotations

import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from proxy.settings import ConfigError, Kind, Origin, load, process_environ
from proxy.settings.shape import leaves
from proxy.stages.key import KeyConfig
from proxy.stages.limit import LimitConfig
from tests.settings.loading import load_text

FILE = "stages:\n  limit:\n    hour: 1\n"
SHORT = {"HOUR_LIMIT": "2"}
LONG = {"SLUICE__STAGES__LIMIT__HOUR": "3"}


@pytest.mark.parametrize(
    ("text", "environ", "option", "hour", "origin"),
    [
        ("", {}, None, 0, "default"),
        (FILE, {}, None, 1, "sluice.yaml:3:11"),
        ("", SHORT, None, 2, "environment HOUR_LIMIT"),
        (FILE, SHORT, None, 2, "environment HOUR_LIMIT"),
        (FILE, SHORT | LONG, None, 3, "environment SLUICE__STAGES__LIMIT__HOUR"),
        (FILE, SHORT | LONG, "4", 4, "command line --set stages.limit.hour"),
    ],
)
def test_the_strongest_layer_wins_and_is_named(
    tmp_path: Path, text: str, environ: dict[str, str], option: str | None, hour: int, origin: str
) -> None:
    loaded = load_text(tmp_path, text, environ, **({"stages__limit__hour": option} if option else {}))
    limit = loaded.settings.stages["limit"]
    assert isinstance(limit, LimitConfig)
    assert limit.hour == hour
    assert str(loaded.origins["stages.limit.hour"]).replace(f"{tmp_path}/", "") == origin


def test_every_leaf_has_an_origin_and_unsaid_ones_are_defaults(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "stages:\n  limit: {hour: 1}\n  burst: {type: limit}\n")
    assert len(loaded.origins) == len(leaves()) + len(LimitConfig.model_fields)
    said = {path for path, origin in loaded.origins.items() if origin.kind is not Kind.DEFAULT}
    assert said == {"stages.limit.hour", "stages.burst.type"}


def test_a_list_in_a_stronger_layer_replaces_the_whole_list(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "trusted_proxies: [10.0.0.1, 10.0.0.2]\n", {"TRUSTED_PROXIES": "10.0.0.3"})
    assert loaded.settings.trusted_proxies == ["10.0.0.3"]


def test_a_mapping_is_read_like_a_file_and_not_kept() -> None:
    proxies = ["10.0.0.1"]
    config = MappingProxyType(
        {"trusted_proxies": proxies, "chain": ("upstream",), "listen": MappingProxyType({"port": 0})}
    )
    loaded = load(config, {})
    proxies.append("10.0.0.2")
    assert loaded.settings.trusted_proxies == ["10.0.0.1"]
    assert loaded.settings.chain == ["upstream"]
    assert loaded.settings.listeners[0].port == 0
    assert str(loaded.origins["listen.port"]) == loaded.source == "configuration"


def test_variables_in_a_mapping_are_left_alone() -> None:
    assert load({"access_log": {"path": "${HOME}"}}, {}).settings.access_log.path == "${HOME}"


def test_a_mapping_may_hold_anything_and_is_judged_in_words() -> None:
    with pytest.raises(ConfigError) as raised:
        load({5: 1, "log_level": object(), "listen": {"port": 10**50}, "stages": {"limit": {"hour": {1: 2}}}}, {})  # type: ignore[dict-item]
    assert [str(problem) for problem in raised.value.problems] == [
        "configuration  5  unknown key",
        "configuration  listen.port  must be at most 65535, not so large a number",
        "configuration  log_level  must be debug, info, warning or error, not a value of type object",
        "configuration  stages.limit.hour  must be an integer, not a mapping",
    ]


def test_where_the_file_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    etc = tmp_path / "etc.yaml"
    monkeypatch.setattr(sys.modules["proxy.settings.load"], "PLACES", ("sluice.yaml", str(etc)))
    assert load(None, {}).source is None
    etc.write_text("language: ru_RU\n")
    assert load(None, {}).source == str(etc)
    (tmp_path / "sluice.yaml").write_text("language: zh_CN\n")
    assert load(None, {"SLUICE_CONFIG": ""}).source == "sluice.yaml"
    (tmp_path / "other.yaml").write_text("language: zh_TW\n")
    loaded = load(None, {"SLUICE_CONFIG": "other.yaml"})
    assert (loaded.source, loaded.settings.language) == ("other.yaml", "zh_TW")
    assert str(loaded.origins["language"]) == "other.yaml:1:11"
    assert load("sluice.yaml", {"SLUICE_CONFIG": "other.yaml"}).settings.language == "zh_CN"


def test_a_named_file_that_is_missing_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^absent.yaml  cannot be read: no such file or directory"):
        load(None, {"SLUICE_CONFIG": "absent.yaml"})


def test_a_section_with_nothing_in_it_means_defaults(tmp_path: Path) -> None:
    text = "listen:\nstages:\n  limit:\n  key:\nsimple_chat:\n  max_tokens:\nmodel_aliases:\ntrusted_proxies:\n"
    settings = load_text(tmp_path, text).settings
    assert settings.model_copy(update={"model_aliases": {}}) == load({"model_aliases": {}}, {}).settings
    assert settings.model_aliases == {}


def test_stages_of_an_own_name_and_unused_ones(tmp_path: Path) -> None:
    text = "chain: [burst, upstream]\nstages:\n  burst: {type: limit, second: 5}\n  spare: {type: key}\n"
    stages = load_text(tmp_path, text, {"SLUICE__STAGES__BURST__MINUTE": "9"}).settings.stages
    assert list(stages) == ["ip_allowlist", "limit", "key", "upstream", "burst", "spare"]
    assert isinstance(stages["spare"], KeyConfig)
    assert stages["burst"] == LimitConfig(type="limit", second=5, minute=9)


def test_environment_and_command_line_can_add_stages() -> None:
    environ = {"SLUICE__STAGES__BURST__TYPE": "limit", "SLUICE__STAGES__BURST__SECOND": "5"}
    overrides = {"stages.quota.type": "limit", "stages.quota.day": "9", "chain": "burst,quota,key,upstream"}
    settings = load(None, environ, overrides).settings
    assert settings.stages["burst"] == LimitConfig(type="limit", second=5)
    assert settings.stages["quota"] == LimitConfig(type="limit", day=9)
    assert settings.chain == ["burst", "quota", "key", "upstream"]


def test_options_of_the_command_line() -> None:
    loaded = load(None, {"PORT": "1"}, {"listen.port": "2", "--port": "3", "--host": "127.0.0.1"})
    assert (loaded.settings.listeners[0].host, loaded.settings.listeners[0].port) == ("127.0.0.1", 3)
    assert str(loaded.origins["listen.port"]) == "command line --port"
    for name, hint in (("listen.prot", 'did you mean "listen.port"?'), ("listen", "it is a section; set its keys")):
        with pytest.raises(ConfigError, match=f"command line --set {name}  unknown setting; {hint[:20]}"):
            load(None, {}, {name: "1"})


def test_an_environment_over_a_section_that_is_none_does_not_hide_the_mistake() -> None:
    with pytest.raises(ConfigError, match=r"configuration  listen  must be a mapping, or a list of mappings, not"):
        load({"listen": 5}, {"SLUICE__ADMIN__PORT": "0"})
    with pytest.raises(ConfigError, match=r"stages\.limit  must be a mapping"):
        load({"stages": {"limit": 5}}, {"HOUR_LIMIT": "1"})


def test_the_process_environment_is_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICE_TEST", "x")
    environ = process_environ()
    assert environ["SLUICE_TEST"] == "x"
    environ["SLUICE_TEST"] = "y"
    assert process_environ()["SLUICE_TEST"] == "x"


def test_origins_sort_as_one_reads_them() -> None:
    file = [Origin(Kind.FILE, "f", 2, 1), Origin(Kind.FILE, "f", 10, 1)]
    other = [Origin(Kind.ENVIRONMENT, "A"), Origin(Kind.COMMAND_LINE, "--port")]
    assert sorted([*reversed(other), *reversed(file)]) == [*file, *other]
