"""Ratios, and who is named."""

from __future__ import annotations

import pytest

from guard.session import Cost, Functions, Measured
from guard.verdict import Row, build_factor, grown_c, grown_functions, rows


def measured(instructions: float, python: float, calibration: float = 1000.0) -> Measured:
    return Measured(calibration, {"JSON request": Cost(instructions, python)})


def only(now: Measured, baseline: Measured | None) -> Row:
    (row,) = rows(now, baseline)
    return row


def test_a_unit_is_compared_with_its_own_baseline() -> None:
    row = only(measured(115, 100), measured(100, 90))
    assert row.ratio == pytest.approx(1.15)
    assert not row.is_dearer
    assert only(measured(116, 100), measured(100, 90)).is_dearer
    assert only(measured(84, 80), measured(100, 90)).is_cheaper
    assert not only(measured(86, 80), measured(100, 90)).is_cheaper


def test_a_slower_build_of_python_is_no_regression() -> None:
    # It needs twice as much for the calibration, and for what it interprets; libraries need what they needed.
    row = only(measured(10 + 180, 180, calibration=2000.0), measured(10 + 90, 90))
    assert row.ratio == pytest.approx(1.0)
    assert build_factor(measured(1, 1, 2000.0), measured(1, 1)) == 0.5


def test_nor_does_a_faster_one_hide_any() -> None:
    assert only(measured(10 + 60, 60, calibration=500.0), measured(10 + 90, 90)).ratio == pytest.approx(1.3)


def test_without_a_baseline_nothing_is_judged() -> None:
    for baseline in (None, Measured(1000.0, {})):
        row = only(measured(100, 90), baseline)
        assert row.ratio is None
        assert not row.is_dearer
        assert not row.is_cheaper


BEFORE: Functions = {
    "proxy/a.py:same": {"calls": 1.0, "steps": 500.0, "C len": 2.0},
    "proxy/a.py:more": {"calls": 1.0, "steps": 10.0},
    "proxy/a.py:into_c": {"calls": 1.0, "steps": 10.0},
    "proxy/a.py:less": {"calls": 3.0, "steps": 90.0},
}
NOW: Functions = {
    "proxy/a.py:same": {"calls": 1.0, "steps": 500.6, "C len": 2.0},
    "proxy/a.py:more": {"calls": 2.0, "steps": 40.0},
    "proxy/a.py:into_c": {"calls": 1.0, "steps": 12.0, "C re.Pattern.sub": 1.0},
    "proxy/a.py:less": {"calls": 1.0, "steps": 30.0},
    "proxy/b.py:new": {"calls": 1.0, "steps": 20.0},
    "proxy/b.py:a_little": {"calls": 1.0, "steps": 19.0},
    "proxy/b.py:timer": {"calls": 0.15, "steps": 14.0, "C len": 0.9},
}


def test_who_does_more_is_named_most_first() -> None:
    grown = grown_functions(NOW, BEFORE)
    assert [growth.function.partition(":")[2] for growth in grown] == ["more", "new", "into_c"]
    assert [growth.is_new for growth in grown] == [False, True, False]
    assert grown[0].counts == {"calls": (1.0, 2.0), "steps": (10.0, 40.0)}
    assert grown[2].counts == {"steps": (10.0, 12.0), "C re.Pattern.sub": (0.0, 1.0)}


def test_nobody_is_named_when_nothing_has_grown() -> None:
    assert grown_functions(BEFORE, BEFORE) == []


def test_c_functions_are_compared_on_the_same_build() -> None:
    before = Cost(1000, 900, {"python:eval": 400.0, "libc:memcpy": 50.0})
    now = Cost(2000, 1900, {"python:eval": 800.0, "libc:memcpy": 100.0, "libcrypto:sha256": 90.0, "libc:free": 1.0})
    grown = grown_c(now, before, 0.5)
    assert [(growth.function, growth.is_new) for growth in grown] == [
        ("libcrypto:sha256", True),
        ("libc:memcpy", False),
    ]
