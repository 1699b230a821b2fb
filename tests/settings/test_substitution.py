"""Variables inside YAML text."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.settings.substitution import SubstitutionError, substitute
from proxy.stages.ip_allowlist import IPAllowlistConfig
from tests.settings.loading import complaints, load_text

ENVIRON = {"A": "one", "EMPTY": "", "NESTED": "${A}", "_x1": "low"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${A}", "one"),
        ("<${A}-${_x1}>", "<one-low>"),
        ("${EMPTY}", ""),
        ("${EMPTY:-two}", "two"),
        ("${UNSET:-two}", "two"),
        ("${UNSET:-}", ""),
        ("${A:-two}", "one"),
        ("${A:?why}", "one"),
        ("${NESTED}", "${A}"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$$${A}", "$one"),
        ("$A costs 5$", "$A costs 5$"),
    ],
)
def test_variables_are_put_in_place(text: str, expected: str) -> None:
    assert substitute(text, ENVIRON) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${UNSET}", r"the variable UNSET is not set; set it, or write \$\{UNSET:-default\}"),
        ("${UNSET:?say who}", "the variable UNSET is not set: say who"),
        ("${EMPTY:?}", "the variable EMPTY is not set$"),
        ("${}", "without a variable's name"),
        ("${A", "without a variable's name"),
        ("${A-B}", "without a variable's name"),
        ("${1A}", "without a variable's name"),
    ],
)
def test_missing_variables_and_wrong_notation_are_errors(text: str, message: str) -> None:
    with pytest.raises(SubstitutionError, match=message):
        substitute(text, ENVIRON)


def test_a_plain_scalar_takes_the_type_of_its_setting(tmp_path: Path) -> None:
    settings = load_text(
        tmp_path,
        "listen:\n  port: ${PORT_TO_USE:-5005}\n  host: ${HOST}\n"
        "admin:\n  enabled: ${ADMIN}\n"
        "trusted_proxies: ${PROXIES}\n"
        "chain: [ip_allowlist, '${MIDDLE}', '${LAST:-upstream}']\n"
        "model_aliases:\n  old: ${NEW}\n"
        "stages:\n  ip_allowlist:\n    deny:\n      - ${DENIED:-10.0.0.9}\n",
        {"HOST": "127.0.0.1", "ADMIN": "false", "PROXIES": "10.0.0.1, 10.0.0.2", "MIDDLE": "limit", "NEW": "5"},
    ).settings
    assert settings.listeners[0].port == 5005
    assert settings.listeners[0].host == "127.0.0.1"
    assert settings.admin.enabled is False
    assert settings.trusted_proxies == ["10.0.0.1", "10.0.0.2"]
    assert settings.chain == ["ip_allowlist", "limit", "upstream"]
    assert settings.model_aliases == {"old": "5"}
    denying = settings.stages["ip_allowlist"]
    assert isinstance(denying, IPAllowlistConfig)
    assert denying.deny == ["10.0.0.9"]


def test_a_quoted_scalar_stays_text(tmp_path: Path) -> None:
    assert complaints(tmp_path, "listen:\n  port: '${N:-5}'\n") == [
        'sluice.yaml:2:9  listen.port  must be an integer, not the text "5"; remove the quotes'
    ]


def test_a_substituted_value_that_does_not_fit_is_named_at_its_place(tmp_path: Path) -> None:
    assert complaints(tmp_path, "listen:\n  port: ${N}\nchain: ${C}\n", {"N": "five", "C": "[1"}) == [
        'sluice.yaml:2:9  listen.port  must be an integer, not the text "five"',
        "sluice.yaml:3:8  chain  begins like a JSON list, but is not valid JSON",
    ]


def test_a_substituted_section_is_refused(tmp_path: Path) -> None:
    assert complaints(tmp_path, "listen: ${L}\n", {"L": "x"}) == [
        'sluice.yaml:1:9  listen  must be a mapping, or a list of mappings, not the text "x"'
    ]
