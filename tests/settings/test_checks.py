"""What no single setting can tell: the order of the stages, and addresses that collide."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from proxy.settings import load
from proxy.settings.checks import overlap
from tests.settings.loading import complaints, environment_complaints

CHAINS = [
    ("[ip_allowlist, limitt, key, upstream]", '1:23  chain[1]  unknown stage "limitt"; did you mean "limit"?'),
    ("[nightly, upstream]", '1:9  chain[0]  unknown stage "nightly"; describe it under stages, with a type'),
    (
        "[limit, key, limit, upstream]",
        '1:21  chain[2]  "limit" stands in the chain twice; to use two of one type, give the second a name of '
        "its own and write type: limit",
    ),
    (
        "[ip_allowlist, limit, key]",
        "1:30  chain[2]  the chain must end with an upstream stage: without one no request can be forwarded",
    ),
    ("[]", "1:8  chain  the chain must end with an upstream stage: without one no request can be forwarded"),
    ("[upstream, upstream]", '1:19  chain[1]  "upstream" stands in the chain twice; to use two of one type'),
    ("limit, upstream", 'chain  must be a list, not the text "limit, upstream"; put it between [ and ]'),
    ("[limit, 5]", 'chain[1]  must be text, not the number 5; quote it: "5"'),
]


@pytest.mark.parametrize(("chain", "expected"), CHAINS)
def test_a_chain_that_cannot_run_is_refused_at_the_stage_at_fault(tmp_path: Path, chain: str, expected: str) -> None:
    (found,) = complaints(tmp_path, f"chain: {chain}\n")
    assert expected in found


def test_a_stage_ahead_of_its_turn_is_refused(tmp_path: Path) -> None:
    found = complaints(tmp_path, "chain: [upstream, limit]\n")
    assert "sluice.yaml:1:9  chain[0]  upstream forwards, so it must be the last stage" in found


def test_an_upstream_cannot_be_switched_off() -> None:
    assert environment_complaints({"SLUICE__STAGES__UPSTREAM__MODE": "off"}) == [
        "environment SLUICE__STAGES__UPSTREAM__MODE  chain[3]  upstream forwards, so its mode can only be enforce"
    ]


def test_a_stage_that_is_wrong_itself_is_not_called_unknown(tmp_path: Path) -> None:
    text = "chain: [nightly, limit, upstream]\nstages:\n  nightly: {type: limt}\n  limit: {hour: x}\n"
    found = complaints(tmp_path, text)
    assert [line.split("  ")[1] for line in found] == ["stages.nightly.type", "stages.limit.hour"]


@pytest.mark.parametrize(
    ("listen", "base_url"),
    [
        ("0.0.0.0", "http://127.0.0.1:5000/v1"),
        ("0.0.0.0", "http://127.8.8.8:5000"),
        ("0.0.0.0", "http://localhost:5000/v1"),
        ("0.0.0.0", "http://LOCALHOST:5000/v1"),
        ("0.0.0.0", "http://0.0.0.0:5000/v1"),
        ("0.0.0.0", "http://[::1]:5000/v1"),
        ("::", "http://localhost:5000/v1"),
        ("127.0.0.1", "http://localhost:5000/v1"),
        ("127.0.0.1", "http://0.0.0.0:5000/v1"),
        ("10.0.0.5", "http://10.0.0.5:5000/v1"),
        ("gateway.example", "https://Gateway.example:5000/v1"),
    ],
)
def test_a_base_url_that_leads_back_is_refused(listen: str, base_url: str) -> None:
    found = environment_complaints({"OPENAI_BASE_URL": base_url, "SLUICE__LISTEN__HOST": listen})
    assert found == [
        "environment OPENAI_BASE_URL  stages.upstream.base_url  leads to this gateway's own listener; "
        "name the server that requests should go to"
    ]


@pytest.mark.parametrize(
    ("listen", "port", "base_url"),
    [
        ("0.0.0.0", "5000", "http://127.0.0.1:5001/v1"),
        ("0.0.0.0", "0", "http://127.0.0.1:5000/v1"),
        ("10.0.0.5", "5000", "http://127.0.0.1:5000/v1"),
        ("10.0.0.5", "5000", "http://10.0.0.6:5000/v1"),
        ("0.0.0.0", "443", "https://api.openai.com/v1"),
    ],
)
def test_other_servers_are_not_mistaken_for_ourselves(listen: str, port: str, base_url: str) -> None:
    environ = {"OPENAI_BASE_URL": base_url, "SLUICE__LISTEN__HOST": listen, "PORT": port}
    assert load(None, environ)


def test_a_default_port_counts() -> None:
    (found,) = environment_complaints({"OPENAI_BASE_URL": "http://localhost/v1", "PORT": "80"})
    assert "own listener" in found


@pytest.mark.parametrize(
    ("listen", "admin", "collide"),
    [
        ("0.0.0.0", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("localhost", "127.0.0.1", True),
        ("10.0.0.5", "::", True),
        ("0.0.0.0", "10.0.0.5", True),
        ("10.0.0.5", "127.0.0.1", False),
    ],
)
def test_admin_and_clients_cannot_share_a_port(listen: str, admin: str, collide: bool) -> None:
    config = {"listen": {"host": listen, "port": 5001}, "admin": {"host": admin}}
    if collide:
        assert environment_complaints({}, config) == [
            "configuration  listen.port  is the same as admin.port, 5001; choose another"
        ]
    else:
        assert load(config, {})


def test_the_port_that_was_written_is_the_one_to_change() -> None:
    assert environment_complaints({"SLUICE__ADMIN__PORT": "5000"}) == [
        "environment SLUICE__ADMIN__PORT  admin.port  is the same as listen.port, 5000; choose another"
    ]


@pytest.mark.parametrize("admin", [{"enabled": False, "port": 5000}, {"port": 0}])
def test_an_admin_listener_that_is_off_or_anywhere_takes_no_port(admin: dict[str, object]) -> None:
    assert load({"admin": admin, "listen": {"port": 5000 if admin["port"] else 0}}, {})


def test_nothing_is_concluded_from_a_port_that_is_wrong_itself() -> None:
    (found,) = environment_complaints({"PORT": "x", "SLUICE__ADMIN__PORT": "5000"})
    assert found.startswith("environment PORT")


@pytest.mark.parametrize(
    ("one", "other", "expected"), [("a", "A", True), ("a", "b", False), ("::1", "127.0.0.1", True)]
)
def test_overlap_is_the_same_both_ways(one: str, other: str, expected: bool) -> None:
    assert overlap(one, other) is overlap(other, one) is expected


def test_authorities_are_looked_at_before_the_first_request(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    text = f"stages:\n  upstream:\n    ca_file: {file}\n"
    (missing,) = complaints(tmp_path, text)
    assert "sluice.yaml:3:14  stages.upstream.ca_file  cannot be used: No such file" in missing
    file.write_text("no certificate\n")
    (empty,) = complaints(tmp_path, text)
    assert "stages.upstream.ca_file  cannot be used: " in empty
    trustme.CA().cert_pem.write_to_path(str(file))
    assert load(None, {"SLUICE__STAGES__UPSTREAM__CA_FILE": str(file)}).settings.stages["upstream"] is not None


KEY = "sha256:" + "0" * 32


@pytest.mark.parametrize("limit", [{"by": "credential", "hour": 1}, {"hour": 1, "exempt": [KEY]}])
@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (
            ["limit", "key", "upstream"],
            "chain[0]  limit reads credential, which key sets only later; move limit behind key",
        ),
        (
            ["limit", "upstream"],
            "chain[0]  limit reads credential, which no stage of the chain sets; put key ahead of it",
        ),
    ],
)
def test_a_limit_that_knows_keys_stands_behind_key(limit: dict[str, object], chain: list[str], expected: str) -> None:
    config = {"chain": chain, "stages": {"limit": limit}}
    assert environment_complaints({}, config) == [f"configuration  {expected}"]
    assert load(config | {"chain": ["key", "limit", "upstream"]}, {})


def test_mistakes_deep_within_a_limit_are_found_where_they_stand(tmp_path: Path) -> None:
    text = """stages:
  limit:
    overrides: {10.0.0.0/8: {huor: 5}}
    limits:
      per_key: {mintue: 3, by: path, overrides: {/v1/models/: {dya: 1}}}
