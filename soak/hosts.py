"""Several machines on one: network namespaces joined by a bridge where the system allows it, else addresses of
loopback; each with a wall clock of its own where libfaketime is installed.

Nothing of it is left behind: what is started here ends with this process, and so do the namespaces, however it ends.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_FAKETIME = tuple(
    Path(folder) / "faketime" / "libfaketime.so.1"
    for folder in (
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
    )
)
_PREFIX = 24
_TRIES = 20


class NoNamespaces(RuntimeError):
    """The system does not let this process make network namespaces."""


def faketime() -> Path | None:
    """The library that tells a process another time, if it is installed."""
    return next((path for path in _FAKETIME if path.exists()), None)


def started(argv: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """A process that does not outlive this one."""
    return subprocess.Popen(tied(argv), stdin=subprocess.DEVNULL, **how)


def tied(argv: Sequence[str]) -> list[str]:
    """The command, killed by the kernel as soon as the thread that started it has ended (prctl(2), PDEATHSIG)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--", *argv] if setpriv else list(argv)


@dataclass(frozen=True)
class Host:
    """One machine. ``namespace`` is "" without one; ``skew_s`` is by how much its wall clock is wrong."""

    address: str
    namespace: str = ""
    skew_s: int = 0

    def command(self, argv: Sequence[str]) -> list[str]:
        """What runs a command there."""
        return ["ip", "netns", "exec", self.namespace, *argv] if self.namespace else list(argv)

    @property
    def environ(self) -> dict[str, str]:
        """What its processes need in their environment. Raises RuntimeError if its clock cannot be wrong."""
        if not self.skew_s:
            return {}
        library = faketime()
        if library is None:
            raise RuntimeError("libfaketime is not installed")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME": f"{self.skew_s:+d}s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


class Network:
    """Hosts that reach each other and this process, for the length of a ``with`` block.

    There is one for each of ``skews_s``, which its wall clock is wrong by. ``hub`` is the address of this process,
    for what the hosts share. ``are_namespaces`` = the hosts have network stacks of their own, which they get only
    if they are to be ``apart``.
    """

    def __init__(self, skews_s: Sequence[int], *, apart: bool = True) -> None:
        self._apart = apart
        has_faketime = faketime() is not None
        self._skews_s = [skew if has_faketime else 0 for skew in skews_s]
        self._undo = ExitStack()
        self.hub = "127.0.0.1"
        self.hosts: tuple[Host, ...] = ()
        self.are_namespaces = False

    def __enter__(self) -> Network:
        try:
            self._build()
        except NoNamespaces:
            self._undo.close()
            # All of 127.0.0.0/8 is this machine.
            net = f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
            self.hosts = tuple(Host(f"{net}.{number}", "", skew) for number, skew in enumerate(self._skews_s, 11))
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    def _build(self) -> None:
        if not self._apart or shutil.which("ip") is None or os.geteuid() != 0:
            raise NoNamespaces("it takes root and the command ip")
        unique = f"sl{os.getpid() % 100_000}{random.randrange(100):02}"
        names = [f"{unique}h{number}" for number in range(len(self._skews_s))]
        net = _free_net()
        self._undo.callback(_clean_up, _guard(unique, names), unique, names)
        _ip("link", "add", unique, "type", "bridge")
        _ip("addr", "add", f"{net}.1/{_PREFIX}", "dev", unique)
        _ip("link", "set", unique, "up")
        hosts = []
        for number, (name, skew_s) in enumerate(zip(names, self._skews_s, strict=True)):
            address = f"{net}.{11 + number}"
            _ip("netns", "add", name)
            _ip("link", "add", f"{name}o", "type", "veth", "peer", "name", f"{name}i")
            _ip("link", "set", f"{name}o", "master", unique, "up")
            _ip("link", "set", f"{name}i", "netns", name)
            _ip("-n", name, "addr", "add", f"{address}/{_PREFIX}", "dev", f"{name}i")
            _ip("-n", name, "link", "set", f"{name}i", "up")
            _ip("-n", name, "link", "set", "lo", "up")
            hosts.append(Host(address, name, skew_s))
        self.hub, self.hosts, self.are_namespaces = f"{net}.1", tuple(hosts), True

    @property
    def description(self) -> str:
        """What the hosts are, in a few words."""
        kind = "network namespaces" if self.are_namespaces else "addresses of loopback (no namespaces here)"
        skews = [host.skew_s for host in self.hosts]
        clocks = f"clocks {', '.join(f'{skew:+d}' for skew in skews)} s" if any(skews) else "clocks alike"
        return f"{len(self.hosts)} {kind}, {clocks}"


def _free_net() -> str:
    """The first three bytes of a network that nobody routes to, of those set aside for measurements (RFC 2544)."""
    for _ in range(_TRIES):
        net = f"198.18.{random.randrange(256)}"
        if net not in _ip("route", "show", "table", "all"):
            return net
    raise NoNamespaces("all networks for measurements are taken")


def _guard(bridge: str, namespaces: Sequence[str]) -> subprocess.Popen[bytes]:
    """A process that removes them when its standard input ends: also if this process is killed."""
    remove = [f"ip netns del {name}; ip link del {name}o" for name in namespaces]
    script = "; ".join(["trap '' INT TERM HUP", "read -r end", *remove, f"ip link del {bridge}"])
    return subprocess.Popen(
        ["sh", "-c", script], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _clean_up(guard: subprocess.Popen[bytes], bridge: str, namespaces: Sequence[str]) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    guard.wait(30)
    for pattern in ("faketime_shm_*", "sem.faketime_sem_*"):
        for left in Path("/dev/shm").glob(pattern):
            # A process that is killed leaves them, and the next one of its number would stumble over them.
            number = left.name.rpartition("_")[2]
            if number.isdigit() and not Path("/proc", number).exists():
                left.unlink(missing_ok=True)


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNamespaces(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout
