"""SIGHUP restarts the workers of a gateway, unless it comes because its terminal is gone."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys

import pytest

from tests.support.process import environment


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_closed_terminal_ends_what_was_started_in_it(is_closed: bool) -> None:
    master, slave = pty.openpty()
    names = {"SLUICE__ADMIN__ENABLED": "false", "SLUICE__LISTEN__HOST": "127.0.0.1", "PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", "serve"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env=environment(**names),
        cwd="/",
    )
    os.close(slave)
    try:
        said = b""
        while b"listening on" not in said:
            said += os.read(master, 65536)
        if is_closed:
            os.close(master)
        process.send_signal(signal.SIGHUP)
        if is_closed:
            assert process.wait(10) == 0
        else:
            while b"the workers are restarted" not in said:
                said += os.read(master, 65536)
            assert process.poll() is None
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(10)
        if not is_closed:
            os.close(master)
