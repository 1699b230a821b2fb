"""``listen``: one listener or a list of them, from the file, the environment and the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import ConfigError, Settings, load
from proxy.settings.environment import apply_lists
from proxy.settings.layers import Layers
from proxy.settings.listen import MOST_LISTENERS, Listen
from proxy.settings.yaml_source import Document
from tests.settings.loading import complaints, environment_complaints, load_text

LIST = """\
listen:
  - {host: 127.0.0.1, port: 5000}
  - unix: /run/s.sock
    mode: "0660"
  - host: "::1"
    port: ${TLS_PORT:-8443}
"""
TWO = '[{"port": 5000}, {"unix": "/run/s.sock"}]'


def test_one_listener_is_a_list_of_one() -> None:
    assert Settings().listeners == (Listen(),)
    assert load({"listen": {"port": 1}}, {}).settings.listeners == (Listen(port=1),)


def test_a_list_keeps_its_order_and_fills_in_defaults(tmp_path: Path) -> None:
    listeners = load_text(tmp_path, LIST, {"TLS_PORT": "443"}).settings.listeners
    assert listeners == (
        Listen(host="127.0.0.1", port=5000),
        Listen(unix="/run/s.sock", mode="0660"),
        Listen(host="::1", port=443),
    )
    assert [listen.place for listen in listeners] == [
        "127.0.0.1 port 5000",
        "unix socket /run/s.sock",
        "::1 port 443",
    ]


def test_every_setting_of_every_entry_has_an_origin(tmp_path: Path) -> None:
    environ = {"SLUICE__LISTEN__2__PORT": "9", "SLUICE__LISTEN__1__MODE": "0600"}
    loaded = load_text(tmp_path, LIST, environ, listen__0__host="localhost")
    assert [listen.port for listen in loaded.settings.listeners] == [5000, 5000, 9]
    assert loaded.settings.listeners[0].host == "localhost"
    origins = {path: str(origin).replace(f"{tmp_path}/", "") for path, origin in loaded.origins.items()}
    assert origins["listen.0.host"] == "command line --set listen.0.host"
    assert origins["listen.0.port"] == "sluice.yaml:2:29"
    assert origins["listen.1.unix"] == "sluice.yaml:3:11"
    assert origins["listen.1.mode"] == "environment SLUICE__LISTEN__1__MODE"
    assert origins["listen.2.port"] == "environment SLUICE__LISTEN__2__PORT"
    assert origins["listen.2.tls.cert"] == "default"


@pytest.mark.parametrize("text", [TWO, f"  {TWO}\n"])
@pytest.mark.parametrize("file", ["", "listen: {port: 1}\n", LIST])
def test_the_environment_can_give_the_whole_list(tmp_path: Path, file: str, text: str) -> None:
    loaded = load_text(tmp_path, file, {"SLUICE__LISTEN": text})
    assert loaded.settings.listeners == (Listen(port=5000), Listen(unix="/run/s.sock"))
    assert {str(loaded.origins[f"listen.{path}"]) for path in ("0.port", "1.unix")} == {"environment SLUICE__LISTEN"}
    by_option = load_text(tmp_path, file, {"SLUICE__LISTEN": '[{"port": 1}]'}, listen=text)
    assert by_option.settings.listeners == loaded.settings.listeners
    by_variable = load_text(tmp_path, "listen: ${LISTENERS}\n", {"LISTENERS": text})
    assert by_variable.settings.listeners == loaded.settings.listeners


def test_a_mistake_in_a_list_from_the_environment_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    assert complaints(tmp_path, LIST, {"SLUICE__LISTEN": "[{}, {}]"}) == [
        "environment SLUICE__LISTEN  listen.1.port  is the same as listen.0.port, 5000, on 0.0.0.0; choose another "
        "port or host"
    ]
    assert complaints(tmp_path, LIST, {"SLUICE__LISTEN": '[{"port": "x"}]'}) == [
        'environment SLUICE__LISTEN  listen.0.port  must be an integer, not the text "x"'
    ]
    text = "trusted_proxies: [10.0.0.1, 10.0.0.2]\n"
    (found,) = complaints(tmp_path, text, {"TRUSTED_PROXIES": "10.0.0.1,x"})
    assert found.startswith("environment TRUSTED_PROXIES  trusted_proxies[1]  ")


IN_LISTS = [
    pytest.param(
        "listen:\n  - port: 1\n  - prot: 2\n",
        'sluice.yaml:3:5  listen.1.prot  unknown key; did you mean "port"?',
        id="unknown key",
    ),
    pytest.param(
        "listen:\n  - port: 1\n  - {host: a, port: 70000}\n",
        "sluice.yaml:3:21  listen.1.port  must be at most 65535, not the number 70000",
        id="too large",
    ),
    pytest.param(
        "listen:\n  - port: 0x10\n",
        "sluice.yaml:2:11  listen.0.port  0x10 without quotes is a number to some YAML readers; write the decimal "
        'number 16, or quote it: "0x10"',
        id="hexadecimal",
    ),
    pytest.param(
        "listen: [5000]\n", "sluice.yaml:1:10  listen[0]  must be a mapping, not the number 5000", id="no mapping"
    ),
    pytest.param("listen: []\n", "sluice.yaml:1:9  listen  a list must hold 1 to 64 listeners, not 0", id="empty"),
    pytest.param(
        "listen: [{tls: {cert: a.pem}}]\n", "sluice.yaml:1:16  listen.0.tls.key  is missing", id="half a pair"
    ),
    pytest.param(
        "listen: [{tls: {cert: 5, key: b.pem}}]\n",
        'sluice.yaml:1:23  listen.0.tls.cert  must be text, not the number 5; quote it: "5"',
        id="number for a path",
    ),
    pytest.param(
        "listen: [{tls: true}]\n", "sluice.yaml:1:16  listen.0.tls  must be a mapping, not true", id="tls switched on"
    ),
    pytest.param(
        "listen: [{max_body_bytes: 5}]\n",
        "sluice.yaml:1:11  listen.0.max_body_bytes  unknown key; it is downstream.max_body_bytes now",
        id="setting that moved",
    ),
    pytest.param(
        "port: 1\nlisten: [{}]\n",
        "sluice.yaml:1:1  port  unknown key; did you mean admin.port or listen.port?",
        id="known key at the wrong place",
    ),
]


@pytest.mark.parametrize(("text", "expected"), IN_LISTS)
def test_a_mistake_in_an_entry_is_named_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    assert complaints(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    "name", ["max_header_bytes", "max_body_bytes", "header_timeout_s", "body_timeout_s", "keep_alive_timeout_s"]
)
def test_settings_that_moved_say_where_they_are_now(tmp_path: Path, name: str) -> None:
    assert complaints(tmp_path, f"listen:\n  {name}: 5\n") == [
        f"sluice.yaml:2:3  listen.{name}  unknown key; it is downstream.{name} now"
    ]
    assert environment_complaints({f"SLUICE__LISTEN__{name.upper()}": "5"}) == [
        f"environment SLUICE__LISTEN__{name.upper()}  unknown setting; it is SLUICE__DOWNSTREAM__{name.upper()} now"
    ]
    with pytest.raises(ConfigError, match=rf"unknown setting; it is downstream\.{name} now"):
        load(None, {}, {f"listen.{name}": "5"})


@pytest.mark.parametrize(
    ("environ", "overrides", "where", "name"),
    [
        ({"PORT": "1"}, {}, "environment PORT", "port"),
        ({"SLUICE__LISTEN__PORT": "1"}, {}, "environment SLUICE__LISTEN__PORT", "port"),
        ({"SLUICE__LISTEN__TLS__CERT": "a"}, {}, "environment SLUICE__LISTEN__TLS__CERT", "tls.cert"),
        ({}, {"--port": "1"}, "command line --port", "port"),
        ({}, {"--host": "::1"}, "command line --host", "host"),
        ({}, {"listen.port": "1"}, "command line --set listen.port", "port"),
    ],
)
@pytest.mark.parametrize("source", ["file", "environment"])
def test_beside_a_list_a_single_port_is_refused_and_not_ignored(
    tmp_path: Path, environ: dict[str, str], overrides: dict[str, str], where: str, name: str, source: str
) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text("listen:\n  - {port: 7}\n" if source == "file" else "listen: {port: 7}\n")
    if source == "environment":
        environ = environ | {"SLUICE__LISTEN": '[{"port": 7}]'}
    with pytest.raises(ConfigError) as raised:
        load(file, environ, overrides)
    given = f"{file}:2:3" if source == "file" else "environment SLUICE__LISTEN"
    entry = f"listen.0.{name} (SLUICE__LISTEN__0__{name.upper().replace('.', '__')})"
    assert [str(problem) for problem in raised.value.problems] == [
        f"{where}  listen.{name}  cannot be set: listen is a list ({given}); "
        f"leave {where.split()[-1] if '--set' not in where else '--set listen.port'} out; each entry has its own, "
        f"like {entry}"
    ]


@pytest.mark.parametrize("name", ["SLUICE__LISTEN__2__PORT", "SLUICE__LISTEN__X", "SLUICE__LISTEN__0__PROT"])
def test_entries_and_settings_that_are_not_there_are_unknown(name: str) -> None:
    config = {"listen": [{"port": 1}, {"port": 2}]}
    (found,) = environment_complaints({name: "1"}, config)
    assert found.startswith(f"environment {name}  unknown setting")


@pytest.mark.parametrize("text", ['[{"port": 1}', '[{"port": 1, "port": 2}]', "[" * 5000])
def test_broken_json_is_no_list(text: str) -> None:
    assert environment_complaints({"SLUICE__LISTEN": text}) == [
        "environment SLUICE__LISTEN  listen  begins like a JSON list, but is not valid JSON"
    ]


def test_a_broken_list_in_a_variable(tmp_path: Path) -> None:
    assert complaints(tmp_path, "listen: ${L}\n", {"L": "[{"}) == [
        "sluice.yaml:1:9  listen  begins like a JSON list, but is not valid JSON"
    ]


def test_a_list_nobody_can_mean_is_refused_in_time() -> None:
    many = [{"port": 0}] * 100_000
    assert environment_complaints({}, {"listen": many}) == [
        f"configuration  listen  a list must hold 1 to {MOST_LISTENERS} listeners, not 100000"
    ]
    assert len(load({"listen": many[:MOST_LISTENERS]}, {}).settings.listeners) == MOST_LISTENERS


@pytest.mark.parametrize("word", ["off", '"off"', "'off'"])
def test_off_needs_no_quotes_where_it_can_be_no_boolean(tmp_path: Path, word: str) -> None:
    text = f"listen:\n  proxy_protocol: {word}\nstages:\n  ip_allowlist: {{mode: {word}}}\n"
    settings = load_text(tmp_path, text).settings
    assert settings.listeners[0].proxy_protocol == "off"
    assert settings.stages["ip_allowlist"].mode == "off"


@pytest.mark.parametrize("word", ["OFF", "no", "false"])
def test_other_words_for_false_stay_mistakes(tmp_path: Path, word: str) -> None:
    (found,) = complaints(tmp_path, f"listen: {{proxy_protocol: {word}}}\n")
    assert found.startswith("sluice.yaml:1:26  listen.proxy_protocol  ")


def test_off_stays_a_surprise_elsewhere(tmp_path: Path) -> None:
    (found,) = complaints(tmp_path, "access_log: {enabled: off}\n")
    assert "off without quotes is a boolean to some YAML readers" in found


@pytest.mark.parametrize("text", ["listen: {tls: }\n", "listen: [{tls: }]\n"])
def test_tls_with_nothing_in_it_is_no_tls(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, text).settings.listeners[0].tls is None


@pytest.mark.parametrize("file", ["", "listen: {tls: }\n", "listen:\n"])
def test_one_half_of_tls_from_the_environment_misses_the_other(tmp_path: Path, file: str) -> None:
    assert complaints(tmp_path, file, {"SLUICE__LISTEN__TLS__CERT": "a.pem"}) == [
        "environment SLUICE__LISTEN__TLS__CERT  listen.tls.key  is missing"
    ]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"unix": ""}, "unix  write the path of a socket, like /run/sluice/sluice.sock"),
        ({"unix": "@abstract"}, "unix  abstract sockets have no permissions; write a path"),
        ({"unix": "/" + "é" * 52}, "unix  the path of a socket has at most 103 bytes"),
        ({"unix": "/a", "mode": "rw"}, 'mode  write permissions as three octal digits, like "0660"'),
        ({"unix": "/a", "mode": "0888"}, "mode  write permissions as three octal digits"),
        ({"unix": "/a", "mode": "04755"}, "mode  write permissions as three octal digits"),
        ({"unix": "/a", "mode": 660}, 'mode  must be text, not the number 660; quote it: "660"'),
        ({"tls": {"cert": "", "key": "b"}}, "tls.cert  must not be empty"),
        ({"tls": {"cert": "a", "key": "b\0"}}, "tls.key  write the path of a PEM file"),
        ({"tls": {"cert": "a", "key": "b", "client_ca": ""}}, "tls.client_ca  write the path of a PEM file"),
        ({"tls": {"cert": "a", "key": "b", "min_version": "1.1"}}, "tls.min_version  must be 1.2 or 1.3, not"),
        (
            {"tls": {"cert": "a", "key": "b", "min_version": 1.2}},
            'tls.min_version  must be 1.2 or 1.3, not the number 1.2; quote it: "1.2"',
        ),
        ({"proxy_protocol": "optional"}, "proxy_protocol  must be off or required, not"),
    ],
)
def test_single_values_that_cannot_be(setting: dict[str, object], message: str) -> None:
    (found,) = environment_complaints({}, {"listen": setting})
    assert found.startswith(f"configuration  listen.{message}")


@pytest.mark.parametrize(("mode", "number"), [("0660", 0o660), ("600", 0o600), ("0777", 0o777), (None, None)])
def test_permissions_are_octal(mode: str | None, number: int | None) -> None:
    assert Listen(unix="/a", mode=mode).permissions == number


def test_a_key_written_into_the_file_is_not_shown() -> None:
    key = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0\n-----END PRIVATE KEY-----\n"
    for name in ("key", "cert", "client_ca"):
        tls = {"cert": "a", "key": "b", name: key}
        assert environment_complaints({}, {"listen": {"tls": tls}}) == [
            f"configuration  listen.tls.{name}  write the path of the PEM file, not what the file holds"
        ]


def test_the_path_of_a_key_is_shown_and_a_key_elsewhere_is_not(tmp_path: Path) -> None:
    assert complaints(tmp_path, "listen: {tls: {cert: a, key: 0x12}}\n") == [
        "sluice.yaml:1:30  listen.tls.key  0x12 without quotes is a number to some YAML readers; write the decimal "
        'number 18, or quote it: "0x12"'
    ]
    (found,) = complaints(tmp_path, "listen: [{tls: {cert: a, key: 12}}]\n")
    assert "the number 12" in found
    (_, found) = complaints(tmp_path, "tls: {key: 0x12}\n")
    assert found.endswith('tls.key  *** without quotes is a number to some YAML readers; quote it: "***"')


def test_lists_are_applied_before_the_settings_are_known() -> None:
    layers = Layers(Document(""))
    apply_lists(layers, {"SLUICE__LISTEN": TWO}, {})
    layers.settle({})
    assert ("listen", 1, "unix") in layers.leaves
    assert ("listen", "port") not in layers.leaves
    assert ("listen", "port") in layers.known
