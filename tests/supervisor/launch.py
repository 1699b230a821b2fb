"""A supervisor as a process of its own that has little patience: ``python -m tests.supervisor.launch ARGUMENT``.

ARGUMENT is JSON: ``config`` as a file would have it, and ``patience``. Its workers answer questions about limits.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import requests

from proxy.gateway.channel import Params
from proxy.gateway.worker import Worker
from proxy.settings import load, process_environ
from proxy.supervisor.process import Patience
from proxy.supervisor.supervisor import Supervisor
from tests.support.process import Sluice, children

TOKEN = "a-token-of-many-characters"
QUICK = {"beat_s": 0.1, "now_s": 1.0, "spare_s": 1.0}


class Launched(Sluice):
    """Such a process."""

    command = ("-m", "tests.supervisor.launch")

    def __init__(self, patience: Mapping[str, float] | None = None, **config: Any) -> None:
        mapping = {
            "listen": {"host": "127.0.0.1", "port": 0},
            "admin": {"host": "127.0.0.1", "port": 0, "token": TOKEN},
            "access_log": {"enabled": False},
            **config,
        }
        super().__init__(json.dumps({"config": mapping, "patience": {**QUICK, **(patience or {})}}))

    def ask(self, path: str, method: str = "GET", **headers: str) -> requests.Response:
        """What the admin plane answers an operator."""
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        return requests.request(method, url, headers={"Authorization": f"Bearer {TOKEN}", **headers}, timeout=10)

    def by_slot(self) -> dict[int, int]:
        """The process id of the worker that is ready in each slot."""
        workers = self.ask("/-/workers").json()["workers"]
        return {worker["slot"]: worker["pid"] for worker in workers if worker["state"] == "ready"}

    def figure(self, name: str) -> float:
        """The sum of a figure over all its labels."""
        lines = self.ask("/metrics").text.splitlines()
        values = [float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert values, f"there is no {name}"
        return sum(values)

    def wait_for_workers(self, count: int, within_s: float = 5) -> dict[int, int]:
        """Wait until so many are ready."""
        end = time.monotonic() + within_s
        while len(found := self.by_slot()) != count:
            assert time.monotonic() < end, f"{found} are ready, not {count}"
            time.sleep(0.02)
        return found


@contextmanager
def launched(patience: Mapping[str, float] | None = None, **config: Any) -> Iterator[Launched]:
    """A process for the length of a ``with`` block, of which nothing is left."""
    process = Launched(patience, **config)
    pids: list[int] = []
    try:
        yield process
    finally:
        with suppress(OSError):
            pids = children(process.process.pid)
        process.stop()
    assert not [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    """Whether a process is there, and more than its exit status."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def prepare(worker: Worker) -> None:
    """Answer as the stores of limits will; or, where asked to, not at all."""

    def show(params: Params) -> object:
        if params["subject"] == "block":
            time.sleep(30)
        if params["subject"] == "hold":
            assert worker._limits is not None
            with worker._limits.store.env.begin(write=True):
                os.kill(os.getpid(), signal.SIGSTOP)
        return {"subject": params["subject"], "pid": os.getpid()}

    async def reset(params: Params) -> object:
        if params["subject"] == "nobody":
            return {"error": "nobody is no subject"}
        if params["subject"] == "wrong":
            raise ValueError("a wrong subject")
        return {"reset": params["subject"]}

    worker.on_question("limits.show", show)
    worker.on_question("limits.reset", reset)


def main() -> int:
    """Run a supervisor."""
    given = json.loads(sys.argv[1])
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(message)s")
    settings = load(given["config"], {}).settings
    patience = Patience(**given["patience"])
    return Supervisor(settings, process_environ(), patience=patience, prepare=prepare).run()


if __name__ == "__main__":
    raise SystemExit(main())
