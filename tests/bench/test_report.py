"""The bench's arithmetic: what counts as a good round, medians, ratios, the table."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from bench.load import Tally
from bench.report import document, medians, ratios, table, warnings
from bench.rounds import Plan, Sample, check

GOOD = {"answers": 100, "streams": 0, "events": 0, "refusals": 0}


def sample(
    peer: str, cpu_s: float, kind: str = "json", units: int = 100_000, per_read: float | None = None
) -> Sample:
    return Sample(peer, kind, 1, units, cpu_s, 5.0, per_read)


SAMPLES = [
    *(sample("nginx", cpu_s) for cpu_s in (2.5, 9.0, 2.0)),
    *(sample("sluice", cpu_s) for cpu_s in (5.5, 5.0, 4.0)),
    sample("nginx", 2.0, "sse"),
    sample("sluice", 3.0, "sse"),
]


def test_a_sample_is_in_microseconds_per_unit() -> None:
    measured = sample("nginx", 2.5)
    assert measured.cpu_us == pytest.approx(25.0)
    assert measured.rate == pytest.approx(20_000)
    assert measured.busy == pytest.approx(0.5)


def test_one_bad_round_does_not_move_the_median() -> None:
    assert medians(SAMPLES, "json") == {"nginx": pytest.approx(25.0), "sluice": pytest.approx(50.0)}
    assert medians(SAMPLES, "sse") == {"nginx": pytest.approx(20.0), "sluice": pytest.approx(30.0)}


def test_ratios_are_to_the_baseline() -> None:
    assert ratios({"nginx": 25.0, "sluice": 50.0}, "nginx") == {"nginx": 1.0, "sluice": 2.0}
    assert ratios({"sluice": 50.0}, "nginx") == {}


def test_the_table_has_a_row_for_each_peer() -> None:
    head, *rows = table(SAMPLES, {"nginx": 3 * 2**20, "sluice": 40 * 2**20}, "nginx").splitlines()
    assert re.split("  +", head.strip()) == [
        "JSON request, µs",
        "× nginx",
        "SSE chunk, µs",
        "× nginx",
        "idle RSS, MiB",
    ]
    assert [row.split() for row in rows] == [
        ["nginx", "25.0", "1.00", "20.0", "1.00", "3.0"],
        ["sluice", "50.0", "2.00", "30.0", "1.50", "40.0"],
    ]


def test_the_table_does_without_the_baseline() -> None:
    rows = table([s for s in SAMPLES if s.peer == "sluice"], {"sluice": 2**20}, "nginx").splitlines()
    assert rows[1].split() == ["sluice", "50.0", "-", "30.0", "-", "1.0"]


def test_what_spoils_the_figures_is_said() -> None:
    found = warnings([*SAMPLES, sample("nginx", 2.0, "sse", per_read=3.0)], load_before=2.0)
    assert any("busy" in warning for warning in found)
    assert any("nginx passed on several chunks" in warning for warning in found)
    assert any("rounds of nginx, JSON request, differ: 20.0 to 90.0" in warning for warning in found)
    assert not any("sluice passed" in warning for warning in found)


def test_the_document_is_json_with_every_sample() -> None:
    written = json.loads(json.dumps(document(SAMPLES, {"nginx": 1}, {"nginx": "1.22.1"}, Plan(), "nginx")))
    assert written["ratio"]["json"]["sluice"] == pytest.approx(2.0)
    assert len(written["samples"]) == len(SAMPLES)
    assert written["plan"] == {"rounds": 3, "seconds": 6.0, "connections": 64}


def test_a_round_in_which_both_ends_agree_stands() -> None:
    check("here", Tally(answers=100), GOOD)
    check("here", Tally(answers=2, events=400), {"answers": 0, "streams": 2, "events": 400, "refusals": 0})


@pytest.mark.parametrize(
    ("tally", "sent"),
    [
        (Tally(answers=99), GOOD),
        (Tally(answers=0), GOOD | {"answers": 0}),
        (Tally(answers=100), GOOD | {"refusals": 1}),
        (Tally(answers=100), GOOD | {"events": 5}),
        (Tally(answers=2, events=399), {"answers": 0, "streams": 2, "events": 400, "refusals": 0}),
        (Tally(answers=100, failures=Counter({"HTTP/1.1 502 Bad Gateway": 1})), GOOD),
    ],
)
def test_a_round_that_is_not_whole_gives_no_figure(tally: Tally, sent: dict[str, int]) -> None:
    with pytest.raises(RuntimeError, match=r"^here: "):
        check("here", tally, sent)


def test_reached_limits_are_named() -> None:
    tally = Tally(answers=10_000, failures=Counter({"HTTP/1.1 429 Too Many Requests": 3}))
    with pytest.raises(RuntimeError, match="limits count exactly"):
        check("here", tally, GOOD)
