"""``sluice serve``: run the gateway."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from types import TracebackType

from proxy.admin.application import AdminServer
from proxy.cli.options import add_config_options, load_from
from proxy.gateway.worker import Worker, run_worker
from proxy.settings import Loaded
from proxy.settings.problems import show

log = logging.getLogger("sluice")

_MOST_CHARACTERS = 800
"""Of a line of the log: escaped they are 8 KB at most."""


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the sub-command."""
    parser = subparsers.add_parser("serve", help="run the gateway")
    add_config_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Serve until SIGTERM or SIGINT. 0 = drained, 69 = a port is not to be had, 78 = bad configuration."""
    loaded = load_from(args, environ)
    settings = loaded.settings
    _log_to_stderr(settings.log_level)
    announce(loaded)

    def start_admin(worker: Worker) -> None:
        if settings.admin.enabled:
            admin = AdminServer(settings.admin.host, settings.admin.port, is_ready=lambda: worker.plane.is_ready)
            worker.at_close(admin.stop)
            log.info("admin on http://%s:%d", settings.admin.host, admin.port)

    return run_worker(settings, start_admin)


def announce(loaded: Loaded) -> None:
    """Say at start-up what is in force and what an operator should know."""
    log.info("chain: %s", " ▸ ".join(loaded.settings.chain))
    for notice in loaded.notices:
        log.warning("%s", notice)


class OneLine(logging.Formatter):
    """One line for each record, whatever is in it: escaped, cut, keys masked; tracebacks follow, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line."""
        return show(super().formatMessage(record), _MOST_CHARACTERS)

    def formatException(
        self, ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
    ) -> str:
        """The traceback: what an exception says cannot pass for a record of its own."""
        lines = super().formatException(ei).splitlines()
        return "\n".join(f"  {show(line, _MOST_CHARACTERS)}" for line in lines)


def _log_to_stderr(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What Tornado says of a head it does not like quotes that head, credentials included.
    logging.getLogger("tornado.general").setLevel(logging.WARNING)
    # asyncio's debug lines show what travels through its transports.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
