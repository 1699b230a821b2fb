"""What the command says and how it ends, with measurements made up."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from bench.install import Unavailable
from guard import __main__, baseline
from guard.session import Cost, Functions, Measured

FUNCTIONS: Functions = {"proxy/core/headers.py:Headers.get": {"calls": 4.0, "steps": 400.0}}
GROWN: Functions = {"proxy/core/headers.py:Headers.get": {"calls": 4.0, "steps": 1400.0}}


@pytest.fixture(autouse=True)
def _nothing_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(__main__, "ensure", lambda programs: None)


def measured(instructions: float, functions: Functions = FUNCTIONS) -> Measured:
    costs = {
        "JSON request": Cost(instructions, instructions, {"python:eval": instructions}, functions),
        "SSE chunk": Cost(1000.0, 1000.0, {"python:eval": 1000.0}, FUNCTIONS),
    }
    return Measured(1_000_000.0, costs)


def run(folder: Path, now: Measured, *argv: str) -> int:
    return __main__.main(argv, lambda: now, folder, {})


@pytest.fixture
def recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    assert run(tmp_path, measured(10_000.0), "--record") == 0
    assert str(tmp_path / f"{baseline.VERSION}.json") in capsys.readouterr().out
    return tmp_path


def test_what_costs_as_much_as_recorded_passes(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recorded, measured(11_000.0)) == 0
    assert capsys.readouterr().out.splitlines() == [
        "unit             now  baseline  ratio",
        "JSON request  11,000    10,000  1.100",
        "SSE chunk      1,000     1,000  1.000",
    ]


def test_what_costs_more_fails_and_is_named(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recorded, measured(12_000.0, GROWN)) == 1
    said = capsys.readouterr().out
    assert "proxy/core/headers.py:Headers.get  +1,000 bytecodes (400 → 1,400)" in said
    assert "in C, python:eval  +2,000 instructions (10,000 → 12,000)" in said
    assert "Over 15% dearer than recorded: JSON request." in said
    assert "SSE chunk: what" not in said


def test_what_grows_in_c_alone_is_said_to(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recorded, measured(12_000.0)) == 1
    assert "no Python function by 20 bytecodes" in capsys.readouterr().out


def test_a_gain_is_to_be_recorded(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(recorded, measured(8_000.0)) == 0
    assert "Over 15% cheaper than recorded: JSON request. Record the new baseline" in capsys.readouterr().out
    assert run(recorded, measured(8_000.0), "--record") == 0
    assert run(recorded, measured(10_000.0)) == 1


def test_without_a_baseline_it_warns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, measured(10_000.0)) == 0
    assert f"no baseline for Python {baseline.VERSION}" in capsys.readouterr().out


@pytest.mark.parametrize(("ci", "status"), [("true", 1), ("1", 1), ("false", 0), ("0", 0), ("", 0)])
def test_in_ci_there_has_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str], ci: str, status: int) -> None:
    assert __main__.main([], lambda: measured(10_000.0), tmp_path, {"CI": ci}) == status
    *_, said = capsys.readouterr().out.splitlines()
    assert ("that fails" in said) is (status == 1)
    assert f"guard/baselines/{baseline.VERSION}.json" in said
    assert said.endswith("python -m guard --record")


def test_in_ci_one_can_be_recorded_and_judges(tmp_path: Path) -> None:
    ci = {"CI": "true"}
    assert __main__.main(["--record"], lambda: measured(10_000.0), tmp_path, ci) == 0
    assert __main__.main([], lambda: measured(10_000.0), tmp_path, ci) == 0
    assert __main__.main([], lambda: measured(12_000.0), tmp_path, ci) == 1


def test_a_new_unit_is_told_and_not_failed(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    now = measured(10_000.0)
    now.costs["JSON request, new head"] = Cost(15_000.0, 15_000.0, {}, FUNCTIONS)
    assert __main__.main([], lambda: now, recorded, {"CI": "true"}) == 0
    said = capsys.readouterr().out
    assert "JSON request, new head  15,000         -    new\n" in said
    assert "so not judged: JSON request, new head. Record" in said
    assert run(recorded, now, "--record") == 0
    now.costs["JSON request, new head"] = Cost(18_000.0, 18_000.0, {}, FUNCTIONS)
    assert run(recorded, now) == 1


def test_without_valgrind_it_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ensure(programs: Iterable[str]) -> None:
        raise Unavailable(f"This needs {' '.join(programs)}.")

    monkeypatch.setattr(__main__, "ensure", ensure)
    assert run(tmp_path, measured(10_000.0)) == 1
    assert capsys.readouterr() == ("", "guard: This needs valgrind.\n")


@pytest.mark.parametrize("error", [RuntimeError("the gateway has ended"), BrokenPipeError(32, "Broken pipe")])
def test_a_gateway_that_fails_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    def broken() -> Measured:
        raise error

    assert __main__.main([], broken, tmp_path, {}) == 1
    assert capsys.readouterr().err == f"guard: {error}\n"
