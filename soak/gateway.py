"""The gateway under measurement, in a process of its own: ``python -m soak.gateway FD CONFIG``.

FD is a socket on which questions come and answers go, one line of JSON each; CONFIG is the configuration as JSON.
The worker is the product's, unchanged.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence

from proxy.gateway.worker import Worker, calm_collector, new_loop
from proxy.settings import load


def state(worker: Worker, *, count_objects: bool) -> dict[str, int]:
    """What could leak. This task and the one of `Worker.run` are among the tasks, always."""
    if count_objects:
        gc.collect()
    return {
        "port": worker.listener.port,
        "fds": len(os.listdir("/proc/self/fd")),
        "tasks": len(asyncio.all_tasks()),
        "objects": len(gc.get_objects()) if count_objects else 0,
        "in_flight": worker.plane.in_flight,
        "connections": len(worker.listener),
    }


async def answer(worker: Worker, questions: socket.socket) -> None:
    """Answer until the other end is closed."""
    reader, writer = await asyncio.open_connection(sock=questions)
    while line := await reader.readline():
        count_objects = bool(json.loads(line)["count_objects"])
        writer.write(json.dumps(state(worker, count_objects=count_objects)).encode() + b"\n")
    writer.close()


async def serve(questions: socket.socket, config: dict[str, object]) -> None:
    """Run a worker until SIGTERM."""
    loop = asyncio.get_running_loop()
    worker = Worker(load(config, {}).settings)
    loop.add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.start()
    calm_collector()
    answering = loop.create_task(answer(worker, questions))
    await worker.run()
    answering.cancel()


def main(argv: Sequence[str]) -> int:
    """Serve. 0 = drained."""
    questions = socket.socket(fileno=int(argv[0]))
    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve(questions, json.loads(argv[1])))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