"""
    assert complaints(tmp_path, text) == [
        'sluice.yaml:3:30  stages.limit.overrides.10.0.0.0/8.huor  unknown key; did you mean "hour"?',
        'sluice.yaml:5:17  stages.limit.limits.per_key.mintue  unknown key; did you mean "minute"?',
        'sluice.yaml:5:64  stages.limit.limits.per_key.overrides./v1/models/.dya  unknown key; did you mean "day"?',
    ]
    assert complaints(tmp_path, "stages:\n  limit:\n    limits:\n      Other: {}\n") == [
        "sluice.yaml:4:7  stages.limit.limits.Other  name a limit with small letters, digits and _, like per_key"
    ]


def test_by_is_a_word_or_a_list_of_them() -> None:
    said = "write client_ip, credential or path, or a list of them, each once"
    assert environment_complaints({"SLUICE__STAGES__LIMIT__BY": "path,kye"}) == [
        f"environment SLUICE__STAGES__LIMIT__BY  stages.limit.by[1]  {said}"
    ]
    assert environment_complaints({}, {"stages": {"limit": {"by": "kye"}}}) == [
        f"configuration  stages.limit.by  {said}"
    ]
    for given in ("path", "client_ip,path"):
        assert load({}, {"SLUICE__STAGES__LIMIT__BY": given})
