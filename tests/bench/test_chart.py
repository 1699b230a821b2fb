"""The chart for README: where its dots are, what stands beside them, and that it can be read on any page."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest

from bench.chart import chart
from bench.figures import Medians
from bench.section import Sample

PEERS = ["nginx", "litellm", "sluice"]


def sample(peer: str, value: float, figure: str = "json_us", transport: str = "plain") -> Sample:
    return Sample(figure, peer, transport, 1, value)


SAMPLES = [
    sample("nginx", 25.0),
    sample("sluice", 50.0),
    sample("litellm", 12_000.0),
    sample("nginx", 20.0, "sse_us"),
    sample("sluice", 30.0, "sse_us"),
    sample("nginx", 40.0, transport="tls"),
    sample("sluice", 100.0, transport="tls"),
]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_chart_has_a_dot_for_each_figure_at_its_logarithm_with_its_ratio() -> None:
    drawn = chart(Medians(SAMPLES), PEERS)
    root = ElementTree.fromstring(drawn)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    # The last two are the legend.
    dots = list(root.iter(f"{SVG}circle"))[:-2]
    assert len(dots) == 7
    assert {"nginx", "sluice", "litellm", "25.0", "50.0 · 2.00 × nginx", "12,000 · 480 × nginx"} <= set(texts)
    assert {"20", "50", "100", "200", "500", "5,000", "10,000"} <= set(texts)
    assert sum("ours" in dot.get("class", "") for dot in dots) == 3
    places = [float(dot.get("cx", "0")) for dot in dots[:5]]
    decade = (places[4] - places[0]) / math.log10(12_000 / 25)
    assert decade > 150
    assert [place - places[0] for place in places] == [
        pytest.approx(decade * math.log10(value / 25), abs=0.2) for value in (25, 40, 50, 100, 12_000)
    ]


def test_the_chart_has_a_ground_of_its_own_by_day_and_by_night() -> None:
    drawn = chart(Medians(SAMPLES), PEERS)
    root = ElementTree.fromstring(drawn)
    ground = next(iter(root.iter(f"{SVG}rect")))
    assert ground.get("class") == "ground"
    assert float(ground.get("height", "0")) == float(root.get("height", "0")) - 1
    by_day, _, by_night = drawn.partition("prefers-color-scheme: dark")
    assert ".ground { fill: #ffffff" in by_day
    assert ".ground { fill: #0d1117" in by_night


def test_a_chart_of_one_value_can_be_drawn() -> None:
    assert "25.0" in chart(Medians([sample("nginx", 25.0)]), ["nginx"])


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="section cpu"):
        chart(Medians([sample("nginx", 0.8, "added_p99_ms")]), PEERS)
