"""What an operator reads when something is wrong: the exact words, with place and hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import ConfigError, load
from tests.settings.loading import complaints, environment_complaints

IN_FILES = [
    pytest.param(
        "stages:\n  limit:\n    huor: 5\n",
        'sluice.yaml:3:5  stages.limit.huor  unknown key; did you mean "hour"?',
        id="unknown key in a stage",
    ),
    pytest.param(
        "port: 5000\n",
        "sluice.yaml:1:1  port  unknown key; did you mean admin.port or listen.port?",
        id="known key at the wrong place",
    ),
    pytest.param("colour: red\n", "sluice.yaml:1:1  colour  unknown key", id="no idea what was meant"),
    pytest.param(
        'listen:\n  port: "5"\n',
        'sluice.yaml:2:9  listen.port  must be an integer, not the text "5"; remove the quotes',
        id="quoted number",
    ),
    pytest.param(
        "listen: {port: 5.5}\n",
        "sluice.yaml:1:16  listen.port  must be an integer, not the number 5.5",
        id="fraction for an integer",
    ),
    pytest.param(
        "listen: {port: true}\n",
        "sluice.yaml:1:16  listen.port  must be an integer, not true",
        id="boolean for an integer",
    ),
    pytest.param(
        "listen: {port: 70000}\n",
        "sluice.yaml:1:16  listen.port  must be at most 65535, not the number 70000",
        id="too large",
    ),
    pytest.param(
        "listen: {port: }\n",
        "sluice.yaml:1:16  listen.port  must be an integer, not nothing (null)",
        id="no value",
    ),
    pytest.param(
        "downstream: {header_timeout_s: 0}\n",
        "sluice.yaml:1:32  downstream.header_timeout_s  must be more than 0.0, not the number 0",
        id="timeout of nothing",
    ),
    pytest.param(
        'access_log: {enabled: "true"}\n',
        'sluice.yaml:1:23  access_log.enabled  must be true or false, not the text "true"; remove the quotes',
        id="quoted boolean",
    ),
    pytest.param(
        "access_log: {path: 5}\n",
        'sluice.yaml:1:20  access_log.path  must be text, not the number 5; quote it: "5"',
        id="number for text",
    ),
    pytest.param(
        'access_log: {path: ""}\n',
        "sluice.yaml:1:20  access_log.path  must not be empty",
        id="empty text",
    ),
    pytest.param(
        "log_level: warn\n",
        'sluice.yaml:1:12  log_level  must be debug, info, warning or error, not the text "warn"; '
        'did you mean "warning"?',
        id="word that is not one of the choices",
    ),
    pytest.param(
        "language: de\n",
        'sluice.yaml:1:11  language  must be en_US, zh_CN, zh_TW or ru_RU, not the text "de"',
        id="language we lack",
    ),
    pytest.param(
        "version: 2\n", "sluice.yaml:1:10  version  must be 1, not the number 2", id="version of the future"
    ),
    pytest.param(
        "trusted_proxies: 10.0.0.0/8\n",
        'sluice.yaml:1:18  trusted_proxies  must be a list, not the text "10.0.0.0/8"; put it between [ and ]',
        id="text for a list",
    ),
    pytest.param(
        "listen: 5\n",
        "sluice.yaml:1:9  listen  must be a mapping, or a list of mappings, not the number 5",
        id="number for a section",
    ),
    pytest.param(
        "model_aliases: [a]\n",
        "sluice.yaml:1:16  model_aliases  must be a mapping, not a list",
        id="list for a mapping",
    ),
    pytest.param("stages: [limit]\n", "sluice.yaml:1:9  stages  must be a mapping, not a list", id="list of stages"),
    pytest.param(
        "stages:\n  limit: 5\n",
        "sluice.yaml:2:10  stages.limit  must be a mapping, not the number 5",
        id="number for a stage",
    ),
    pytest.param(
        "stages:\n  limitt: {}\n",
        'sluice.yaml:2:3  stages.limitt  unknown stage; did you mean "limit"?',
        id="unknown stage",
    ),
    pytest.param(
        "stages:\n  nightly: {}\n",
        "sluice.yaml:2:3  stages.nightly  unknown stage; "
        "a name of your own needs a type: ip_allowlist, limit, key, upstream",
        id="stage of an own name without a type",
    ),
    pytest.param(
        "stages:\n  nightly: {type: limits}\n",
        "sluice.yaml:2:19  stages.nightly.type  must be one of ip_allowlist, limit, key, upstream, "
        'not the text "limits"; did you mean "limit"?',
        id="unknown type",
    ),
    pytest.param(
        "stages:\n  nightly: {type: [limit]}\n",
        "sluice.yaml:2:19  stages.nightly.type  must be one of ip_allowlist, limit, key, upstream, not a list",
        id="list for a type",
    ),
    pytest.param(
        "stages:\n  Two__Limits: {type: limit}\n",
        "sluice.yaml:2:3  stages.Two__Limits  a stage's name is lower-case letters, digits and single "
        "underscores; so that SLUICE__STAGES__... can name it",
        id="name that no variable can spell",
    ),
    pytest.param(
        "stages:\n  limit: {mode: shade}\n",
        'sluice.yaml:2:17  stages.limit.mode  must be enforce, shadow or off, not the text "shade"; '
        'did you mean "shadow"?',
        id="unknown mode",
    ),
    pytest.param(
        "stages:\n  limit:\n    exempt:\n      - 10.0.0.1\n      - 10.0.0.1/8\n      - x\n",
        "sluice.yaml:5:9  stages.limit.exempt[1]  '10.0.0.1/8' has bits set behind the prefix; "
        "did you mean 10.0.0.0/8?",
        id="entry of a list, at its own line",
    ),
    pytest.param(
        "stages:\n  ip_allowlist:\n    allow: [10.0.0.0/0.255.255.255]\n",
        "sluice.yaml:3:13  stages.ip_allowlist.allow[0]  '10.0.0.0/0.255.255.255': write the prefix length as a "
        "number, like 10.0.0.0/8",
        id="netmask",
    ),
    pytest.param(
        "stages:\n  ip_allowlist:\n    allow: [192.168]\n",
        'sluice.yaml:3:13  stages.ip_allowlist.allow[0]  must be text, not the number 192.168; quote it: "192.168"',
        id="half an address is a number",
    ),
    pytest.param(
        "stages:\n  ip_allowlist:\n    allow:\n",
        "sluice.yaml:3:11  stages.ip_allowlist.allow  an empty list would let nobody in; write allow: [any] "
        "to let everybody in, or leave the setting out",
        id="allow with nothing behind it",
    ),
    pytest.param(
        "stages:\n  key: {prefer: server}\n",
        "sluice.yaml:2:3  stages.key  prefer: server needs at least one key in server_keys",
        id="two settings of a stage that contradict each other",
    ),
    pytest.param(
        "simple_chat:\n  max_tokens: {default: 5000}\n",
        "sluice.yaml:2:3  simple_chat.max_tokens  default (5000) is more than maximum (3500)",
        id="two settings of a section that contradict each other",
    ),
    pytest.param(
        "model_aliases: {gpt-4.1: 5}\n",
        'sluice.yaml:1:26  model_aliases.gpt-4.1  must be text, not the number 5; quote it: "5"',
        id="value of a mapping",
    ),
    pytest.param(
        'model_aliases: {a: ""}\n',
        "sluice.yaml:1:1  model_aliases  a model has a name: neither side may be empty",
        id="empty value of a mapping",
    ),
]


@pytest.mark.parametrize(("text", "expected"), IN_FILES)
def test_a_mistake_in_the_file_is_named_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in complaints(tmp_path, text)


IN_THE_ENVIRONMENT = [
    (
        {"HOUR_LIMIT": "many"},
        'environment HOUR_LIMIT  stages.limit.hour  must be an integer, not the text "many"',
    ),
    (
        {"HOUR_LIMIT": "-1"},
        "environment HOUR_LIMIT  stages.limit.hour  must be at least 0, not the number -1",
    ),
    (
        {"SLUICE__LISTEN__PROT": "1"},
        'environment SLUICE__LISTEN__PROT  unknown setting; did you mean "SLUICE__LISTEN__PORT"?',
    ),
    (
        {"SLUICE__LISTEN": "{}"},
        "environment SLUICE__LISTEN  unknown setting; it is a section; set its keys one by one, "
        "like SLUICE__LISTEN__HOST",
    ),
    (
        {"SLUICE__CHAIN": '["limit"'},
        "environment SLUICE__CHAIN  chain  begins like a JSON list, but is not valid JSON",
    ),
    (
        {"SLUICE__MODEL_ALIASES": "a=b"},
        'environment SLUICE__MODEL_ALIASES  model_aliases  must be a mapping, not the text "a=b"; '
        'write JSON, like {"name": "value"}',
    ),
    (
        {"SLUICE__MODEL_ALIASES": '{"a": "b", "a": "c"}'},
        "environment SLUICE__MODEL_ALIASES  model_aliases  begins like a JSON mapping, but is not valid JSON",
    ),
    (
        {"SLUICE__ADMIN__ENABLED": "yes"},
        'environment SLUICE__ADMIN__ENABLED  admin.enabled  must be true or false, not the text "yes"',
    ),
    (
        {"IP_ALLOWLIST": ""},
        "environment IP_ALLOWLIST  stages.ip_allowlist.allow  an empty list would let nobody in; write allow: "
        "[any] to let everybody in, or leave the setting out; here: IP_ALLOWLIST=any",
    ),
    (
        {"IP_ALLOWLIST": "10.0.0.0/8,0x7f.1"},
        "environment IP_ALLOWLIST  stages.ip_allowlist.allow[1]  '0x7f.1' is not an IP address or a network like "
        "10.0.0.0/8 or 2001:db8::/32",
    ),
    (
        {"SLUICE__STAGES__KEY__PREFER": "server"},
        "environment SLUICE__STAGES__KEY__PREFER  stages.key  prefer: server needs at least one key in server_keys",
    ),
    (
        {"SLUICE__STAGES__NIGHTLY__TYPE": "limits"},
        "environment SLUICE__STAGES__NIGHTLY__TYPE  stages.nightly.type  must be one of ip_allowlist, limit, key, "
        'upstream, not the text "limits"; did you mean "limit"?',
    ),
    (
        {"ROUTE": "v1"},
        "environment ROUTE  simple_chat.route  v1, healthz and readyz are taken; choose another route, like api",
    ),
]


@pytest.mark.parametrize(("environ", "expected"), IN_THE_ENVIRONMENT)
def test_a_mistake_in_the_environment_is_named_with_its_variable(environ: dict[str, str], expected: str) -> None:
    assert environment_complaints(environ) == [expected]


def test_all_problems_come_at_once_in_reading_order_with_their_count(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text("lisen: {}\nlanguage: de\nlog_level: loud\nstages:\n  limit: {hour: no}\n")
    with pytest.raises(ConfigError) as raised:
        load(file, {"SECOND_LIMIT": "x", "DAY_LIMIT": "y"}, {"--port": "z", "stages.limit.huor": "1"})
    lines = str(raised.value).replace(f"{tmp_path}/", "").splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "sluice.yaml:1:1",
        "sluice.yaml:2:11",
        "sluice.yaml:3:12",
        "sluice.yaml:5:17",
        "environment DAY_LIMIT",
        "environment SECOND_LIMIT",
        "command line --port",
        "command line --set stages.limit.huor",
        "8 problems in the configuration",
    ]


def test_one_problem_is_not_called_problems() -> None:
    with pytest.raises(ConfigError, match=r"\n1 problem in the configuration$"):
        load({"lisen": {}}, {})


def test_a_file_full_of_mistakes_is_given_up_and_cut_short(tmp_path: Path) -> None:
    text = "stages:\n" + "".join(f"  stage{n}: {{}}\n" for n in range(5000))
    with pytest.raises(ConfigError) as raised:
        load(_written(tmp_path, text), {})
    lines = str(raised.value).splitlines()
    assert len(raised.value.problems) == 1000
    assert lines[-2:] == ["... and 900 more", "1000 problems in the configuration"]


def test_a_file_full_of_unreadable_scalars_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load(_written(tmp_path, "chain:\n" + "- 0x10\n" * 5000), {})
    assert len(raised.value.problems) == 1000


def test_control_characters_are_shown_and_not_sent_to_the_terminal(tmp_path: Path) -> None:
    found = complaints(tmp_path, 'log_level: "\\e[2J\\u202e"\n')
    assert found == [
        'sluice.yaml:1:12  log_level  must be debug, info, warning or error, not the text "\\x1b[2J\\u202e"'
    ]


def test_long_values_are_cut(tmp_path: Path) -> None:
    (found,) = complaints(tmp_path, f"log_level: {'x' * 5000}\n")
    assert len(found) < 200


def _written(folder: Path, text: str) -> Path:
    file = folder / "sluice.yaml"
    file.write_text(text)
    return file
