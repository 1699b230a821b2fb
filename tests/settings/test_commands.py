"""``sluice check`` and ``sluice config``."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest
import yaml

from proxy.cli import check, config, main
from proxy.settings import ConfigError, json_schema, load
from tests.settings.loading import load_text

SECRET = "sk-abcdefghijklmnopqrstuvwx1234"


def run(*argv: str, environ: dict[str, str] | None = None) -> int:
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    check.add(subparsers)
    config.add(subparsers)
    args = parser.parse_args(argv)
    status: int = args.run(args, environ or {})
    return status


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sluice.yaml"
    path.write_text(
        "stages:\n  ip_allowlist: {allow: [10.0.0.1]}\n  limit: {mode: shadow, hour: 5}\n"
        "  'on': {type: key}\n"
        "access_log: {path: '/var/log/$$x'}\nsimple_chat: {default_model: '5'}\n"
    )
    return path


def test_check_says_ok_with_the_chain_and_the_notices(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", "--config", str(file), "--host", "127.0.0.1", environ={"LANG": "de_DE"}) == 0
    assert capsys.readouterr().out == (
        f"{file}: ok\n"
        "chain: ip_allowlist > limit (shadow) > key > upstream\n"
        "notice: LANG=de_DE is ignored: it names no language we have; answers are in en_US\n"
    )


def test_check_without_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("check") == 0
    assert capsys.readouterr().out.startswith("built-in defaults: ok\n")


@pytest.mark.parametrize("command", ["check", "config"])
def test_a_bad_configuration_is_raised_for_the_main_program_to_print(command: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run(command, "--port", "x", "--set", "stages.limit.huor=5", "--set", "nothing", environ={})
    assert str(raised.value).startswith("command line --set  no value is given; write --set PATH=VALUE\n")
    with pytest.raises(ConfigError, match="2 problems"):
        run(command, "--port", "x", "--set", "stages.limit.huor=5", environ={})


def test_options_win_over_set_and_set_may_hold_equals_signs() -> None:
    args = argparse.Namespace(config=None, set=["listen.port=1", "access_log.path=a=b"], host=None, port="2")
    from proxy.cli.options import load_from

    settings = load_from(args, {}).settings
    assert (settings.listeners[0].port, settings.access_log.path) == (2, "a=b")


def test_config_names_the_origin_of_every_value(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "--config", str(file), "--port", "7", environ={"DAY_LIMIT": "9"}) == 0
    lines = [re.sub(r" +", " ", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert "port: 7 # command line --port" in lines
    assert "day: 9 # environment DAY_LIMIT" in lines
    assert f"hour: 5 # {file}:3:31" in lines
    assert "minute: 0 # default" in lines
    assert "# ca_file: not set # default" in lines


def test_config_prints_a_file_that_loads_to_the_same(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("config", "--config", str(file), environ={"LANG": "ru_RU", "SLUICE__TRUSTED_PROXIES": "10.0.0.0/8"})
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    expected = load(file, {"LANG": "ru_RU", "SLUICE__TRUSTED_PROXIES": "10.0.0.0/8"})
    loaded = load(again, {})
    assert loaded.settings == expected.settings
    assert "on" in loaded.settings.stages


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_config_masks_secrets(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    run("config", "--format", form, environ={"API_KEY": f"{SECRET},short", "SLUICE_CONFIG": "/dev/null"})
    out = capsys.readouterr().out
    assert SECRET not in out
    assert "short" not in out
    assert "sk-...1234" in out
    assert "***" in out


def test_config_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    run("config", "--format", "json", environ={"HOUR_LIMIT": "5", "SLUICE_CONFIG": "/dev/null"})
    whole = json.loads(capsys.readouterr().out)
    assert whole["source"] == "/dev/null"
    assert whole["settings"]["stages.limit.hour"] == {"value": 5, "origin": "environment HOUR_LIMIT"}
    assert whole["settings"]["stages.limit.mode"] == {"value": "enforce", "origin": "default"}
    assert len(whole["notices"]) == 1


def test_config_prints_the_schema_even_if_the_configuration_is_bad(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "--schema", "--port", "x") == 0
    assert json.loads(capsys.readouterr().out) == json_schema()


@pytest.mark.parametrize(
    ("secret", "shown"),
    [("", "***"), ("sk-short", "***"), ("x" * 19, "***"), ("x" * 16 + "abcd", "...abcd"), (SECRET, "sk-...1234")],
)
def test_only_the_end_of_a_long_secret_is_shown(secret: str, shown: str) -> None:
    assert config.mask(secret) == shown


LISTENERS = """\
listen:
  - {host: 127.0.0.1, port: 5000}
  - unix: /run/s.sock
    mode: "0660"
  - host: "::1"
    port: ${TLS_PORT:-8443}
"""


def test_config_prints_a_list_that_loads_to_the_same(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, LISTENERS, {"SLUICE__LISTEN__2__PORT": "9"})
    printed = config.as_yaml(loaded)
    lines = [" ".join(line.split()).replace(f"{tmp_path}/", "") for line in printed.splitlines()]
    start = lines.index("listen:")
    assert lines[start + 1 : start + 12] == [
        '- host: "127.0.0.1" # sluice.yaml:2:12',
        "port: 5000 # sluice.yaml:2:29",
        "# unix: not set # default",
        "# mode: not set # default",
        "# tls: not set # default",
        'proxy_protocol: "off" # default',
        '- unix: "/run/s.sock" # sluice.yaml:3:11',
        'mode: "0660" # sluice.yaml:4:11',
        "# tls: not set # default",
        'proxy_protocol: "off" # default',
        '- host: "::1" # sluice.yaml:5:11',
    ]
    assert load_text(tmp_path, printed).settings == loaded.settings
    values = json.loads(config.as_json(loaded))["settings"]
    assert values["listen.2.port"] == {"value": 9, "origin": "environment SLUICE__LISTEN__2__PORT"}
    assert values["listen.1.port"]["value"] is values["listen.1.tls.cert"]["value"] is None


def test_config_prints_one_unix_listener_that_loads_to_the_same(tmp_path: Path) -> None:
    loaded = load({"listen": {"unix": "/run/$HOME.sock"}}, {})
    assert load_text(tmp_path, config.as_yaml(loaded)).settings == loaded.settings


def test_config_shows_limits_as_they_were_written(capsys: pytest.CaptureFixture[str]) -> None:
    given = {"per_key": {"by": ["credential"], "hour": 5, "overrides": {"10.0.0.0/8": {"hour": 50}}}}
    environ = {
        "SLUICE__CHAIN": "key,limit,upstream",
        "SLUICE__STAGES__LIMIT__LIMITS": json.dumps(given),
        "SLUICE__LIMITS__STORE": "redis://user:hunter2@host/3",
    }
    assert main(["config", "--format", "json"], environ) == 0
    settings = json.loads(capsys.readouterr().out)["settings"]
    assert settings["stages.limit.limits"]["value"] == given
    assert settings["limits.store"]["value"] == "redis://host:6379/3"
    assert main(["config"], environ) == 0
    assert yaml.safe_load(capsys.readouterr().out)["stages"]["limit"]["limits"] == given
