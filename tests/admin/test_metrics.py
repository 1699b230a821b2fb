"""What Prometheus's own parser makes of the figures."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.admin.metrics import exposition
from proxy.gateway.figures import Figure


def test_every_figure_arrives_whatever_its_labels() -> None:
    figures: list[Figure] = [
        ("sluice_a_total", "counter", "A.", {}, 3),
        ("sluice_b", "gauge", 'B, "quoted"\n.', {"worker": "0"}, 0.5),
        ("sluice_a_total", "counter", "A.", {"stage": 'l"\\\n', "kind": "x"}, 4),
    ]
    families = list(text_string_to_metric_families(exposition(figures).decode()))
    assert [(family.name, family.type) for family in families] == [("sluice_a", "counter"), ("sluice_b", "gauge")]
    samples = [(each.name, each.labels, each.value) for family in families for each in family.samples]
    assert samples == [
        ("sluice_a_total", {}, 3.0),
        ("sluice_a_total", {"stage": 'l"\\\n', "kind": "x"}, 4.0),
        ("sluice_b", {"worker": "0"}, 0.5),
    ]


def test_nothing_of_the_library_itself_is_shown() -> None:
    assert exposition([]) == b""
