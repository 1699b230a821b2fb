"""The chart for README: bars on a logarithmic scale, as SVG that can be read on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from bench.figures import Medians, number

_WIDTH = 760
_LEFT = 110
_RIGHT = 110
_BAR = 12
_GAP = 10
_PANEL_HEAD = 44
_PANEL_FOOT = 30
_SHORTEST = 0.3

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f }
.title { font-weight: 600 }
.small { font-size: 11px; fill: #57606a }
.line { stroke: #d0d7de; stroke-width: 1 }
.plain { fill: #8c959f }
.tls { fill: #c8cdd3 }
.ours.plain { fill: #0969da }
.ours.tls { fill: #80b3ee }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 }
  .small { fill: #9198a1 }
  .line { stroke: #3d444d }
  .plain { fill: #848d97 }
  .tls { fill: #4c545d }
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


def chart(medians: Medians, peers: Sequence[str], ours: str = "sluice") -> str:
    """An SVG document. Raises ValueError if none of it was measured."""
    panels = [panel for panel in PANELS if _values(medians, panel, peers)]
    if not panels:
        raise ValueError("the chart needs the section cpu")
    parts: list[str] = []
    top = 8.0
    for panel in panels:
        height, drawn = _panel(medians, panel, peers, ours, top)
        parts += drawn
        top += height
    for place, (transport, title) in enumerate(_TRANSPORTS.items()):
        x = _LEFT + place * 130
        parts.append(f'<rect class="{transport}" x="{x}" y="{top}" width="12" height="12" rx="2"/>')
        parts.append(f'<text class="small" x="{x + 18}" y="{top + 10}">{title}</text>')
    parts.append(f'<text class="small" x="{_WIDTH - 8}" y="{top + 10}" text-anchor="end">logarithmic scale</text>')
    bottom = top + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{bottom:g}" '
        f'viewBox="0 0 {_WIDTH} {bottom:g}" role="img" aria-label="CPU time of gateways, side by side">\n'
        f"<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _values(medians: Medians, panel: Panel, peers: Sequence[str]) -> dict[tuple[str, str], float]:
    found = {}
    for peer in peers:
        for transport in _TRANSPORTS:
            value = medians.value(panel.figure, peer, transport)
            if value is not None and value > 0:
                found[peer, transport] = value
    return found


def _panel(medians: Medians, panel: Panel, peers: Sequence[str], ours: str, top: float) -> tuple[float, list[str]]:
    values = _values(medians, panel, peers)
    # The shortest bar is to be seen, too.
    low, high = math.log10(min(values.values())) - _SHORTEST, math.log10(max(values.values()))

    def across(value: float) -> float:
        return _LEFT + (math.log10(value) - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    parts = [f'<text class="title" x="8" y="{top + 16:g}">{escape(panel.title)}</text>']
    y = top + _PANEL_HEAD - 14
    for peer in sorted({peer for peer, _ in values}, key=lambda name: values.get((name, "plain"), math.inf)):
        bars = list(_bars(values, peer, peer == ours, across, y))
        height = len(bars) * _BAR
        parts.append(f'<text x="{_LEFT - 10}" y="{y + height / 2 + 4:g}" text-anchor="end">{escape(peer)}</text>')
        parts += bars
        y += height + _GAP
    for exponent in range(math.ceil(low), math.floor(high) + 1):
        x = across(10.0**exponent)
        label = f"{10.0**exponent:,.0f}" if exponent >= 0 else f"{10.0**exponent:g}"
        parts.insert(1, f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{top + 26:g}" y2="{y:g}"/>')
        parts.append(f'<text class="small" x="{x:.1f}" y="{y + 14:g}" text-anchor="middle">{label}</text>')
    return y + _PANEL_FOOT - top, parts


def _bars(
    values: dict[tuple[str, str], float], peer: str, is_ours: bool, across: Callable[[float], float], y: float
) -> Iterator[str]:
    for transport in _TRANSPORTS:
        value = values.get((peer, transport))
        if value is None:
            continue
        kind = f"ours {transport}" if is_ours else transport
        end = across(value)
        width = max(1.0, end - _LEFT)
        yield (
            f'<rect class="{kind}" x="{_LEFT}" y="{y:g}" width="{width:.1f}" height="{_BAR - 1}" rx="2"/>'
            f'<text class="small" x="{end + 6:.1f}" y="{y + _BAR - 2:g}">{number(value)}</text>'
        )
        y += _BAR
