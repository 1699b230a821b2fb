"""Programs of other projects that tests and bench need.

    python -m bench.install NAME ...

installs Debian packages. The bench itself also takes wheels, into a virtual environment of their own, and packages
of npm; both stay below ``build/bench``, versions pinned by whoever asks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

BUILD = Path(__file__).resolve().parents[1] / "build" / "bench"

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
_PACKAGES = {"node": "nodejs"}
"""Debian packages that are not named like their command."""


class Unavailable(Exception):
    """Something is not to be had on this machine; the text says what, and what to do about it if anything can be."""


def program(name: str) -> str:
    """Where a program is; Debian keeps some where only root's PATH leads. Raises Unavailable."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Unavailable(f"This needs {_PACKAGES.get(name, name)}.")
    return found


def ensure(programs: Iterable[str]) -> None:
    """Install what is missing through apt. Raises Unavailable with what to do if that is impossible."""
    missing = [_PACKAGES.get(name, name) for name in programs if shutil.which(name, path=_PATH) is None]
    if not missing:
        return
    prefix = apt_prefix()
    wanted = " ".join(missing)
    if prefix is None:
        raise Unavailable(f"This needs {wanted}. Install it with the package manager of this machine.")
    print(f"installing {wanted} through apt", flush=True)
    # Run level 1: what is installed is to be there, not to be started as a service. sudo would drop our environment.
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-q"]
    _run([*apt, "update"], wanted, by="apt")
    _run([*apt, "install", "-y", "--no-install-recommends", *missing], wanted, by="apt")


def apt_prefix() -> list[str] | None:
    """What goes before ``apt-get``: nothing for root, else sudo; None if neither will do."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if shutil.which("sudo") else None


def wheel(requirement: str, build: Path = BUILD, *, constraints: Path | None = None) -> Path:
    """The virtual environment that holds this requirement, made and filled if it is not there yet.

    One environment serves all peers. ``constraints`` is a file for pip, with the versions of what else it needs.
    Raises Unavailable.
    """
    home = build / "venv"
    installed = _installed(home)
    if requirement in installed:
        return home
    print(f"installing {requirement} into {home}", flush=True)
    if not installed:
        try:
            venv.create(home, clear=True, with_pip=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"This needs {requirement}, and no virtual environment can be made: {error}") from error
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if constraints is not None:
        pip += ["--constraint", str(constraints)]
    _run([*pip, requirement], requirement, by="pip")
    _remember(home, [*installed, requirement])
    return home


def node_package(name: str, version: str, *, instead: Mapping[str, str], lock: Path, build: Path = BUILD) -> Path:
    """The folder whose ``node_modules`` holds this package of npm, installed if it is missing.

    ``instead`` names versions of packages it needs, by their name, where those that npm would choose will not do.
    ``lock`` is npm's lockfile with the version of everything. Raises Unavailable.
    """
    home = build / "npm"
    wanted = f"{name}@{version}"
    installed = [wanted, *(f"{other}@{chosen}" for other, chosen in instead.items())]
    if installed == _installed(home):
        return home
    ensure(["node", "npm"])
    print(f"installing {wanted} into {home}", flush=True)
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    manifest = {"private": True, "dependencies": {name: version}, "overrides": dict(instead)}
    (home / "package.json").write_text(json.dumps(manifest))
    shutil.copyfile(lock, home / "package-lock.json")
    # Scripts of a package have no business on this machine.
    npm = [
        program("npm"),
        "ci",
        "--prefix",
        str(home),
        "--ignore-scripts",
        "--no-audit",
        "--no-fund",
        "--silent",
    ]
    _run(npm, wanted, by="npm")
    _remember(home, installed)
    return home


def _installed(home: Path) -> list[str]:
    # pip and npm take seconds to find that nothing is to be done.
    stamp = home / "installed"
    return stamp.read_text().splitlines() if stamp.exists() else []


def _remember(home: Path, installed: Iterable[str]) -> None:
    (home / "installed").write_text("".join(f"{line}\n" for line in installed))


def _run(argv: Sequence[str], wanted: str, *, by: str) -> None:
    try:
        status = _status(argv)
    except OSError as error:
        raise Unavailable(f"This needs {wanted}, and {by} cannot be started: {error}") from error
    if status:
        raise Unavailable(f"This needs {wanted}, and {by} could not install it (see above).")


def _status(argv: Sequence[str]) -> int:
    """Run a program to its end; its status. Whoever interrupts this ends it, and what it has started."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0) as running:
        try:
            return running.wait()
        except BaseException:
            # What runs as root through sudo is not ours to end: it is waited for.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(running.pid, signal.SIGTERM)
            raise


if __name__ == "__main__":
    try:
        ensure(sys.argv[1:])
    except Unavailable as unavailable:
        raise SystemExit(str(unavailable)) from None
