"""Counters add up over workers and their successors; gauges are told apart."""

from __future__ import annotations

from proxy.gateway.figures import Figure
from proxy.supervisor.tally import Tally


def counter(value: float, **labels: str) -> Figure:
    return ("sluice_x_total", "counter", "X.", labels, value)


def gauge(value: float) -> Figure:
    return ("sluice_y", "gauge", "Y.", {}, value)


def test_counters_of_workers_that_are_gone_go_on() -> None:
    tally = Tally()
    assert tally.total([(0, [counter(3), gauge(1)]), (1, [counter(4), gauge(2)])]) == [
        counter(7),
        ("sluice_y", "gauge", "Y.", {"worker": "0"}, 1),
        ("sluice_y", "gauge", "Y.", {"worker": "1"}, 2),
    ]
    tally.carry([counter(4), gauge(2)])
    assert tally.total([(0, [counter(3)]), (1, [counter(0)])]) == [counter(7)]
    assert tally.total([]) == [counter(4)]


def test_labels_tell_figures_apart_whatever_their_order() -> None:
    tally = Tally()
    tally.carry([counter(1, stage="a", kind="b"), counter(5, stage="c")])
    assert tally.total([(0, [counter(2, kind="b", stage="a")])]) == [
        counter(3, stage="a", kind="b"),
        counter(5, stage="c"),
    ]


def test_two_workers_of_one_slot_are_one() -> None:
    assert Tally().total([(0, [gauge(1)]), (0, [gauge(5)])]) == [("sluice_y", "gauge", "Y.", {"worker": "0"}, 6)]
