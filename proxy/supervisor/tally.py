"""What all workers have counted together, those that are gone included."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from proxy.gateway.figures import Figure

_Key = tuple[str, tuple[tuple[str, str], ...]]


class Tally:
    """Adds up counters, so that none falls when a worker ends; gauges are told apart by their worker's slot."""

    def __init__(self) -> None:
        self._ended: dict[_Key, Figure] = {}

    def carry(self, figures: Iterable[Figure]) -> None:
        """A worker has ended: its counters count on."""
        for figure in figures:
            if figure[1] == "counter":
                _add(self._ended, figure)

    def total(self, live: Iterable[tuple[int, Sequence[Figure]]]) -> list[Figure]:
        """All figures, of (slot, last figures) of each worker there is; two in one slot are added up."""
        found = dict(self._ended)
        for slot, figures in live:
            for name, kind, text, labels, value in figures:
                if kind == "gauge":
                    labels = {"worker": str(slot), **labels}
                _add(found, (name, kind, text, labels, value))
        return list(found.values())


def _add(totals: dict[_Key, Figure], figure: Figure) -> None:
    name, kind, text, labels, value = figure
    key = (name, tuple(sorted(labels.items())))
    before = totals.get(key)
    totals[key] = (name, kind, text, labels, value if before is None else before[4] + value)
