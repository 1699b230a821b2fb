"""The bench's arithmetic: what counts as a good round, medians, ratios, the tables, the goals, the chart."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace

import pytest

from bench.client import Tally
from bench.figures import FIGURES, Medians, number
from bench.goals import GOALS, Goal, Result, missed, results
from bench.report import GOAL_HEADS, Origin, aligned, cpu_model, document, grid, heads, markdown, page, warnings
from bench.section import Plan, Sample, check

GOOD = {"answers": 100, "streams": 0, "events": 0, "uploads": 0, "refusals": 0}
VERSIONS = {"nginx": "1.22.1", "litellm": "1.2", "sluice": "0.1.0"}


ORIGIN = Origin("python -m bench --rounds 5", "2026-01-31", 2)


def sample(
    peer: str, value: float | None, figure: str = "json_us", transport: str = "plain", said: str = ""
) -> Sample:
    return Sample(figure, peer, transport, 1, value, said)


SAMPLES = [
    *(sample("nginx", value) for value in (25.0, 90.0, 20.0)),
    *(sample("sluice", value) for value in (55.0, 50.0, 40.0)),
    sample("litellm", 12_000.0),
    sample("nginx", 20.0, "sse_us"),
    sample("sluice", 30.0, "sse_us"),
    sample("nginx", 40.0, transport="tls"),
    sample("sluice", 100.0, transport="tls"),
    sample("nginx", 0.8, "added_p99_ms"),
    sample("litellm", None, "added_p99_ms", said="cannot: 83/s"),
    sample("sluice", 1.2, "added_p99_ms"),
    Sample("crowd_mib", "sluice", "plain", 1, 251.0, details={"streams": 10_240}),
]


def test_one_bad_round_does_not_move_the_median() -> None:
    medians = Medians(SAMPLES)
    assert medians.value("json_us", "nginx") == 25.0
    assert medians.value("json_us", "sluice") == 50.0
    assert medians.value("json_us", "sluice", "tls") == 100.0
    assert medians.value("sse_us", "litellm") is None


def test_ratios_need_both_figures() -> None:
    medians = Medians(SAMPLES)
    assert medians.ratio("json_us", "sluice", "nginx") == 2.0
    assert medians.ratio("json_us", "sluice", "nginx", "tls") == 2.5
    assert medians.ratio("json_us", "sluice", "envoy") is None
    assert medians.ratio("sse_us", "litellm", "nginx") is None
    assert Medians([sample("a", 1.0), sample("nginx", 0.0)]).ratio("json_us", "a", "nginx") is None


def test_a_peer_that_failed_in_one_round_has_no_figure() -> None:
    medians = Medians([*SAMPLES, sample("sluice", None, said="failed")])
    assert medians.value("json_us", "sluice") is None
    assert medians.said("json_us", "sluice") == "failed"
    assert medians.ratio("json_us", "sluice", "nginx") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.123, "0.12"), (2.0, "2.00"), (24.24, "24.2"), (164.6, "165"), (11_900.2, "11,900"), (-0.5, "-0.50")],
)
def test_figures_have_the_digits_they_are_worth(value: float, text: str) -> None:
    assert number(value) == text


def test_the_table_has_a_row_for_each_figure_and_transport_and_a_column_for_each_peer() -> None:
    assert heads(VERSIONS) == ["", "nginx 1.22.1", "litellm 1.2", "sluice 0.1.0"]
    assert grid(Medians(SAMPLES), list(VERSIONS), "nginx") == [
        ["CPU per JSON request, µs", "25.0", "12,000 (480×)", "50.0 (2.00×)"],
        ["CPU per JSON request, µs, TLS upstream", "40.0", "–", "100 (2.50×)"],
        ["CPU per SSE chunk, µs", "20.0", "–", "30.0 (1.50×)"],
        ["latency added at 1,000/s, 99 %, ms", "0.80", "cannot: 83/s", "1.20 (1.50×)"],
        ["memory with all streams open, two workers, MiB", "–", "–", "251"],
    ]


def test_the_table_does_without_the_baseline() -> None:
    own = [sample for sample in SAMPLES if sample.peer == "sluice"]
    assert grid(Medians(own), ["sluice"], "nginx")[0] == ["CPU per JSON request, µs", "50.0"]


def test_tables_for_a_terminal_and_for_markdown_have_the_same_cells() -> None:
    rows = [["a", "1"], ["long title", "1,000"]]
    assert aligned(["", "nginx"], rows).splitlines() == [
        "            nginx",
        "a               1",
        "long title  1,000",
    ]
    assert markdown(["", "nginx"], rows).splitlines() == [
        "|  | nginx |",
        "| --- | ---: |",
        "| a | 1 |",
        "| long title | 1,000 |",
    ]


def test_most_rounds_decide_who_can_do_a_rate() -> None:
    cannot = sample("sluice", None, "added_p99_ms", said="cannot: 892/s")
    once = Medians([*SAMPLES, sample("sluice", 1.4, "added_p99_ms"), cannot])
    assert once.value("added_p99_ms", "sluice") == pytest.approx(1.3)
    twice = [*SAMPLES, cannot, cannot]
    assert Medians(twice).value("added_p99_ms", "sluice") is None
    assert verdicts(twice)["latency added at 1,000/s, 99 %, × nginx"] == (math.inf, "missed")
    assert number(math.inf) == "inf"


def verdicts(samples: list[Sample]) -> dict[str, tuple[float | None, str]]:
    return {result.goal.title: (result.measured, result.verdict) for result in results(Medians(samples))}


def test_goals_are_held_missed_or_not_measured() -> None:
    found = verdicts(SAMPLES)
    assert found["CPU per JSON request, × nginx"] == (2.0, "held")
    assert found["CPU per JSON request, TLS upstream, × nginx"] == (2.5, "missed")
    assert found["CPU per JSON request, × Envoy"] == (None, "not measured")
    assert found["LiteLLM's CPU per JSON request, × ours"] == (240.0, "held")
    assert found["LiteLLM's CPU per SSE chunk, × ours"] == (None, "not measured")
    assert found["latency added at 1,000/s, 99 %, × nginx"] == (1.2 / 0.8, "held")
    assert found["MiB for 10,240 open streams"] == (251.0, "missed")
    titles = {result.goal.title for result in missed(results(Medians(SAMPLES)))}
    assert titles == {
        "CPU per JSON request, TLS upstream, × nginx",
        "CPU per SSE chunk, × nginx",
        "MiB for 10,240 open streams",
    }


def test_goals_of_several_figures_are_computed_from_all_of_them() -> None:
    found = verdicts(
        [
            *(sample("sluice", value, "second_worker") for value in (1.02, 1.15, 1.3)),
            replace(sample("sluice", 2.0, "crowd_silent_cpu"), details={"streams": 10_240}),
            replace(sample("sluice", 11.0, "crowd_silent_cpu", "tls"), details={"streams": 10_240}),
            sample("sluice", 0.7, "start_s"),
        ]
    )
    assert found["CPU per request, two workers, × one"] == (1.15, "missed")
    assert found["CPU of 10,240 silent streams, % of a core"] == (11.0, "missed")
    assert found["start to first answer, s"] == (0.7, "held")


@pytest.mark.parametrize(
    ("nginx_ms", "ours_ms", "found"),
    [
        (0.5, 0.6, (pytest.approx(1.2), "held")),
        (0.002, 0.03, (pytest.approx(3.0), "missed")),
        (-0.4, 0.015, (pytest.approx(1.5), "held")),
        (0.0, -0.1, (pytest.approx(-10.0), "held")),
        (0.5, None, (None, "not measured")),
    ],
)
def test_added_latency_that_cannot_be_told_from_nothing_can_be_compared(
    nginx_ms: float, ours_ms: float | None, found: tuple[float | None, str]
) -> None:
    measured = [sample("nginx", nginx_ms, "added_p99_ms")]
    if ours_ms is not None:
        measured.append(sample("sluice", ours_ms, "added_p99_ms"))
    assert verdicts(measured)["latency added at 1,000/s, 99 %, × nginx"] == found


def test_a_smaller_crowd_says_nothing_about_the_goal() -> None:
    few = [replace(SAMPLES[-1], details={"streams": 1024})]
    assert verdicts(few)["MiB for 10,240 open streams"] == (None, "not measured")


def test_a_lower_bound_is_held_from_above() -> None:
    goal = Goal("g", 100, lambda medians: None, is_lower_bound=True)
    assert goal.wanted == "≥ 100"
    assert [Result(goal, value).verdict for value in (99.9, 100.0, None)] == ["missed", "held", "not measured"]
    assert Result(goal, 480.0).cells == ("g", "≥ 100", "480", "held")
    assert len(GOAL_HEADS) == len(Result(goal, None).cells)


def test_every_goal_is_about_a_figure_that_is_measured() -> None:
    everything = [
        Sample(figure.key, peer, transport, 1, 1.0, details={"streams": 10_240})
        for figure in FIGURES
        for transport in ("plain", "tls")
        for peer in ("nginx", "envoy", "litellm", "sluice")
    ]
    assert len(results(Medians(everything))) == len(GOALS)
    assert all(result.measured == 1.0 for result in results(Medians(everything)))


def test_what_spoils_the_figures_is_said() -> None:
    several = replace(sample("nginx", 20.0, "sse_us"), details={"units_per_read": 3.0})
    found = warnings([*SAMPLES, several], load_before=2.0)
    assert any("busy" in warning for warning in found)
    assert any("nginx passed on several chunks" in warning for warning in found)
    assert any("rounds of nginx, json_us, plain, differ: 20.0 to 90.0" in warning for warning in found)
    assert not any("sluice passed" in warning for warning in found)
    assert not any("upstream alone" in warning for warning in found)


def test_a_machine_that_makes_everybody_wait_is_named() -> None:
    slow = replace(sample("nginx", 0.8, "added_p99_ms"), details={"straight_ms": 7.0})
    assert any("the upstream alone took up to 7.0 ms" in warning for warning in warnings([slow], load_before=0.0))


def test_the_document_is_json_with_every_sample() -> None:
    written = json.loads(json.dumps(document(SAMPLES, VERSIONS, Plan(), "nginx", ["a note"], ORIGIN)))
    assert (written["command"], written["date"]) == ("python -m bench --rounds 5", "2026-01-31")
    assert written["machine"]["cores"] == 2
    assert written["rows"][0]["ratio"]["sluice"] == pytest.approx(2.0)
    assert written["rows"][1]["transport"] == "tls"
    assert len(written["samples"]) == len(SAMPLES)
    assert written["samples"][-3]["said"] == "cannot: 83/s"
    assert written["plan"]["crowd"] == 10_240
    assert written["notes"] == ["a note"]
    assert {goal["verdict"] for goal in written["goals"]} == {"held", "missed", "not measured"}


def test_the_page_has_its_origin_both_tables_and_the_notes() -> None:
    origin, tables, goals, notes = page(SAMPLES, VERSIONS, "nginx", ["a note"], ORIGIN).split("\n\n")
    assert origin == f"`python -m bench --rounds 5`, 2026-01-31, 2 cores of {cpu_model()}."
    assert tables.startswith("|  | nginx 1.22.1 | litellm 1.2 | sluice 0.1.0 |\n")
    assert "| CPU per SSE chunk, × nginx | ≤ 1.4 | 1.50 | missed |" in goals
    assert notes == "- a note"


def test_a_round_in_which_both_ends_agree_stands() -> None:
    check(Tally(answers=100), GOOD, "answers")
    check(Tally(answers=2, events=400), GOOD | {"answers": 0, "streams": 2, "events": 400}, "streams")
    check(Tally(answers=3), GOOD | {"answers": 0, "uploads": 3}, "uploads")


@pytest.mark.parametrize(
    ("tally", "sent", "counter"),
    [
        (Tally(answers=99), GOOD, "answers"),
        (Tally(answers=0), GOOD | {"answers": 0}, "answers"),
        (Tally(answers=100), GOOD | {"refusals": 1}, "answers"),
        (Tally(answers=100), GOOD | {"events": 5}, "answers"),
        (Tally(answers=100), GOOD | {"uploads": 1}, "answers"),
        (Tally(answers=100), GOOD, "uploads"),
        (Tally(answers=2, events=399), GOOD | {"answers": 0, "streams": 2, "events": 400}, "streams"),
        (Tally(answers=100, failures=Counter({"status 502": 1})), GOOD, "answers"),
    ],
)
def test_a_round_that_is_not_whole_gives_no_figure(tally: Tally, sent: dict[str, int], counter: str) -> None:
    with pytest.raises(RuntimeError):
        check(tally, sent, counter)


def test_reached_limits_are_named() -> None:
    tally = Tally(answers=10_000, failures=Counter({"status 429": 3}))
    with pytest.raises(RuntimeError, match=re.escape("3 × status 429 (the limits count exactly")):
        check(tally, GOOD, "answers")
