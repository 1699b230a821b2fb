"""The parser of structured fields finds out a bad line."""

from __future__ import annotations

import pytest

from tests.support.structured_fields import Item, parse_list


@pytest.mark.parametrize(
    ("lines", "items"),
    [
        ([""], []),
        (['"a.b";q=3;w=60'], [("a.b", {"q": 3, "w": 60})]),
        (['"a";r=1', '"b" , c;x;y=?0'], [("a", {"r": 1}), ("b", {}), ("c", {"x": True, "y": False})]),
        (['"\\"\\\\"; k=1.5'], [('"\\', {"k": 1.5})]),
    ],
)
def test_lists(lines: list[str], items: list[Item]) -> None:
    assert parse_list(lines) == items


@pytest.mark.parametrize(
    "line",
    ['"a', '"a",', ",", '"a" "b"', '"\xe9"', '"a\nb"', '"a";Q=1', '"a";q=', '"a";q=1234567890123456', "1.", '"\\x"'],
)
def test_what_is_none(line: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse_list([line])
