"""What stands below the tables: who cannot do what, who does it otherwise, and who was asked less often."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench import first_byte, workers
from bench.peers import Peer


def of_peers(kinds: Iterable[type[Peer]]) -> list[str]:
    """What each lacks and what differs, in their order."""
    return [f"{kind.name}: {said}" for kind in kinds for said in (kind.lacks, kind.differs) if said]


def of_rates(kinds: Sequence[type[Peer]], figures: Iterable[str]) -> list[str]:
    """At which rates peers were asked that could not do that of the others; ``figures`` are those measured."""
    measured = set(figures)
    slow = [kind.name for kind in kinds if kind.is_slow]
    found = []
    if slow and "first_byte_p99_ms" in measured:
        found.append(
            f"first bytes are those of {first_byte.SLOW_RATE} streams a second with {_listed(slow)}, "
            f"of {first_byte.RATE} with the others"
        )
    slow = [kind.name for kind in kinds if kind.is_slow and kind.has_workers]
    if slow and "second_worker" in measured:
        found.append(
            f"one worker and two are compared at {workers.SLOW_RATE} requests a second with {_listed(slow)}, "
            f"at {workers.RATE:,} with the others"
        )
    return found


def of_memory(figures: Iterable[str]) -> list[str]:
    """How memory is counted, if it was measured."""
    if not any(figure.startswith(("rss_", "crowd_mib")) for figure in figures):
        return []
    return [
        "memory is what each process of a gateway has for itself, "
        "and once what they share, libraries and the files they map with them"
    ]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
