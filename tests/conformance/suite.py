"""Tornado's own tests, from the installed package, one at a time on a server and a loop of our choice.

Tornado offers the two hooks used here to whoever brings another server or loop: ``HTTPServer.configure`` and
``IOLoop.configure``.
"""

from __future__ import annotations

import importlib
import logging
import unittest
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import uvloop
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.platform.asyncio import AsyncIOLoop
from tornado.testing import ExpectLog

from tests.conformance.server import WireServer

MODULES = ("httpserver_test", "web_test", "routing_test", "wsgi_test")
"""The suites of Tornado's server and of what it serves. The first two are the contract; the others cost nothing."""


class UvloopIOLoop(AsyncIOLoop):
    """Tornado's loop on uvloop."""

    def initialize(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Make the uvloop, unless told which."""
        kwargs.setdefault("asyncio_loop", uvloop.new_event_loop())
        super().initialize(**kwargs)


LOOPS: dict[str, type[AsyncIOLoop]] = {"asyncio": AsyncIOLoop, "uvloop": UvloopIOLoop}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a test went."""

    trouble: str
    """The tracebacks; empty if it passed."""
    connections: int
    """How many our wire served meanwhile."""


def _cases() -> Iterator[tuple[str, type[unittest.TestCase]]]:
    for module_name in MODULES:
        module = importlib.import_module(f"tornado.test.{module_name}")
        for case in vars(module).values():
            # A base class that is not to be run itself says it belongs to another module.
            if isinstance(case, type) and issubclass(case, unittest.TestCase) and case.__module__ == module.__name__:
                for method in unittest.defaultTestLoader.getTestCaseNames(case):
                    yield f"{module_name}.{case.__name__}.{method}", case


def _is_left_out(name: str, case: type[unittest.TestCase]) -> bool:
    """Whether Tornado itself leaves a test out: made for another system, or given up."""
    method = getattr(case, name.rpartition(".")[2])
    return bool(getattr(case, "__unittest_skip__", False) or getattr(method, "__unittest_skip__", False))


_ALL = dict(_cases())
LEFT_OUT = tuple(name for name, case in _ALL.items() if _is_left_out(name, case))
TESTS = {name: case for name, case in _ALL.items() if name not in LEFT_OUT}
"""Every test by name: ``module.class.method``."""


def play(
    name: str, server: type[HTTPServer] = WireServer, loop: str = "asyncio", *, ignores_logs: bool = False
) -> Outcome:
    """Run one test. With ``ignores_logs`` it does not matter to the test what the server logs, and what not."""
    result = unittest.TestResult()
    served = WireServer.connections_served
    with ExitStack() as stack:
        stack.enter_context(_configured(server, LOOPS[loop]))
        # The tests fail at anything unexpected that is logged, and would at the access log.
        stack.enter_context(_level("tornado.access", logging.CRITICAL))
        if ignores_logs:
            stack.enter_context(_level("sluice", logging.CRITICAL))
            stack.enter_context(mock.patch.object(ExpectLog, "__exit__", _expect_nothing))
        unittest.TestSuite([TESTS[name](name.rpartition(".")[2])]).run(result)
    trouble = [text for _, text in result.errors + result.failures]
    trouble += [f"skipped: {reason}" for _, reason in result.skipped]
    return Outcome("\n".join(trouble), WireServer.connections_served - served)


_expect_what_is_told = ExpectLog.__exit__


def _expect_nothing(self: ExpectLog, *exception: Any) -> None:
    self.required = False
    _expect_what_is_told(self, *exception)


@contextmanager
def _configured(server: type[HTTPServer], loop: type[AsyncIOLoop]) -> Iterator[None]:
    HTTPServer.configure(server)
    IOLoop.configure(loop)
    try:
        yield
    finally:
        HTTPServer.configure(None)
        IOLoop.configure(None)


@contextmanager
def _level(logger_name: str, level: int) -> Iterator[None]:
    logger = logging.getLogger(logger_name)
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
