"""``sluice chat`` against ``sluice mock``, both as processes; and the command line as a whole."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest
import requests

from proxy import __version__
from tests.support.process import environment, run


@pytest.fixture(scope="module")
def mock_url() -> Iterator[str]:
    """A ``sluice mock`` process."""
    command = [sys.executable, "-m", "proxy", "mock", "--port", "0", "--chunks", "3"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd="/")
    assert process.stdout is not None
    line = process.stdout.readline()
    yield line.split()[-1]
    process.terminate()
    process.communicate(timeout=10)
    assert process.returncode == 0


def test_a_dialogue_with_history(mock_url: str) -> None:
    talk = run("chat", "--url", mock_url, "--system", "be brief", stdin="one two three four\n\nagain\n/quit\nnever\n")
    assert talk.returncode == 0, talk.stderr
    assert len([line for line in talk.stdout.splitlines() if line]) == 2
    entries = requests.get(mock_url.replace("/v1", "/_mock/ledger"), timeout=5).json()["entries"]
    assert len(entries) == 2
    second = json.loads(base64.b64decode(entries[1]["body_base64"]))
    assert [message["role"] for message in second["messages"]] == ["system", "user", "assistant", "user"]
    assert second["stream"] is True
    assert entries[1]["authorization"] == "Bearer none"


def test_reset_forgets_and_failures_are_told(mock_url: str) -> None:
    talk = run(
        "chat", "--url", mock_url, "--model", "mock-401", stdin="/help\n/reset\nhello\n", OPENAI_API_KEY="sk-env"
    )
    assert talk.returncode == 1
    assert "(forgotten)" in talk.stdout
    assert "no whole answer" in talk.stdout
    assert "sk-env" not in talk.stdout + talk.stderr


def test_chat_without_a_gateway(mock_url: str) -> None:
    talk = run("chat", "--url", "http://127.0.0.1:1/v1", stdin="hello\n")
    assert talk.returncode == 1
    assert "no whole answer" in talk.stdout
    assert "Traceback" not in talk.stderr


def test_mock_options_are_checked_and_ports_are_honest(mock_url: str) -> None:
    bad = run("mock", "--status", "999")
    assert bad.returncode == 2
    assert "status" in bad.stderr
    port = mock_url.split(":")[-1].split("/")[0]
    taken = run("mock", "--port", port)
    assert taken.returncode == 69
    assert f"cannot listen on 127.0.0.1:{port}" in taken.stderr


def test_version_and_usage() -> None:
    assert run("--version").stdout.strip() == f"sluice {__version__}"
    nothing = run()
    assert nothing.returncode == 2
    assert "serve" in run("--help").stdout
