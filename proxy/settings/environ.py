"""The one place that reads the process's environment; everywhere else it is passed in."""

from __future__ import annotations

import os


def process_environ() -> dict[str, str]:
    """A copy of the environment as it is now."""
    return dict(os.environ)
