"""Programs of other projects that tests and bench need, as Debian packages: ``python -m bench.install NAME ...``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def ensure(programs: Iterable[str]) -> None:
    """Install what is missing through apt. Raises SystemExit with what to do if that is impossible."""
    missing = [program for program in programs if shutil.which(program, path=_PATH) is None]
    if not missing:
        return
    prefix = apt_prefix()
    wanted = " ".join(missing)
    if prefix is None:
        raise SystemExit(f"This needs {wanted}. Install it with the package manager of this machine.")
    print(f"installing {wanted} through apt", flush=True)
    # Run level 1: what is installed is to be there, not to be started as a service. sudo would drop our environment.
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get", "-q"]
    try:
        subprocess.run([*apt, "update"], check=True, stdin=subprocess.DEVNULL)
        subprocess.run(
            [*apt, "install", "-y", "--no-install-recommends", *missing], check=True, stdin=subprocess.DEVNULL
        )
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"This needs {wanted}, and apt could not install it (see above).") from error


def apt_prefix() -> list[str] | None:
    """What goes before ``apt-get``: nothing for root, else sudo; None if neither will do."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    return ["sudo", "-n"] if shutil.which("sudo") else None


if __name__ == "__main__":
    ensure(sys.argv[1:])
