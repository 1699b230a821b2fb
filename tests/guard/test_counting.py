"""Python functions are counted to the instruction."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guard.calibration import calibrate
from guard.counting import FunctionCounter

HERE = "tests/guard/test_counting.py"


def plain() -> int:
    return 1 + len("abc")


def longer() -> int:
    total = 0
    for number in range(100):
        total += number
    return total


def counted(work: Callable[[], object], times: int = 1) -> dict[str, dict[str, float]]:
    counter = FunctionCounter()
    counter.start()
    try:
        for _ in range(times):
            work()
    finally:
        found = counter.stop()
    return found


def test_calls_and_calls_into_c_are_counted() -> None:
    found = counted(plain, 7)[f"{HERE}:plain"]
    assert found["calls"] == 7
    assert found["C len"] == 7


def test_instructions_add_up() -> None:
    counted(longer)
    once = counted(longer)[f"{HERE}:longer"]["steps"]
    assert once > 300
    assert counted(longer, 5)[f"{HERE}:longer"]["steps"] == 5 * once
    assert counted(plain)[f"{HERE}:plain"]["steps"] < 20


def test_each_count_begins_anew() -> None:
    counter = FunctionCounter()
    for _ in range(2):
        counter.start()
        plain()
        found = counter.stop()
    assert found[f"{HERE}:plain"]["calls"] == 1


def test_the_guard_does_not_count_itself() -> None:
    assert not [name for name in counted(calibrate) if name.startswith("guard/")]


@pytest.mark.parametrize(("name", "expected"), [("json/__init__.py:loads", True), ("json/encoder.py:loads", False)])
def test_files_of_the_library_are_named_from_its_root(name: str, expected: bool) -> None:
    import json

    assert (name in counted(lambda: json.loads("[]"))) is expected


def test_the_calibration_is_always_the_same() -> None:
    assert calibrate() == calibrate() > 0
