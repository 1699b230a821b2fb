"""The chart for README: dots on a logarithmic scale, as SVG that can be read on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from bench.figures import Medians, number

_WIDTH = 760
_LEFT = 110
_RIGHT = 150
_LINE = 15
_GAP = 8
_RADIUS = 4.5
_PANEL_HEAD = 44
_PANEL_FOOT = 30
_MARGIN = 0.12
"""Decades to the left of the smallest value: where a logarithmic scale begins is anybody's choice, so no bars."""
_STEPS = (1, 2, 5)
"""Where each decade has a line; the first of them is a stronger one."""

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.ground { fill: #ffffff; stroke: #d0d7de }
.line { stroke: #c4ccd4; stroke-width: 1 }
.fine { stroke: #e9ecef }
.plain { fill: #6e7781 }
.tls { fill: #b3bac2 }
.ours.plain { fill: #0969da }
.ours.tls { fill: #80b3ee }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .ground { fill: #0d1117; stroke: #3d444d }
  .line { stroke: #3d444d }
  .fine { stroke: #21262d }
  .plain { fill: #9198a1 }
  .tls { fill: #59626c }
  .ours.plain { fill: #4493f8 }
  .ours.tls { fill: #2a5a96 }
}
"""


class Panel(NamedTuple):
    """One figure."""

    figure: str
    title: str


PANELS = (
    Panel("json_us", "CPU time per JSON request, µs"),
    Panel("sse_us", "CPU time per chunk of a stream, µs"),
)
_TRANSPORTS = {"plain": "plain upstream", "tls": "TLS upstream"}


def chart(medians: Medians, peers: Sequence[str], baseline: str = "nginx", ours: str = "sluice") -> str:
    """An SVG document, each value with what it is as a multiple of ``baseline``'s.

    Raises ValueError if none of it was measured.
    """
    panels = [panel for panel in PANELS if _values(medians, panel, peers)]
    if not panels:
        raise ValueError("the chart needs the section cpu")
    parts: list[str] = []
    top = 8.0
    for panel in panels:
        height, drawn = _panel(medians, panel, peers, baseline, ours, top)
        parts += drawn
        top += height
    for place, (transport, title) in enumerate(_TRANSPORTS.items()):
        x = _LEFT + place * 130
        parts.append(f'<circle class="{transport}" cx="{x + 6}" cy="{top + 6:g}" r="{_RADIUS:g}"/>')
        parts.append(f'<text class="small" x="{x + 18}" y="{top + 10}">{title}</text>')
    parts.append(f'<text class="small" x="{_WIDTH - 8}" y="{top + 10}" text-anchor="end">logarithmic scale</text>')
    bottom = top + 24
    ground = f'<rect class="ground" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{bottom - 1:g}" rx="6"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom:g}" '
        f'viewBox="0 0 {_WIDTH} {bottom:g}" role="img" aria-label="CPU time of gateways, side by side">\n'
        f"<style>{_STYLE}</style>\n{ground}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _values(medians: Medians, panel: Panel, peers: Sequence[str]) -> dict[tuple[str, str], float]:
    found = {}
    for peer in peers:
        for transport in _TRANSPORTS:
            value = medians.value(panel.figure, peer, transport)
            if value is not None and value > 0:
                found[peer, transport] = value
    return found


def _panel(
    medians: Medians, panel: Panel, peers: Sequence[str], baseline: str, ours: str, top: float
) -> tuple[float, list[str]]:
    values = _values(medians, panel, peers)
    low, high = math.log10(min(values.values())) - _MARGIN, math.log10(max(values.values()))

    def across(value: float) -> float:
        # A single value lies at the left end.
        return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts: list[str] = []
    y = top + _PANEL_HEAD - 14
    for peer in sorted({peer for peer, _ in values}, key=lambda name: values.get((name, "plain"), math.inf)):
        dots = list(_dots(values, peer, baseline, "ours " if peer == ours else "", across, y))
        height = len(dots) * _LINE
        parts.append(f'<text x="{_LEFT - 10}" y="{y + height / 2 + 4:g}" text-anchor="end">{escape(peer)}</text>')
        parts += dots
        y += height + _GAP
    title = f'<text class="title" x="8" y="{top + 16:g}">{escape(panel.title)}</text>'
    return y + _PANEL_FOOT - top, [title, *_scale(low, high, across, top + 26, y), *parts]


def _scale(low: float, high: float, across: Callable[[float], float], top: float, bottom: float) -> Iterator[str]:
    """Lines from top to bottom at 1, 2 and 5 of each decade between the logarithms, with their values below."""
    for exponent in range(math.floor(low), math.floor(high) + 1):
        for step in _STEPS:
            value = step * 10.0**exponent
            if not low <= math.log10(value) <= high:
                continue
            x = across(value)
            kind = "line" if step == 1 else "line fine"
            label = f"{value:,.0f}" if exponent >= 0 else f"{value:g}"
            yield f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{bottom:g}"/>'
            yield f'<text class="small" x="{x:.1f}" y="{bottom + 14:g}" text-anchor="middle">{label}</text>'


def _dots(
    values: dict[tuple[str, str], float],
    peer: str,
    baseline: str,
    kind: str,
    across: Callable[[float], float],
    y: float,
) -> Iterator[str]:
    """A line for each transport: the dot, the value, and how many times the baseline's that is."""
    for transport in _TRANSPORTS:
        value = values.get((peer, transport))
        if value is None:
            continue
        x, middle = across(value), y + _LINE / 2
        label, base = number(value), values.get((baseline, transport))
        if base is not None and peer != baseline:
            label += f" · {number(value / base)} × {baseline}"
        yield (
            f'<circle class="{kind}{transport}" cx="{x:.1f}" cy="{middle:g}" r="{_RADIUS:g}"/>'
            f'<text class="small" x="{x + 10:.1f}" y="{middle + 4:g}">{escape(label)}</text>'
        )
        y += _LINE
