"""The bench gets nginx itself where it can, and says what to do where it cannot."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable

import pytest

from bench.install import ensure

Machine = Callable[..., list[list[str]]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine with these programs and this user; the list answered fills with the commands run on it."""

    def make(*programs: str, user: int = 0, fails: bool = False) -> list[list[str]]:
        ran: list[list[str]] = []

        def run(argv: list[str], *, check: bool, stdin: int) -> None:
            ran.append(argv)
            assert check
            assert stdin == subprocess.DEVNULL
            if fails:
                raise subprocess.CalledProcessError(100, argv)

        def which(program: str, path: str | None = None) -> str | None:
            return f"/usr/bin/{program}" if program in programs else None

        monkeypatch.setattr(shutil, "which", which)
        monkeypatch.setattr("os.geteuid", lambda: user)
        monkeypatch.setattr(subprocess, "run", run)
        return ran

    return make


def test_nothing_is_installed_that_is_there(machine: Machine) -> None:
    ran = machine("nginx", "apt-get")
    ensure(["nginx"])
    assert ran == []


@pytest.mark.parametrize(("user", "start"), [(0, ["env"]), (1000, ["sudo", "-n", "env"])])
def test_only_what_is_missing_is_installed(machine: Machine, user: int, start: list[str]) -> None:
    ran = machine("haproxy", "apt-get", "sudo", user=user)
    ensure(["haproxy", "nginx"])
    assert [argv[: len(start)] for argv in ran] == [start, start]
    assert ran[0][-1] == "update"
    assert "install" in ran[1]
    assert ran[1][-1] == "nginx"
    assert "haproxy" not in ran[1]


@pytest.mark.parametrize("programs", [(), ("apt-get",)])
def test_without_apt_or_sudo_it_says_what_to_do(machine: Machine, programs: tuple[str, ...]) -> None:
    ran = machine(*programs, user=1000)
    with pytest.raises(SystemExit, match="needs nginx"):
        ensure(["nginx"])
    assert ran == []


def test_an_apt_that_fails_is_said(machine: Machine) -> None:
    machine("apt-get", fails=True)
    with pytest.raises(SystemExit, match="could not install it"):
        ensure(["nginx"])
