"""The measured gateway serves every unit, and what it does is the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from guard.ends import content_length, expect
from guard.session import TIMES, WARM_UP, Functions, count_functions, least
from guard.traffic import ask_traced

NEW_HEAD = "JSON request, new head"


def test_each_unit_takes_its_own_way(tmp_path: Path) -> None:
    few = {"JSON request": 3, "SSE chunk": 5, "refusal by the limit": 3, "1 MiB upload": 1, NEW_HEAD: 3}
    found = count_functions(tmp_path, few)
    assert set(found) == set(TIMES) == set(WARM_UP)
    steps = {
        unit: sum(counts.get("steps", 0.0) for counts in functions.values()) for unit, functions in found.items()
    }
    assert steps["SSE chunk"] < steps["JSON request"] < steps["1 MiB upload"]
    # No upstream hears of a request that is refused.
    assert any("wire/client.py" in name for name in found["JSON request"])
    assert not any("wire/client.py:UpstreamConnection.begin" in name for name in found["refusal by the limit"])
    # A head that came before is looked up, any other is parsed and judged, every time.
    parsing = "proxy/wire/head.py:RequestParser.feed"
    assert found[NEW_HEAD][parsing]["calls"] == 1
    assert parsing not in found["JSON request"]


def test_no_two_traced_requests_are_the_same() -> None:
    asked = [ask_traced(number) for number in (1, 2, 999_999)]
    assert len(set(asked)) == 3
    assert len({len(ask) for ask in asked}) == 1
    assert b"\r\ntraceparent: 00-%032d-%016d-01\r\n" % (2, 2) in asked[1]


def test_what_a_timer_does_now_and_then_is_left_out() -> None:
    always: Functions = {"proxy/a.py:f": {"calls": 2.0, "steps": 20.0, "C len": 2.0}}
    sweep: Functions = {"proxy/a.py:f": {"calls": 3.0, "steps": 30.0}, "proxy/b.py:sweep": {"calls": 1.0}}
    assert least([always, sweep, always], 2) == {"proxy/a.py:f": {"calls": 1.0, "steps": 10.0}}
    assert least([sweep, always], 2) == {"proxy/a.py:f": {"calls": 1.0, "steps": 10.0}}


def test_what_is_not_as_expected_is_an_error() -> None:
    expect(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 ")
    with pytest.raises(RuntimeError, match="429"):
        expect(b"HTTP/1.1 429 Too Many Requests\r\n", b"HTTP/1.1 200 ")
    assert content_length(b"HTTP/1.1 200 OK\r\ncontent-length:  12\r\n\r\n") == 12
    with pytest.raises(RuntimeError, match="Content-Length"):
        content_length(b"HTTP/1.1 200 OK\r\n\r\n")
