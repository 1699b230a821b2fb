"""Docker's bridge and unnamed proxies hide the clients: the gateway notices, and says so once."""

from __future__ import annotations

import logging

import pytest

import proxy
from proxy.core.exchange import Route
from proxy.core.headers import Headers
from proxy.gateway.hidden_clients import HIDDEN_CLIENTS_AFTER
from proxy.gateway.plane import DataPlane
from proxy.wire.gate import RequestHead


class Context:
    """A connection's peer, as a server describes it."""

    def __init__(self, host: str) -> None:
        self.address = (host, 40_000)


async def come(plane: DataPlane, *hosts: str) -> None:
    """Let requests come in from these peers."""
    for host in hosts:
        plane.open_exchange(RequestHead("GET", b"/v1/models", "1.1", Headers()), Context(host), Route.API)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of."""
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "sluice.gateway"]


@pytest.mark.gen_test
async def test_one_private_peer_is_suspected_once(caplog: pytest.LogCaptureFixture) -> None:
    plane = proxy.mount({})
    await come(plane, *["172.17.0.1"] * (HIDDEN_CLIENTS_AFTER * 3))
    (said,) = warnings(caplog)
    assert "172.17.0.1" in said
    assert "ip_allowlist and limit" in said
    assert "TRUSTED_PROXIES" in said


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("config", "hosts"),
    [
        ({}, ["203.0.113.9"]),
        ({}, ["127.0.0.1"]),
        ({}, ["172.17.0.1", "172.17.0.2"]),
        ({"trusted_proxies": ["172.17.0.1"]}, ["172.17.0.1"]),
        ({"chain": ["key", "upstream"]}, ["172.17.0.1"]),
    ],
)
async def test_nobody_else_is(config: dict[str, object], hosts: list[str], caplog: pytest.LogCaptureFixture) -> None:
    plane = proxy.mount(config)
    await come(plane, *hosts * HIDDEN_CLIENTS_AFTER)
    assert warnings(caplog) == []
