"""Every figure of the soak, by the soak's own code, at counts that fit between two changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop

from soak.figure import Figure
from soak.figures import FIGURES

SEED = 20_261_122


@pytest.mark.parametrize("kind", FIGURES.values(), ids=list(FIGURES))
def test_a_figure_is_met_at_small_counts(kind: type[Figure[Any]]) -> None:
    said: list[str] = []
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        rows = runner.run(kind(kind.plans["test"], SEED, said.append).run())
    assert rows
    missed = [f"{row.goal}: {row.measured} ({row.counts})" for row in rows if not row.ok]
    evidence = [line for row in rows if not row.ok for line in row.evidence]
    assert not missed, "\n".join([*missed, *evidence, *said])


def test_each_has_its_three_sizes() -> None:
    for kind in FIGURES.values():
        assert set(kind.plans) == {"full", "quick", "test"}
