"""Errors of the gateway are looked at after each input, as the fuzzer does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz.target import ERRORS


@pytest.fixture(autouse=True)
def collected_errors() -> Iterator[None]:
    """Nothing of this may reach the other tests' logging."""
    with ERRORS.collected():
        yield
