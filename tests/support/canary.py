"""Canaries: secrets that nobody else would say. Every test of the gateway fails if one is heard where none belongs.

A pytest plugin. For each test in `WATCHED` the loggers of the gateway speak at DEBUG. What they say is searched, and
with it what processes print and the access log's line of every exchange that ends. Found is a canary itself, its
base64, its URL encoding, and any 12 characters of these.
"""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import traceback
from collections.abc import Callable, Iterator
from typing import IO, Any
from urllib.parse import quote

import pytest

from proxy.core.exchange import Exchange
from proxy.gateway.access_log import MAX_LINE_BYTES, line_of
from proxy.gateway.plane import DataPlane
from tests.support import process

SERVER_KEY = "sk-proj-qV7tZk2LxW9bRm4HsYc8NdPf3GjUa6Eo-Tw5_KiXvB1"
CLIENT_KEY = "sk-fJ4nQz8WmUe6TyCr2VbXk9LpHs7DgAo3_Ri5-ZtNwBq1Mx"
BODY_KEY = "sk-Gc5RvKd8YxTq2MwPb7NhZf4JsLe9UoAi3Xk_Wm6-ErCyVn1"
UNUSUAL_KEY = "Zb9!kQ7/xM2+vT5=wR8&nH4%pY6~sL3"
PROMPT = "xqzrbvwkpjfhgnmtldscyuoaie-kjqxwzvbnpfhgr"
ENVIRONMENT = "Hn3WbYq8KzVe5RtLx2MpGc7UdJf9SaTo4Xi6"

WATCHED = ("tests/e2e/", "tests/gateway/", "tests/cli/", "tests/settings/test_secrets.py")
SPEAKING = ("sluice", "tornado", "asyncio")
_PART = 12

_grams: dict[str, str] = {}


def watch(secret: str) -> str:
    """Listen for one more canary from now on; answers with it. No 12 of its characters may be anybody else's."""
    for form in _forms(secret):
        for start in range(len(form) - _PART + 1):
            _grams.setdefault(form[start : start + _PART], secret)
    return secret


def _forms(secret: str) -> Iterator[str]:
    raw = secret.encode("utf-8")
    yield secret
    yield quote(secret, safe="")
    yield "".join(f"%{byte:02X}" for byte in raw)
    yield "".join(f"%{byte:02x}" for byte in raw)
    yield json.dumps(secret)[1:-1]
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for before in range(3):
            # What stands before it shifts the bits; the characters at the ends hold others' bits as well.
            text = encode(b"\0" * before + raw).decode("ascii").rstrip("=")
            yield text[4 if before else 0 : -1]


for _secret in (SERVER_KEY, CLIENT_KEY, BODY_KEY, UNUSUAL_KEY, PROMPT, ENVIRONMENT):
    watch(_secret)


def heard(text: str) -> str | None:
    """The first part of a canary in a text, or None."""
    if len(text) < _PART or not _grams.keys() & {text[at : at + _PART] for at in range(len(text) - _PART + 1)}:
        return None
    at = next(at for at in range(len(text)) if text[at : at + _PART] in _grams)
    return text[at : at + _PART]


def assert_silent(text: str | bytes, where: str) -> None:
    """Fail if a canary, or a part of one, is in a text."""
    shown = text if isinstance(text, str) else text.decode("latin-1")
    found = heard(shown)
    if found is not None:
        at = shown.index(found)
        raise AssertionError(f"{where}: {found!r} of {_grams[found]!r} in {shown[max(at - 200, 0) : at + 200]!r}")


def assert_one_line(line: str, most_bytes: int = MAX_LINE_BYTES) -> None:
    """Fail unless a line is one: no control characters, no bidirectional ones, not too long."""
    assert len(line.encode("utf-8", "surrogatepass")) <= most_bytes, f"{len(line)} characters: {line[:200]!r}..."
    assert line.replace("▸", ">").isprintable(), repr(line[:500])


class Witness(logging.Handler):
    """Hears everything said while it listens: ``said`` is (where, text), ``messages`` is what a log would show."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.said: list[tuple[str, str]] = []
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep message, arguments and traceback."""
        self.messages.append(record.getMessage())
        parts = [self.messages[-1], repr(record.args)]
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            parts.append("".join(traceback.format_exception(error)))
        while error is not None:
            parts.append(repr(error))
            error = error.__cause__ or error.__context__
        self.said.append((f"the logger {record.name}", "\n".join(parts)))

    def exchange(self, exchange: Exchange, plane: DataPlane) -> None:
        """Keep the line the access log has, or would have, for an exchange that ends."""
        line = line_of(exchange, plane.chain, plane.clock())
        self.said.append(("the access log", line))
        assert line.endswith("\n")
        assert line.isascii()
        assert_one_line(line[:-1], MAX_LINE_BYTES - 1)
        assert json.loads(line)["request_id"] == exchange.request_id

    def search(self) -> None:
        """Fail if a canary was heard."""
        said, self.said = self.said, []
        for where, text in said:
            assert_silent(text, where)


_printed: list[str] = []
_patch = pytest.MonkeyPatch()


def pytest_configure() -> None:
    """Listen to every process the tests start, and give each of them a canary in its environment."""
    read, run, environment = process.Sluice._read, process.run, process.environment

    def listening_read(stream: IO[str], lines: list[str]) -> None:
        def listened() -> Iterator[str]:
            for line in stream:
                _printed.append(line)
                yield line

        read(listened(), lines)  # type: ignore[arg-type]  # it does nothing but iterate

    def listening_run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        completed = run(*args, **options)
        _printed.extend((completed.stdout, completed.stderr))
        return completed

    def with_canary(**names: str) -> dict[str, str]:
        return environment(**{"A_SECRET_OF_THE_MACHINE": ENVIRONMENT, **names})

    _patch.setattr(process.Sluice, "_read", staticmethod(listening_read))
    _patch.setattr(process, "run", listening_run)
    _patch.setattr(process, "environment", with_canary)


def pytest_unconfigure() -> None:
    """Stop listening to processes."""
    _patch.undo()


@pytest.fixture(autouse=True)
def witness(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Witness | None]:
    """What was said during this test, searched at its end."""
    if not request.node.nodeid.startswith(WATCHED):
        yield None
        return
    listening = Witness()
    close_exchange: Callable[[DataPlane, Exchange], None] = DataPlane.close_exchange

    def close(plane: DataPlane, exchange: Exchange) -> None:
        listening.exchange(exchange, plane)
        close_exchange(plane, exchange)

    monkeypatch.setattr(DataPlane, "close_exchange", close)
    loggers = [logging.getLogger(name) for name in SPEAKING]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    logging.getLogger().addHandler(listening)
    yield listening
    logging.getLogger().removeHandler(listening)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    printed = [("a process", text) for text in _printed]
    del _printed[: len(printed)]
    listening.said.extend(printed)
    listening.search()
