"""``sluice serve`` as an operator runs it: a process, uvloop, the environment, signals."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from proxy.cli import main, serve
from proxy.cli.serve import check_workers
from proxy.mock.running import running
from proxy.mock.server import MockOpenAI
from proxy.settings import ConfigError, load
from proxy.settings.model import Settings
from proxy.settings.stores import store_of
from tests.support.process import Sluice, run, serving

ASK: Any = {"model": "gpt-4.1-mini", "messages": [{"role": "user", "content": "one two three"}]}
KEY = {"Authorization": "Bearer sk-client"}


@pytest.fixture(scope="module")
def mock() -> Iterator[MockOpenAI]:
    """A mock OpenAI in a thread."""
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(mock: MockOpenAI) -> Iterator[Sluice]:
    """A gateway in front of it."""
    with serving(OPENAI_BASE_URL=mock.base_url, LANG="ru_RU", API_KEY="sk-server", ROUTE="api") as made:
        yield made


def test_both_contracts_on_one_port(gateway: Sluice) -> None:
    url = f"http://127.0.0.1:{gateway.port}"
    chat = requests.post(f"{url}/v1/chat/completions", json=ASK, headers=KEY, timeout=5)
    assert chat.json()["choices"][0]["message"]["content"] == "You said: one two three"
    simple = requests.post(f"{url}/api", data=json.dumps({"user_content": "привет"}), timeout=5)
    assert simple.json()["code"] == 200
    assert simple.json()["current_response"] == "You said: привет"
    assert "привет".encode() in simple.content
    refused = requests.post(f"{url}/api", data="{}", timeout=5)
    assert refused.status_code == 400
    assert "обязательно" in refused.json()["data"]["response"]


def test_it_is_lean_and_never_imports_openai(gateway: Sluice) -> None:
    requests.get(f"http://127.0.0.1:{gateway.port}/healthz", timeout=5)
    (worker,) = gateway.workers
    for pid in (worker, gateway.process.pid):
        resident = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert resident is not None
        assert int(resident[1]) <= 60 * 1024
    maps = Path(f"/proc/{worker}/maps").read_text()
    assert "uvloop" in maps
    # A package of the openai SDK's own that has a compiled part: it is mapped as soon as openai is imported.
    assert "jiter" not in maps


def test_health_on_both_ports_and_the_healthcheck_command(gateway: Sluice) -> None:
    assert requests.get(f"http://127.0.0.1:{gateway.port}/readyz", timeout=5).text == "ok\n"
    admin = gateway.wait_for(r"admin on http://127\.0\.0\.1:(\d+)")[1]
    assert requests.get(f"http://127.0.0.1:{admin}/healthz", timeout=5).text == "ok\n"
    assert requests.get(f"http://127.0.0.1:{admin}/readyz", timeout=5).text == "ok\n"
    healthy = run("healthcheck", "--url", f"http://127.0.0.1:{gateway.port}")
    assert (healthy.returncode, healthy.stdout) == (0, "ready\n")
    by_config = run("healthcheck", PORT=str(gateway.port))
    assert by_config.returncode == 0


def test_healthcheck_without_a_gateway_is_1() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = run("healthcheck", "--url", f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert gone.returncode == 1
    assert "no answer" in gone.stderr


def test_the_access_log_has_a_line_per_exchange_and_no_secret(mock: MockOpenAI, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(OPENAI_BASE_URL=mock.base_url, SLUICE__ACCESS_LOG__PATH=str(log), MINUTE_LIMIT="2") as gateway:
        url = f"http://127.0.0.1:{gateway.port}"
        secret = {"Authorization": "Bearer sk-canary-1234567890"}
        path = "/v1/chat/completions?api_key=sk-canary-1234567890"
        requests.post(url + path, json=ASK, headers={**secret, "X-Forwarded-For": '1.2.3.4"\\, \t::1'}, timeout=5)
        requests.post(f"{url}/api", json={"user_content": "sk-prompt", "api_key": "sk-canary-1234567890"}, timeout=5)
        requests.get(f"{url}/v1/models/%0a%22x", headers=secret, timeout=5)
        requests.get(f"{url}/healthz", timeout=5)
        requests.get(f"{url}/nope", timeout=5)
        assert gateway.stop() == 0
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        everything = log.read_text() + "".join(gateway.err) + "".join(gateway.out)
    assert "canary" not in everything
    assert "sk-prompt" not in everything
    assert [line["seq"] for line in lines] == [1, 2, 3, 4]
    assert [line["status"] for line in lines] == [200, 200, 429, 404]
    first, second, third, fourth = lines
    assert set(first) == {
        *("v", "time_ns", "seq", "request_id", "peer_ip", "client_ip", "forwarded", "credential", "key", "route"),
        *("method", "path", "model", "stages", "status", "upstream_sent", "bytes_in", "bytes_out"),
        *("first_byte_ms", "total_ms", "stream", "aborted"),
    }
    assert first["path"] == "/v1/chat/completions"
    assert first["forwarded"] == '1.2.3.4"\\, \t::1'
    assert first["peer_ip"] == first["client_ip"] == "127.0.0.1"
    assert first["stages"] == {"ip_allowlist": "pass", "limit": "pass", "key": "pass", "upstream": "pass"}
    assert re.fullmatch(r"[0-9a-f]{12}", first["credential"])
    assert first["credential"] == second["credential"]
    assert (first["key"], first["upstream_sent"], first["aborted"]) == ("client", "yes", None)
    assert 0 < first["first_byte_ms"] <= first["total_ms"]
    assert (second["route"], second["model"]) == ("chat", "text-davinci-003")
    assert third["stages"] == {"ip_allowlist": "pass", "limit": "deny rate_limit_exceeded"}
    assert third["upstream_sent"] == "no"
    assert fourth["stages"] == {}


def test_a_bad_configuration_is_78_with_every_problem_and_nothing_started(tmp_path: Path) -> None:
    file = tmp_path / "sluice.yaml"
    file.write_text("chain: [limit, upstreem]\nstages:\n  limit: {huor: 5, minute: '3'}\nlisten: {port: 99999}\n")
    bad = run("serve", "--config", str(file), HOUR_LIMIT="many")
    assert bad.returncode == 78
    for words in ("upstreem", '"hour"', "minute", "99999", "HOUR_LIMIT", f"{file}:1:", f"{file}:3:", f"{file}:4:"):
        assert words in bad.stderr
    assert "listening" not in bad.stderr
    assert "Traceback" not in bad.stderr


def test_a_port_already_taken_is_69() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused = run("serve", "--host", "127.0.0.1", "--port", port, SLUICE__ADMIN__PORT="0")
        admin = run("serve", "--host", "127.0.0.1", "--port", "0", SLUICE__ADMIN__PORT=port)
    assert refused.returncode == 69
    assert f"cannot use 127.0.0.1 port {port} (listen): " in refused.stderr
    assert admin.returncode == 69
    assert f"127.0.0.1:{port} (admin.port; " in admin.stderr


def test_an_access_log_that_cannot_be_opened_is_69(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "such" / "folder.log"
    refused = run("serve", "--port", "0", SLUICE__ACCESS_LOG__PATH=str(missing))
    assert refused.returncode == 69
    assert str(missing) in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_streams_end(mock: MockOpenAI, number: int) -> None:
    slow = {"x-mock": "chunk-delay-ms=100; chunks=10", **KEY}
    with serving(OPENAI_BASE_URL=mock.base_url) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"
        answer = requests.post(url, json={**ASK, "stream": True}, headers=slow, stream=True, timeout=5)
        lines = answer.iter_lines()
        next(lines)
        stopping = threading.Thread(target=gateway.stop, args=(number,))
        stopping.start()
        gateway.wait_for("draining 1 connection")
        with pytest.raises(requests.ConnectionError):
            requests.get(f"http://127.0.0.1:{gateway.port}/healthz", timeout=2)
        assert [line for line in lines if line][-1] == b"data: [DONE]"
        stopping.join(timeout=5)
        assert gateway.process.returncode == 0


def test_a_second_signal_ends_at_once(mock: MockOpenAI) -> None:
    endless = {"x-mock": "silence", **KEY}
    with serving(OPENAI_BASE_URL=mock.base_url) as gateway:
        url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"

        def ask() -> None:
            with pytest.raises(requests.ConnectionError):
                requests.post(url, json=ASK, headers=endless, timeout=10)

        asking = threading.Thread(target=ask)
        before = len(mock.ledger.entries)
        asking.start()
        while len(mock.ledger.entries) == before:
            time.sleep(0.01)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_for("draining")
        started = time.monotonic()
        gateway.stop()
        assert time.monotonic() - started < 3
        asking.join(timeout=5)


def test_the_start_says_what_is_in_force(mock: MockOpenAI) -> None:
    with serving("--host", "0.0.0.0", OPENAI_BASE_URL=mock.base_url, API_KEY="sk-server", HOUR_LIMIT="5") as gateway:
        gateway.wait_for("listening on http://0.0.0.0:")
        said = "".join(gateway.err)
    assert "chain: ip_allowlist ▸ limit ▸ key ▸ upstream" in said
    assert "everybody" in said
    assert "sk-server" not in said


@pytest.mark.parametrize(("workers", "is_refused"), [(1, False), ("auto", False), (2, True)])
def test_where_there_is_no_fork_several_workers_are_an_error(workers: int | str, is_refused: bool) -> None:
    loaded = load({"workers": workers}, {})
    check_workers(loaded, can_fork=True)
    if not is_refused:
        check_workers(loaded, can_fork=False)
        return
    with pytest.raises(ConfigError, match="several workers need Linux"):
        check_workers(loaded, can_fork=False)


def test_where_there_is_no_fork_auto_is_one_worker_that_counts_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[Settings] = []

    def serve_alone(settings: Settings, environ: Mapping[str, str]) -> int:
        served.append(settings)
        return 0

    monkeypatch.setattr(serve, "sys", SimpleNamespace(platform="darwin", stderr=sys.stderr))
    monkeypatch.setattr(serve, "_log_to_stderr", lambda level: None)
    monkeypatch.setattr("proxy.supervisor.alone.serve_alone", serve_alone)
    assert main(["serve"], {"SLUICE__WORKERS": "auto", "HOUR_LIMIT": "5"}) == 0
    (settings,) = served
    assert (settings.workers, store_of(settings).kind) == (1, "memory")
