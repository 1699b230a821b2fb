"""What a worker counts: plain data, so that it can travel to whoever shows it.

A counter begins at 0 with its worker and never falls; a gauge is what is so at this moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.core.figure import Figure

if TYPE_CHECKING:
    from proxy.gateway.worker import Worker

__all__ = ["Figure", "figures"]


def figures(worker: Worker) -> list[Figure]:
    """Everything a worker counts now: its own figures, then those of its stages and of its limit store.

    A stage's name goes with each of its own as the label ``stage``. What all workers count together, in a store they
    share, is told by one of them.
    """
    found: list[Figure] = [
        (
            "sluice_exchanges_in_flight",
            "gauge",
            "Exchanges under way.",
            {},
            worker.plane.in_flight,
        ),
        (
            "sluice_client_connections",
            "gauge",
            "Connections from clients, idle ones included.",
            {},
            len(worker.listener),
        ),
        (
            "sluice_requests_total",
            "counter",
            "Requests that were given an id: exchanges begun, and what was refused before it became one.",
            {},
            worker.plane.begun,
        ),
    ]
    for stage in worker.plane.chain.stages:
        found.extend(
            (name, kind, text, {"stage": stage.name, **labels}, value)
            for name, kind, text, labels, value in stage.figures()
        )
    return [*found, *worker.store_figures()]
