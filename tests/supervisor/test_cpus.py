"""How many workers ``auto`` is: processors it may run on, and those its control group pays for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.supervisor.cpus import usable_cpus

HERE = len(os.sched_getaffinity(0))


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    """A tree of control groups in which this process is in ``a/b``."""
    (tmp_path / "self").write_text("1:name=old:/x\n0::/a/b\n")
    (tmp_path / "fs" / "a" / "b").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("quotas", "cpus"),
    [
        ({}, HERE),
        ({"a/b": "max 100000"}, HERE),
        ({"a/b": "50000 100000"}, 1),
        ({"a/b": "100000 100000"}, 1),
        ({"a/b": "100001 100000"}, min(2, HERE)),
        ({"a/b": "99900000 100000"}, HERE),
        ({"a": "100000 100000", "a/b": "max 100000"}, 1),
        ({"a": "max 100000", "a/b": "10000 100000"}, 1),
        ({".": "1000 100000"}, 1),
        ({"a/b": "nonsense"}, HERE),
        ({"a/b": "1000 0"}, HERE),
    ],
)
def test_the_smallest_quota_around_counts(groups: Path, quotas: dict[str, str], cpus: int) -> None:
    for group, text in quotas.items():
        (groups / "fs" / group / "cpu.max").write_text(f"{text}\n")
    assert usable_cpus(groups / "self", groups / "fs") == cpus


def test_without_control_groups_the_processors_count(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none", tmp_path) == HERE
    (tmp_path / "old").write_text("4:cpu:/docker\n")
    assert usable_cpus(tmp_path / "old", tmp_path) == HERE


def test_processors_this_process_may_not_use_do_not_count() -> None:
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mine)})
    try:
        assert usable_cpus() == 1
    finally:
        os.sched_setaffinity(0, mine)
