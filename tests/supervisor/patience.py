"""A supervisor that has little patience, as ``python -m tests.supervisor.patience ARGUMENT`` runs it.

ARGUMENT is JSON: ``config`` as a file would have it, ``patience``, and other ``constants`` by their place. Its
workers answer questions about limits.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from importlib import import_module

from proxy.gateway.channel import Params
from proxy.gateway.worker import Worker
from proxy.settings import load, process_environ
from proxy.supervisor.process import Patience
from proxy.supervisor.supervisor import Supervisor


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
    for place, value in given["constants"].items():
        module, _, name = place.rpartition(".")
        assert hasattr(import_module(module), name)
        setattr(import_module(module), name, value)
    settings = load(given["config"], {}).settings
    patience = Patience(**given["patience"])
    return Supervisor(settings, process_environ(), patience=patience, prepare=prepare).run()


if __name__ == "__main__":
    raise SystemExit(main())
