"""``sluice limits``: an operator asks a running gateway about a client, and lets it begin anew."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess

import pytest
import requests

from proxy.mock.running import running
from tests.support.process import Sluice, run, serving

KEY = "sk-a-client-of-ours-0001"
PER_KEY = '{"per_key": {"by": "credential", "hour": 30}}'


@pytest.fixture(scope="module")
def gateway() -> Iterator[Sluice]:
    """Two workers that share their limits: five a minute for an address, thirty an hour for a key."""
    with (
        running() as mock,
        serving(
            OPENAI_BASE_URL=mock.base_url,
            SLUICE__WORKERS="2",
            SLUICE__CHAIN="key,limit,upstream",
            SLUICE__STAGES__LIMIT__LIMITS=PER_KEY,
            MINUTE_LIMIT="5",
        ) as made,
    ):
        yield made


def asked(gateway: Sluice, *words: str, stdin: str = "") -> CompletedProcess[str]:
    """Run ``sluice limits`` for this gateway."""
    return run("limits", *words, "--set", f"admin.port={gateway.admin_port}", stdin=stdin)


def call(gateway: Sluice) -> int:
    url = f"http://127.0.0.1:{gateway.port}/v1/models"
    return requests.get(url, headers={"Authorization": f"Bearer {KEY}"}, timeout=5).status_code


def test_what_all_workers_counted_is_shown_and_forgotten(gateway: Sluice) -> None:
    with ThreadPoolExecutor(8) as threads:
        statuses = sorted(threads.map(lambda _: call(gateway), range(12)))
    assert statuses == [200] * 5 + [429] * 7
    shown = asked(gateway, "show", "127.0.0.1")
    assert shown.returncode == 0, shown.stderr
    minute, address = shown.stdout.splitlines()
    assert minute.startswith("limit.minute                0 of 5 left in 60 s, more in ")
    assert address.startswith("limit.per_key.address.hour  25 of 30 left in 3600 s, more in ")
    key = asked(gateway, "show", "credential=-", stdin=f"{KEY}\n")
    assert key.stdout.startswith("limit.per_key.hour  25 of 30 left in 3600 s"), key.stderr
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    assert asked(gateway, "show", f"sha256:{digest}").stdout.startswith("limit.per_key.hour  25 of 30 left")
    reset = asked(gateway, "reset", "127.0.0.1")
    assert reset.stdout == "forgotten in limit, limit.per_key.address\n"
    assert asked(gateway, "reset", "127.0.0.1").stdout == "there was nothing to forget\n"
    assert asked(gateway, "show", "127.0.0.1").stdout.splitlines()[0].endswith("5 of 5 left in 60 s, not seen lately")
    assert call(gateway) == 200


def test_a_key_is_never_sent_shown_or_logged(gateway: Sluice) -> None:
    for words in (("show", KEY), ("show", f"credential={KEY}"), ("reset", f"credential={KEY}")):
        done = asked(gateway, *words)
        assert done.returncode == 0, done.stderr
        assert KEY not in done.stdout + done.stderr
    assert KEY not in "".join([*gateway.out, *gateway.err])


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("/v1/models", "no limit counts by path; they count by client_ip, credential"),
        ("10.0.0.0/8", "is not an IP address"),
        ("client_ip=10.0.0.1,colour=red", "write parts like"),
    ],
)
def test_a_subject_that_no_limit_counts_is_an_error_with_a_hint(gateway: Sluice, subject: str, words: str) -> None:
    done = asked(gateway, "show", subject)
    assert done.returncode == 1
    assert words in done.stderr


def test_without_a_running_gateway_it_says_so() -> None:
    done = run("limits", "show", "127.0.0.1", "--set", "admin.port=1")
    assert done.returncode == 1
    assert "no way to ask the gateway with admin port 1" in done.stderr
    off = run("limits", "show", "127.0.0.1", "--set", "admin.enabled=false")
    assert off.returncode == 1
    assert "the admin listener is off" in off.stderr


def test_a_configured_token_serves_gateways_of_other_users() -> None:
    done = run("limits", "show", "127.0.0.1", "--set", "admin.port=1", SLUICE__ADMIN__TOKEN="t" * 32)
    assert done.returncode == 1
    assert "no answer from the admin listener at 127.0.0.1:1" in done.stderr
    assert "t" * 32 not in done.stderr
