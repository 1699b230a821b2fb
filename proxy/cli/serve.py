"""``sluice serve``: run the gateway."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping
from types import TracebackType

from proxy.cli.options import add_config_options, load_from
from proxy.settings import ConfigError, Loaded
from proxy.settings.problems import Problem, show

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
    can_fork = sys.platform == "linux"
    check_workers(loaded, can_fork=can_fork)
    _log_to_stderr(loaded.settings.log_level)
    announce(loaded)
    if can_fork:
        from proxy.supervisor.supervisor import Supervisor

        return Supervisor(loaded.settings, environ).run()
    from proxy.supervisor.alone import serve_alone

    # "auto" is one here, and one counts in memory.
    return serve_alone(loaded.settings.model_copy(update={"workers": 1}), environ)


def check_workers(loaded: Loaded, *, can_fork: bool) -> None:
    """Raises ConfigError for several workers on a system that has no way to give them one port."""
    if not can_fork and loaded.settings.workers not in (1, "auto"):
        origin = loaded.origins["workers"]
        raise ConfigError([Problem(origin, "workers", "several workers need Linux", "leave it out, or set it to 1")])


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
