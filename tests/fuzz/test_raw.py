"""A small attack over sockets: every seed as it is, then mutations; the account must be even."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz.campaign import Plan
from fuzz.raw import attack
from fuzz.raw.client import status_of
from fuzz.target import seed_files


def test_a_gateway_under_attack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = attack.run(Plan(0, 600, 11, tmp_path))
    assert result.findings == []
    assert result.inputs >= 600
    assert len(seed_files("raw")) < 100, "all of them are among these inputs"
    said = capsys.readouterr().out
    assert "200:" in said
    assert "went upstream" in said


@pytest.mark.parametrize(
    ("received", "status"), [(b"", 0), (b"HTTP/1.1 200 OK\r\n", 200), (b"junk", -1), (b"HTTP/1.1 99 ", -1)]
)
def test_status(received: bytes, status: int) -> None:
    assert status_of(received) == status
