"""How many processors this process may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_OWN_GROUP = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def usable_cpus(own_group: Path = _OWN_GROUP, groups: Path = _GROUPS) -> int:
    """The processors it may run on, or those its control group pays for if they are fewer; at least 1.

    A quota is that of the group or of one around it, whichever is smallest, rounded up: 1.5 processors keep two
    workers busy (cgroup v2, "cpu.max").
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(min([cpus, *_quotas(own_group, groups)]), 1)


def _quotas(own_group: Path, groups: Path) -> Iterator[int]:
    """The quotas of the group and of those around it. In a container they may all be mounted as one."""
    try:
        lines = own_group.read_text().splitlines()
    except OSError:
        return
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return
    group = groups / own
    for place in (group, *group.parents):
        if not place.is_relative_to(groups):
            return
        try:
            quota, period = place.joinpath("cpu.max").read_text().split()
            if quota != "max":
                yield -(-int(quota) // int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
