"""A mock on a real socket for every test, and the real SDK in front of it."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from proxy.mock.running import running
from proxy.mock.server import MockOpenAI


@pytest.fixture
def mock() -> Iterator[MockOpenAI]:
    with running() as server:
        yield server


@pytest.fixture
def client(mock: MockOpenAI) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="sk-test", base_url=mock.base_url, max_retries=0, timeout=10) as sdk:
        yield sdk
