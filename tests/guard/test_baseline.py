"""A baseline is what was measured, in a form whose changes can be read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from guard import baseline
from guard.session import TIMES, Cost, Measured

MEASURED = Measured(
    21_000_000.4,
    {
        "JSON request": Cost(
            5000.4,
            4500.0,
            {"python:eval": 4000.2, "libc:rare": 4.0},
            {
                "proxy/b.py:f": {"steps": 120.0, "calls": 2.0, "C len": 1.0},
                "proxy/a.py:timer": {"steps": 0.4, "calls": 0.01},
            },
        )
    },
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = baseline.write(MEASURED, tmp_path, "3.11")
    assert path == tmp_path / "3.11.json"
    assert baseline.read(tmp_path, "3.11") == Measured(
        21_000_000,
        {
            "JSON request": Cost(
                5000,
                4500,
                {"python:eval": 4000},
                {"proxy/b.py:f": {"calls": 2.0, "steps": 120.0, "C len": 1.0}},
            )
        },
    )


def test_a_function_is_a_line(tmp_path: Path) -> None:
    lines = baseline.write(MEASURED, tmp_path, "3.11").read_text("utf-8").splitlines()
    assert '    "proxy/b.py:f": {"C len": 1.0, "calls": 2.0, "steps": 120.0}' in lines


def test_another_version_has_none(tmp_path: Path) -> None:
    baseline.write(MEASURED, tmp_path, "3.11")
    assert baseline.read(tmp_path, "3.99") is None


@pytest.mark.parametrize("path", sorted(baseline.FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_those_recorded_can_judge_every_unit_in_them(path: Path) -> None:
    found = baseline.read(version=path.stem)
    assert found is not None
    assert set(found.costs) == set(TIMES)
    for unit, cost in found.costs.items():
        assert 0 < cost.python < cost.instructions, unit
        assert any(name.startswith("proxy/wire/") for name in cost.functions), unit
        assert cost.by_c, unit
    assert json.loads(path.read_text("utf-8"))["python"].startswith(f"CPython {path.stem}.")


def test_some_baseline_is_recorded() -> None:
    assert list(baseline.FOLDER.glob("*.json"))
