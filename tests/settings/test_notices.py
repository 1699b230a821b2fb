"""What is said at start, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings import load
from tests.settings.loading import load_text

OPEN = (
    "ip_allowlist: no list is set, so everybody may speak. List addresses and networks in IP_ALLOWLIST or "
    "stages.ip_allowlist.allow, or write allow: [any] if this is meant"
)
LOUD = (
    "WARNING: EVERYBODY who can reach 0.0.0.0 port 5000 spends the money of the server's API key. "
    "Say who may: set IP_ALLOWLIST, or stages.ip_allowlist.allow"
)


def test_an_open_gateway_is_said_once() -> None:
    assert load(None, {}).notices == [OPEN]


@pytest.mark.parametrize(
    "config",
    [
        {"stages": {"ip_allowlist": {"allow": ["any"]}}},
        {"stages": {"ip_allowlist": {"mode": "off"}}},
        {"chain": ["limit", "key", "upstream"]},
    ],
)
def test_a_gateway_opened_on_purpose_is_not(config: dict[str, object]) -> None:
    assert load(config, {}).notices == []


def test_a_server_key_for_everybody_is_said_loudly_and_first() -> None:
    assert load(None, {"API_KEY": "sk-a"}).notices == [LOUD, OPEN]
    assert load(None, {"API_KEY": "sk-a", "IP_ALLOWLIST": "any"}).notices == [LOUD]


@pytest.mark.parametrize(
    "environ",
    [
        {"IP_ALLOWLIST": "10.0.0.0/8"},
        {"IP_ALLOWLIST": "any", "SLUICE__LISTEN__HOST": "127.0.0.1"},
        {"IP_ALLOWLIST": "any", "SLUICE__STAGES__KEY__MODE": "off"},
    ],
)
def test_a_server_key_out_of_reach_is_nothing_to_warn_of(environ: dict[str, str]) -> None:
    assert load(None, {"API_KEY": "sk-a", **environ}).notices == []


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_trusting_everybody_as_a_proxy_is_said(network: str) -> None:
    environ = {"TRUSTED_PROXIES": network, "IP_ALLOWLIST": "any"}
    assert load(None, environ).notices == [
        f"WARNING: trusted_proxies holds {network}: every client can claim to be any address, and so pass the "
        "allowlist and the limits"
    ]


@pytest.mark.parametrize(
    ("mode", "start", "middle"),
    [(0o644, "WARNING: ", ", and every user of this machine can read it"), (0o640, "", ""), (0o600, "", "")],
)
def test_a_key_in_the_file_is_said_louder_if_all_can_read_it(
    tmp_path: Path, mode: int, start: str, middle: str
) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text("stages:\n  ip_allowlist: {allow: [10.0.0.1]}\n  key: {server_keys: [sk-verysecret]}\n")
    file.chmod(mode)
    assert load(file, {}).notices == [
        f"{start}{file}:3:22 holds a key in plain text{middle}. Better: SLUICE__STAGES__KEY__SERVER_KEYS_FILE, "
        "or ${NAME} in its place"
    ]


def test_a_key_in_the_file_is_said_even_if_it_is_overridden(tmp_path: Path) -> None:
    text = "stages:\n  ip_allowlist: {allow: [10.0.0.1]}\n  key: {server_keys: ['${K}', sk-verysecret]}\n"
    (notice,) = load_text(tmp_path, text, {"API_KEY": "sk-other", "K": "sk-k"}).notices
    assert "holds a key in plain text" in notice


@pytest.mark.parametrize("keys", ["['${K}', \"${K}\"]", "${K}", "[]"])
def test_keys_from_variables_are_not_in_the_file(tmp_path: Path, keys: str) -> None:
    text = f"stages:\n  ip_allowlist: {{allow: [10.0.0.1]}}\n  key:\n    server_keys: {keys}\n"
    assert load_text(tmp_path, text, {"K": "sk-k"}).notices == []


def test_short_names_of_stages_that_are_not_in_the_chain() -> None:
    config = {
        "chain": ["door", "burst", "upstream"],
        "stages": {"door": {"type": "ip_allowlist", "allow": ["10.0.0.1"]}, "burst": {"type": "limit"}},
    }
    environ = {"HOUR_LIMIT": "5", "IP_ALLOWLIST": "10.0.0.1", "API_KEY": "sk-a", "PORT": "1", "ROUTE": "api"}
    missing = "has no effect: the chain has no stage named"
    assert load(config, environ).notices == [
        f"API_KEY {missing} key. Set SLUICE__STAGES__<NAME>__SERVER_KEYS instead",
        f"HOUR_LIMIT {missing} limit. Set SLUICE__STAGES__<NAME>__HOUR instead",
        f"IP_ALLOWLIST {missing} ip_allowlist. Set SLUICE__STAGES__<NAME>__ALLOW instead",
    ]


def test_a_short_name_of_a_stage_that_became_another() -> None:
    config = {
        "stages": {"limit": {"type": "ip_allowlist", "allow": ["10.0.0.1"]}, "ip_allowlist": {"allow": ["any"]}}
    }
    assert load(config, {"HOUR_LIMIT": "5"}).notices == [
        "HOUR_LIMIT has no effect: the stage limit has no setting hour"
    ]
