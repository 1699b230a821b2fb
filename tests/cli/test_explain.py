"""``sluice explain``: the real chain, one imagined request, every decision with its reason."""

from __future__ import annotations

import pytest

from proxy.cli import main

KEY = ("--header", "Authorization: Bearer sk-client")


def explain(capsys: pytest.CaptureFixture[str], *args: str, **environ: str) -> tuple[int, str]:
    """Run it in this process."""
    status = main(["explain", *args], environ)
    return status, capsys.readouterr().out


def test_a_request_that_passes(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = explain(
        capsys, *KEY, "--client-ip", "10.1.2.3", IP_ALLOWLIST="10.0.0.0/8", HOUR_LIMIT="50", MINUTE_LIMIT="3"
    )
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["POST", "/v1/chat/completions"]
    assert ["1.", "ip_allowlist", "pass", "10.1.2.3", "is", "in", "allow:", "10.0.0.0/8"] in lines
    assert 'stages.ip_allowlist.allow = ["10.0.0.0/8"]  (environment IP_ALLOWLIST)' in out
    assert "10.1.2.3 may send 3 per minute, 50 per hour" in out
    assert "stages.limit.hour = 50  (environment HOUR_LIMIT)" in out
    assert "the client's own key is used" in out
    assert "POST goes to https://api.openai.com:443/v1/chat/completions" in out


LIMITS = """
{"per_key": {"by": ["credential", "path"], "hour": 9, "keys_per_ip": 3, "overrides": {"/v1/models": {"hour": 5}}},
 "free": {"minute": 7, "exempt": ["10.0.0.0/8"]}, "unset": {}}
"""


def test_every_limit_is_explained_with_its_subject_and_where_it_counts(capsys: pytest.CaptureFixture[str]) -> None:
    environ = {
        "SLUICE__CHAIN": "key,limit,upstream",
        "MINUTE_LIMIT": "3",
        "SLUICE__STAGES__LIMIT__LIMITS": LIMITS,
        "SLUICE__STAGES__LIMIT__OVERRIDES": '{"10.1.0.0/16": {"minute": 30}}',
        "SLUICE__LIMITS__STORE": "rediss://user:hunter2@counters/3",
    }
    status, out = explain(capsys, *KEY, "--client-ip", "10.1.2.3", "--path", "/v1/models?x", **environ)
    assert status == 0
    lines = [line.strip() for line in out.splitlines()]
    at = next(index for index, line in enumerate(lines) if line.startswith("2. limit"))
    assert lines[at].endswith("limit: 10.1.2.3 may send 30 per minute (overrides: 10.1.0.0/16)")
    assert lines[at + 1] == (
        "limit.per_key: the key on /v1/models may send 5 per hour (overrides: /v1/models), "
        "and 10.1.2.3 on /v1/models may send 15 per hour (overrides: /v1/models)"
    )
    assert lines[at + 2] == "limit.free: 10.1.2.3 is exempt (10.0.0.0/8)"
    assert lines[at + 3] == "counted in: rediss://counters:6379/3  (environment SLUICE__LIMITS__STORE)"
    assert "hunter2" not in out


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"HOUR_LIMIT": "5"}, "counted in: memory  (default)"),
        ({"HOUR_LIMIT": "5", "SLUICE__WORKERS": "2"}, "counted in: shared  (default)"),
        ({}, ""),
    ],
)
def test_where_limits_count(environ: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, out = explain(capsys, *KEY, **environ)
    assert said in out
    assert ("counted in" in out) is bool(said)


def test_the_first_refusal_ends_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = explain(capsys, *KEY, "--client-ip", "203.0.113.9", IP_ALLOWLIST="10.0.0.0/8", LANG="ru_RU")
    assert status == 1
    assert "deny ip_not_allowed" in out
    assert "203.0.113.9 is in no entry of allow" in out
    assert out.count("not reached") == 3
    assert "answered here: 403 ip_not_allowed: Запросы с вашего IP-адреса" in out


def test_trusted_proxies_are_part_of_the_story(capsys: pytest.CaptureFixture[str]) -> None:
    forwarded = ("--header", "X-Forwarded-For: 198.51.100.7", "--client-ip", "10.0.0.1")
    _, out = explain(capsys, *KEY, *forwarded, TRUSTED_PROXIES="10.0.0.0/8")
    assert "from 198.51.100.7: the peer 10.0.0.1 is a trusted proxy (environment TRUSTED_PROXIES)" in out
    _, out = explain(capsys, *KEY, *forwarded)
    assert "from 10.0.0.1: its X-Forwarded-For counts for nothing (trusted_proxies: default)" in out


def test_only_the_chosen_header_counts_and_another_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    sent = (
        "--header",
        "Forwarded: for=198.51.100.7",
        "--header",
        "X-Forwarded-For: 192.0.2.1",
        "--client-ip",
        "unix",
    )
    chosen = {"TRUSTED_PROXIES": "unix", "SLUICE__CLIENT_IP_HEADER": "forwarded"}
    _, out = explain(capsys, *KEY, *sent, **chosen)
    assert "from 198.51.100.7: the peer unix is a trusted proxy (environment TRUSTED_PROXIES)" in out
    _, out = explain(capsys, *KEY, *sent[2:], **chosen)
    why = "client_ip_header = forwarded: environment SLUICE__CLIENT_IP_HEADER"
    assert f"from unix: its X-Forwarded-For counts for nothing ({why})" in out
    _, out = explain(capsys, *KEY, *sent[2:])
    assert "from unix: its X-Forwarded-For counts for nothing (trusted_proxies: default)" in out
    _, out = explain(capsys, *KEY, "--client-ip", "unix", IP_ALLOWLIST="unix")
    assert "unix is in allow: unix" in out


def test_where_the_body_is_waited_for(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = explain(capsys, "--path", "/api", "--body", '{"user_content": "q", "api_key": "k"}')
    assert status == 0
    assert out.index("the later stages wait here until the body is in") > out.index("3. key")
    assert "/v1/chat/completions" in out
    status, out = explain(capsys, "--path", "/api", "--body", '{"user_content": "q"}')
    assert status == 1
    assert "400 missing_api_key" in out
    status, out = explain(capsys, "--path", "/api", "--body", "{")
    assert status == 1
    assert "not valid JSON" in out


def test_shadow_and_off_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    status, out = explain(
        capsys,
        *KEY,
        IP_ALLOWLIST="10.0.0.0/8",
        SLUICE__STAGES__IP_ALLOWLIST__MODE="shadow",
        SLUICE__STAGES__LIMIT__MODE="off",
    )
    assert status == 0
    assert "shadow_deny ip_not_allowed" in out
    assert ["2.", "limit", "off"] in [line.split() for line in out.splitlines()]


@pytest.mark.parametrize(("path", "said"), [("/nope", "404"), ("/healthz", "200"), ("/readyz", "503")])
def test_paths_without_a_chain(path: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out = explain(capsys, "--path", path)
    assert status == 1
    assert said in out


def test_another_method_on_the_chat_route(capsys: pytest.CaptureFixture[str]) -> None:
    assert "405" in explain(capsys, "--path", "/api", "--method", "get")[1]


def test_no_secret_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    _, out = explain(capsys, API_KEY="sk-canary-abcdefghijklmnop")
    assert "a server key is used" in out
    assert "canary" not in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--header", "nonsense"), "write it like"),
        (("--client-ip", "here"), "not an IP address"),
        (("--path", "v1"), "begins with /"),
    ],
)
def test_what_cannot_be_imagined(args: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *args], {}) == 2
    assert said in capsys.readouterr().err
