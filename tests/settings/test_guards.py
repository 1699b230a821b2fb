"""Who keeps strangers away from a shared key: what start-up believes about it."""

from __future__ import annotations

import pytest

from proxy.settings import load


@pytest.mark.parametrize(
    ("environ", "is_used"),
    [
        ({"SLUICE__LISTEN__HOST": "127.0.0.1"}, True),
        ({"SLUICE__LISTEN__HOST": "127.0.0.1", "TRUSTED_PROXIES": "127.0.0.1"}, False),
        ({"SLUICE__LISTEN__HOST": "127.0.0.1", "TRUSTED_PROXIES": "127.0.0.1", "IP_ALLOWLIST": "10.0.0.0/8"}, True),
        ({}, False),
    ],
)
def test_a_proxy_on_this_machine_brings_strangers_to_a_loopback_listener(
    environ: dict[str, str], is_used: bool
) -> None:
    ambient = load(None, {"OPENAI_API_KEY": "sk-ambient", **environ})
    assert bool(ambient.settings.stages["key"].model_dump()["server_keys"]) is is_used
    shared = load(None, {"API_KEY": "sk-shared", **environ})
    assert any("EVERYBODY" in notice for notice in shared.notices) is not is_used
