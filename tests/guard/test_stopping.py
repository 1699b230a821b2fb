"""A guard that is told to stop says so in one line, and leaves neither files nor processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guard.stopping import Stopped, stoppable

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = """
from guard import __main__, session
__main__.ensure = lambda programs: None
endless = {unit: 10**9 for unit in session.TIMES}
session.count_instructions = lambda directory: session.count_functions(directory, endless)
raise SystemExit(__main__.main([]))
"""
"""The guard, with a measurement that needs no Valgrind and has no end."""


def wait_for(pattern: str, folder: Path) -> None:
    until = time.monotonic() + 20
    while not [path for path in folder.glob(pattern) if path.is_dir() or path.stat().st_size]:
        assert time.monotonic() < until, f"no {pattern}"
        time.sleep(0.01)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("seen", ["sluice-guard-*", "sluice-guard-*/access.log"], ids=["starting", "measuring"])
def test_it_leaves_nothing(tmp_path: Path, sign: signal.Signals, seen: str) -> None:
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    # As from a shell that minds its jobs: Ctrl-C goes to the whole group.
    with subprocess.Popen(
        [sys.executable, "-c", ENDLESS], cwd=ROOT, env=env, process_group=0, stderr=subprocess.PIPE, text=True
    ) as guard:
        try:
            wait_for(seen, tmp_path)
            os.killpg(guard.pid, sign)
            # The measured gateway has the same stderr: it is at its end when both processes are.
            _, said = guard.communicate(timeout=20)
        finally:
            guard.kill()
    assert said == f"guard: stopped by {sign.name}\n"
    assert guard.returncode == 128 + sign
    assert list(tmp_path.iterdir()) == []


def test_a_second_signal_does_not_interrupt_the_cleaning_up() -> None:
    cleaned = []

    def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned.append("all")

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM") as stopped, stoppable():
        work()
    assert cleaned == ["all"]
    assert stopped.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_was_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
