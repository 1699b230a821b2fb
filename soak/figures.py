"""The figures, in the order they are measured."""

from __future__ import annotations

from typing import Any

from soak.figure import Figure
from soak.g1_faults import Faults
from soak.g2_exact import Exact
from soak.g5_drain import Drain
from soak.g8_aborts import Aborts
from soak.g9_cuts import Cuts
from soak.g10_memory import Memory
from soak.g11_slow_clients import SlowClients
from soak.g12_outage import Outage
from soak.g13_limiter import Limiter
from soak.soak_mixed import Mixed

FIGURES: dict[str, type[Figure[Any]]] = {
    figure.name: figure
    for figure in (Faults, Exact, Drain, Aborts, Cuts, Memory, SlowClients, Outage, Limiter, Mixed)
}
