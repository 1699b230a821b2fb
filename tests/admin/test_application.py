"""The admin plane over a real supervisor: who is let in, what is passed on, and what is kept from whom."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest
import requests
from pydantic import SecretStr

from proxy.admin.application import Gateway, is_own_host
from proxy.admin.token import find_token
from proxy.settings.model import Admin
from proxy.supervisor.admin import AdminPort
from tests.supervisor.launch import TOKEN, Launched, launched
from tests.support.process import Sluice


@pytest.fixture(scope="module")
def gateway() -> Iterator[Launched]:
    """A gateway with two workers."""
    with launched(workers=2) as made:
        made.wait_for_workers(2)
        yield made


def test_everybody_may_ask_for_health_and_metrics(gateway: Launched) -> None:
    url = f"http://127.0.0.1:{gateway.admin_port}"
    for path in ("/healthz", "/readyz", "/metrics"):
        answer = requests.get(url + path, headers={"Host": "monitoring.example"}, timeout=5)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "no-store")
    assert 'sluice_build_info{version="' in answer.text
    assert gateway.figure("sluice_workers_wanted") == gateway.figure("sluice_workers_ready") == 2


@pytest.mark.parametrize("path", ["/", "/-/", "/-/other", "/favicon.ico", "/healthz/"])
def test_other_paths_are_a_plain_404(path: str, gateway: Launched) -> None:
    answer = gateway.ask(path)
    assert (answer.status_code, answer.text, answer.headers["Cache-Control"]) == (404, "Not Found\n", "no-store")


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer x", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}"]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/-/workers"),
        ("POST", "/-/restart"),
        ("GET", "/-/limits?subject=a"),
        ("DELETE", "/-/limits?subject=a"),
    ],
)
def test_without_the_token_nobody_is_let_in(method: str, path: str, shown: str, gateway: Launched) -> None:
    before = gateway.by_slot()
    answer = gateway.ask(path, method, Authorization=shown)
    assert (answer.status_code, answer.text) == (401, "Unauthorized\n")
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="sluice"'
    assert answer.headers["Cache-Control"] == "no-store"
    assert gateway.by_slot() == before
    assert TOKEN not in "".join(gateway.err)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:5001", "", "127.0.0.1.evil.example", "a@127.0.0.1"])
def test_a_name_that_is_not_ours_is_refused_even_with_the_token(host: str, gateway: Launched) -> None:
    answer = gateway.ask("/-/workers", Host=host)
    assert answer.status_code in (400, 421)
    assert "slot" not in answer.text


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:5001", True),
        ("10.1.2.3", True),
        ("[::1]:5001", True),
        ("localhost:5001", True),
        ("LOCALHOST", True),
        ("admin.internal:5001", True),
        ("other.internal", False),
        ("::1", False),
        ("[evil]", False),
        ("127.0.0.1:port", False),
        ("", False),
    ],
)
def test_which_names_are_ours(host: str, is_own: bool) -> None:
    assert is_own_host(host, "admin.internal") is is_own


def test_the_workers_are_listed(gateway: Launched) -> None:
    workers = gateway.ask("/-/workers").json()["workers"]
    assert [worker["slot"] for worker in workers] == [0, 1]
    for worker in workers:
        assert set(worker) == {"slot", "pid", "state", "age_s", "restarts", "missed_beats"}
        assert (worker["state"], worker["restarts"]) == ("ready", 0)
        assert 0 < worker["age_s"] < 60
        assert worker["pid"] in gateway.workers


def test_questions_about_limits_are_passed_to_a_worker(gateway: Launched) -> None:
    shown = gateway.ask("/-/limits?subject=10.0.0.1%20x")
    assert shown.status_code == 200
    assert shown.json()["subject"] == "10.0.0.1 x"
    assert shown.json()["pid"] in gateway.workers
    assert gateway.ask("/-/limits?subject=a", "DELETE").json() == {"reset": "a"}
    for subject, words in (
        ("nobody", "nobody is no subject"),
        ("wrong", "a wrong subject"),
        ("", "name a subject: ?subject=..."),
    ):
        refused = gateway.ask(f"/-/limits?subject={subject}", "DELETE")
        assert (refused.status_code, refused.json()) == (400, {"error": words})
    assert gateway.ask("/-/limits", "PUT").status_code == 405


def test_a_worker_that_is_silent_is_not_asked_while_there_is_another_and_with_none_it_is_a_503() -> None:
    with launched({"beat_s": 0.2, "kill_after": 1000, "dump_after": 1000}, workers=2) as gateway:
        pids = gateway.wait_for_workers(2)
        try:
            os.kill(pids[0], signal.SIGSTOP)
            end = time.monotonic() + 5
            while not gateway.ask("/-/workers").json()["workers"][0]["missed_beats"]:
                assert time.monotonic() < end
                time.sleep(0.02)
            answers = [gateway.ask("/-/limits?subject=a").json() for _ in range(4)]
            assert answers == [{"subject": "a", "pid": pids[1]}] * 4
            os.kill(pids[1], signal.SIGSTOP)
            assert gateway.ask("/-/limits?subject=a").status_code == 503
        finally:
            for pid in pids.values():
                os.kill(pid, signal.SIGCONT)


def test_the_log_names_an_ipv6_address_in_brackets(caplog: pytest.LogCaptureFixture) -> None:
    class Nobody:
        is_ready = True

    async def main() -> None:
        admin = AdminPort(Admin(host="::1", port=0, token=SecretStr(TOKEN)), {})
        admin.open(cast(Gateway, Nobody()))
        admin.close()
        assert f"admin on http://[::1]:{admin.port}" in caplog.messages

    with caplog.at_level("INFO", "sluice.supervisor"):
        asyncio.run(main())


def test_a_gateway_that_drains_is_not_ready_and_restarts_nothing() -> None:
    with launched(workers=2, drain={"delay_s": 0.4}) as gateway:
        gateway.wait_for_workers(2)
        gateway.process.send_signal(signal.SIGTERM)
        gateway.wait_for("not ready any more")
        assert gateway.ask("/readyz").status_code == 503
        assert gateway.ask("/healthz").status_code == 200
        assert gateway.ask("/-/restart", "POST").status_code == 503
        with closing(socket.create_connection(("127.0.0.1", gateway.port), 5)) as client:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: g\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 503")
        assert gateway.process.wait(5) == 0


def test_a_token_of_its_own_is_left_where_only_the_user_finds_it(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    gateway = Sluice(**environ)
    try:
        port = gateway.admin_port
        token = find_token(port, environ)
        url = f"http://127.0.0.1:{port}/-/workers"
        assert requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=5).status_code == 200
        assert requests.get(url, timeout=5).status_code == 401
        assert gateway.stop() == 0
        assert token not in "".join(gateway.err)
        assert not list(tmp_path.rglob("*.token"))
    finally:
        gateway.stop()


def test_a_directory_that_is_not_ours_alone_keeps_it_from_starting(tmp_path: Path) -> None:
    (tmp_path / f"sluice-{os.geteuid()}").mkdir(mode=0o755)
    gateway = Sluice(XDG_RUNTIME_DIR=str(tmp_path))
    assert gateway.stop(0) == 69
    assert any("its mode must be 0700" in line for line in gateway.err)
