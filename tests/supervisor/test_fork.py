"""A fork's child: what it has of its parent, and how its end is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from proxy.supervisor.fork import ending
from tests.support.process import ROOT, environment

SCRIPT = """
import os, signal, socket, sys
from proxy.supervisor.fork import fork
signal.signal(signal.SIGTERM, lambda *_: None)
ours, theirs = socket.socketpair()
kept = os.open("/dev/null", os.O_RDONLY)
print("once", end="")
def body():
    state = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    handlers = [signal.getsignal(number).name for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    print(" child", {0, 1, 2, kept} <= set(state), len(state) == 5, handlers, blocked, end="")
    if sys.argv[1] == "raise":
        raise SystemExit("unexpected")
    return int(sys.argv[1])
_, status = os.waitpid(fork(body, {kept}), 0)
print(" parent", os.waitstatus_to_exitcode(status), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


@pytest.mark.parametrize(("argument", "status"), [("0", 0), ("69", 69), ("raise", 70)])
def test_a_child_has_only_what_it_is_given_and_never_comes_back(argument: str, status: int) -> None:
    command = [sys.executable, "-W", "ignore::ResourceWarning", "-c", SCRIPT, argument]
    ran = subprocess.run(command, env=environment(PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=20)
    wanted = f"once child True True ['SIG_DFL', 'SIG_IGN', 'SIG_IGN'] set() parent {status} set()\n"
    assert (ran.stdout, ran.returncode) == (wanted, 0), ran.stderr


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (69 << 8, "exit status 69"), (9, "SIGKILL"), (63, "signal 63")]
)
def test_an_end_is_told_in_words(status: int, words: str) -> None:
    assert ending(status) == words
