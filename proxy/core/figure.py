"""A figure: one number that somebody counts, on its way to the metrics."""

from __future__ import annotations

from typing import Literal

Figure = tuple[str, Literal["counter", "gauge"], str, dict[str, str], float]
"""(name, kind, help, labels, value), plain data. The names are Prometheus's: ``sluice_...``.

A counter begins at 0 with its worker and never falls, and its name ends in ``_total``; a gauge is what is so at this
moment.
"""
