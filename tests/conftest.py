"""What holds for every test."""

from __future__ import annotations

import asyncio

pytest_plugins = ["tests.support.canary"]


def pytest_configure() -> None:
    """Let nobody be given an event loop unasked.

    The first `asyncio.get_event_loop` of a process makes a loop if none was ever set. pytest-tornado's fixtures would
    cause that once, and the loop nobody closes would fail whichever test runs when it is collected.
    """
    asyncio.set_event_loop(None)
