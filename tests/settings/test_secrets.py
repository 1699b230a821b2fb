"""Keys in every place of a configuration, right and wrong: no command and no complaint shows them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from proxy.cli import COMMANDS as COMMAND_MODULES
from proxy.cli import main
from proxy.core.stage import Mode
from proxy.settings import ConfigError, load
from proxy.settings.shape import leaves
from tests.support.canary import CLIENT_KEY, SERVER_KEY, UNUSUAL_KEY, assert_silent

KEYS = [SERVER_KEY, UNUSUAL_KEY]
COMMANDS = [
    ["check"],
    ["config"],
    ["config", "--format", "json"],
    ["config", "--schema"],
    ["explain", "--header", f"Authorization: Bearer {CLIENT_KEY}"],
    ["explain", "--path", f"/v1/x?key={CLIENT_KEY}", "--header", f"api-key: {CLIENT_KEY}"],
    ["explain", "--path", "/api", "--body", json.dumps({"user_content": "q", "api_key": CLIENT_KEY})],
    ["explain", "--path", "/api", "--body", json.dumps({"max_tokens": {}, "api_key": CLIENT_KEY})],
    ["explain", "--path", "/api", "--body", json.dumps({"user_content": "q", "api_key": f"{CLIENT_KEY}é"})],
]


def run(capsys: pytest.CaptureFixture[str], args: list[str], **environ: str) -> tuple[int, str]:
    """The exit code of a command, and all that it printed."""
    capsys.readouterr()
    status = main(args, environ)
    printed = capsys.readouterr()
    return status, printed.out + printed.err


@pytest.mark.parametrize("args", COMMANDS, ids=range(len(COMMANDS)))
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("way", ["API_KEY", "OPENAI_API_KEY", "API_KEY_FILE", "SLUICE__STAGES__KEY__SERVER_KEYS"])
def test_commands_do_not_show_keys(
    args: list[str], key: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = key
    if way.endswith("_FILE"):
        value = str(tmp_path / "secret")
        Path(value).write_text(key)
    status, printed = run(capsys, args, **{way: value, "IP_ALLOWLIST": "127.0.0.1"})
    assert status in (0, 1)
    assert printed
    assert_silent(printed, " ".join(args))


@pytest.mark.parametrize("command", ["", *(command.__name__.rpartition(".")[2] for command in COMMAND_MODULES)])
def test_help_does_not_show_the_environment(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_KEY", SERVER_KEY)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"] if command else ["--help"], {"API_KEY": SERVER_KEY})
    assert ended.value.code == 0
    assert_silent(capsys.readouterr().out, "the help")


@pytest.mark.parametrize("key", KEYS)
def test_commands_do_not_show_keys_of_the_file(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text(yaml.safe_dump({"stages": {"key": {"server_keys": [key]}}}))
    for args in COMMANDS[:5]:
        _, printed = run(capsys, [*args, "--config", str(file)])
        assert_silent(printed, " ".join(args))
    assert "plain text" in printed or "plain text" in run(capsys, ["check", "--config", str(file)])[1]


def complaint(config: object, environ: dict[str, str], overrides: dict[str, str] | None = None) -> str:
    """What is said of a configuration: why it cannot be used, or what its operator should know."""
    try:
        loaded = load(config, environ, overrides)  # type: ignore[arg-type]
    except ConfigError as error:
        return f"{error} {error!r}"
    return " ".join([*loaded.notices, repr(loaded), repr(loaded.settings)])


def wrong_shapes(key: str) -> Iterator[object]:
    """A key where a list of keys is expected, in every wrong shape."""
    for keys in (
        key,
        {key: key},
        {"key": key},
        [[key]],
        [{key: 1}],
        [{"key": key}],
        [key + " "],
        [key + "\n"],
        [key + "ключ"],
        [key, 5],
        [key, None],
        [key, ""],
    ):
        yield {"stages": {"key": {"server_keys": keys}}}
    for stage in (key, [key], {"server_key": key}, {"api_key": key}, {"keys": [key]}, {"key": {"value": key}}):
        yield {"stages": {"key": stage}}
    yield {"api_key": key}
    yield {"server_keys": [key]}
    yield {"stages": {"server_keys": [key]}}
    yield {"stages": {"key": {"server_keys": [key], "prefer": "sever", "mode": key[:3]}}}
    yield {"stages": {"mine": {"type": "key", "server_keys": key}}, "chain": ["mine", "upstream"]}


@pytest.mark.parametrize("key", KEYS)
def test_no_complaint_about_the_place_of_a_key_shows_it(key: str) -> None:
    for config in wrong_shapes(key):
        assert_silent(complaint(config, {}), repr(config))


@pytest.mark.parametrize("key", KEYS)
def test_nor_do_complaints_about_a_file(key: str, tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    for config in wrong_shapes(key):
        text = yaml.safe_dump(config, allow_unicode=True)
        spoilt_texts = [text, text + "\t- x: [", text + text, text + "\x00", "x: &a *b\n" + text]
        if key == SERVER_KEY:
            # Without the blank it is the text of another setting; there only the form of a key gives it away.
            spoilt_texts.append(text.replace(": ", ":"))
        for spoilt in spoilt_texts:
            file.write_text(spoilt)
            assert_silent(complaint(str(file), {}), repr(spoilt))
    for line in (
        'server_keys: ["%s',
        "server_keys: [%s",
        "server_keys: {%s",
        "server_keys: |\n%s",
        "server_keys: !x %s",
    ):
        file.write_text(f"stages:\n  key:\n    {line % key}\n")
        assert_silent(complaint(str(file), {}), line)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "spoilt", ["{}", "{} {}", "[{}", '["{}",', "{},\x00", '{{"k": "{}"}}', "{}é", "\x1b{}", "[[{}]]"]
)
def test_nor_do_complaints_about_the_environment(key: str, spoilt: str) -> None:
    text = spoilt.format(key, key)
    for name in ("API_KEY", "OPENAI_API_KEY", "SLUICE__STAGES__KEY__SERVER_KEYS", "SLUICE__STAGES__KEY__SERVER_KEY",
                 "SLUICE__STAGES__KEY", "SLUICE__API_KEY"):  # fmt: skip
        assert_silent(complaint({}, {name: text, "IP_ALLOWLIST": "127.0.0.1"}), f"{name}={text}")
    for path in ("stages.key.server_keys", "stages.key.server_keys[0]", "stages.key", "stages.key.server_key"):
        assert_silent(complaint({}, {}, {path: text}), f"--set {path}={text}")


def test_nor_does_a_key_of_the_usual_form_in_any_other_setting() -> None:
    for leaf in leaves().values():
        environ = {leaf.variable: SERVER_KEY}
        said = complaint({}, environ)
        if said.count("problem"):
            assert_silent(said, leaf.variable)


def test_a_secret_file_is_named_and_never_quoted(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    for content in (f"{UNUSUAL_KEY} {UNUSUAL_KEY}", f"{UNUSUAL_KEY}\x00", f"[{UNUSUAL_KEY}", UNUSUAL_KEY * 5000):
        file.write_text(content)
        for name in ("API_KEY_FILE", "SLUICE__STAGES__KEY__SERVER_KEYS_FILE"):
            said = complaint({}, {name: str(file)})
            assert name in said
            assert_silent(said, f"{name}: {content[:100]!r}")


@pytest.mark.parametrize(
    "base_url",
    [
        f"https://{UNUSUAL_KEY.replace('/', '')}@api.openai.com/v1",
        f"https://user:{SERVER_KEY}@api.openai.com/v1",
        f"https://api.openai.com/v1?key={SERVER_KEY}",
        f"https://api.openai.com/v1#{SERVER_KEY}",
        f"https://api.openai.com:{SERVER_KEY}/v1",
        f"https://[{SERVER_KEY}]/v1",
        f"file:///{SERVER_KEY}",
        f"//{SERVER_KEY}/v1",
        f"https://api.openai.com/v1\r\nAuthorization: {SERVER_KEY}",
        SERVER_KEY,
        "",
        "gopher://h/v1",
        "https:///v1",
        "http://",
    ],
)
def test_a_base_url_that_is_more_than_a_url_is_refused_and_not_shown(base_url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load({"stages": {"upstream": {"base_url": base_url}}}, {})
    assert "base_url" in str(refused.value)
    assert_silent(str(refused.value), repr(base_url))


def test_a_key_stage_in_shadow_and_one_that_is_off_keep_theirs_too(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in Mode:
        _, printed = run(capsys, ["config"], API_KEY=SERVER_KEY, SLUICE__STAGES__KEY__MODE=mode.value)
        assert_silent(printed, mode.value)
