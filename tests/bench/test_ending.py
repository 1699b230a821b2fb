"""Told to end, the bench ends what it has started and says one line."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop

from bench.ending import ToldToEnd, heeded, postponed, until_told
from bench.process import Process

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_is_under_way(number: signal.Signals) -> None:
    def told_to_end() -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)

    before = signal.getsignal(number)
    with pytest.raises(ToldToEnd, match=f"told to end by {number.name}") as told, heeded():
        told_to_end()
    assert told.value.status == 128 + number
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_the_loop_does_with_its_cleaning_up(number: signal.Signals) -> None:
    cleaned = []

    async def work() -> None:
        try:
            asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), number)
            await asyncio.sleep(5)
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    with heeded():
        handler = signal.getsignal(number)
        with pytest.raises(ToldToEnd), heeded():
            uvloop.run(until_told(work()))
        assert signal.getsignal(number) is handler
    assert cleaned == [True]


def test_work_that_is_not_told_to_end_has_its_own_result_and_errors() -> None:
    async def work(error: type[BaseException] | None) -> int:
        if error is not None:
            raise error
        return 7

    with heeded():
        assert uvloop.run(until_told(work(None))) == 7
        with heeded(), pytest.raises(asyncio.CancelledError):
            uvloop.run(until_told(work(asyncio.CancelledError)))
        with heeded(), pytest.raises(ZeroDivisionError):
            uvloop.run(until_told(work(ZeroDivisionError)))


@pytest.mark.parametrize("number", SIGNALS)
def test_the_end_itself_is_not_interrupted(number: signal.Signals) -> None:
    with heeded():
        with postponed():
            os.kill(os.getpid(), number)
        with pytest.raises(ToldToEnd):
            os.kill(os.getpid(), number)


INSTALLING = """
import sys
from bench import __main__ as command, install
def available(names):
    install._status([sys.executable, "-S", "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"])
command._available = available
raise SystemExit(command.main([]))
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_told_to_end_while_something_is_installed_it_ends_that_and_says_one_line(number: signal.Signals) -> None:
    running = subprocess.Popen(
        [sys.executable, "-c", INSTALLING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout is not None
    pid = int(running.stdout.readline())
    running.send_signal(number)
    _, said = running.communicate(timeout=20)
    assert running.returncode == 128 + number
    assert said == f"bench: told to end by {number.name}\n"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_keys_of_the_terminal_do_not_reach_what_is_measured(tmp_path: Path) -> None:
    process = Process(
        ["sleep", "60"], os.sched_getaffinity(0), env={"PATH": os.environ["PATH"]}, log=tmp_path / "log"
    )
    try:
        (stat,) = process.family
        assert os.getpgid(stat.pid) == stat.pid != os.getpgid(0)
    finally:
        process.stop()
