"""What a stage is: a class with only those hooks it needs."""

from __future__ import annotations

from collections.abc import Awaitable
from enum import StrEnum

from proxy.core.exchange import Exchange
from proxy.core.figure import Figure
from proxy.core.reply import Reply

Outcome = Reply | None | Awaitable[Reply | None]
"""None = go on. A reply = answer here and now. An awaitable = the same, later."""


class Mode(StrEnum):
    """How a stage takes part: fully, only watching, or not at all."""

    ENFORCE = "enforce"
    SHADOW = "shadow"
    OFF = "off"


class Stage:
    """One concern of the chain. Hooks a subclass does not override are never called.

    Hooks never block and never raise for a decision: a decision is returned. ``reads`` and ``writes`` name
    fields of `Exchange`; the chain refuses an order in which a field is read before it is written.
    """

    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    terminal = False
    """True for the stage that forwards: it must be the last one, and there must be one."""

    def __init__(self, name: str, mode: Mode = Mode.ENFORCE) -> None:
        self.name = name
        self.mode = mode
        self.is_enforcing = mode is Mode.ENFORCE

    def on_request_headers(self, exchange: Exchange) -> Outcome:
        """Runs when the request head is in, before any body byte is read."""

    def wants_body(self, exchange: Exchange) -> bool:
        """Whether `on_request_body` must see this exchange's body; the body is then held in memory."""
        return True

    def on_request_body(self, exchange: Exchange) -> Outcome:
        """Runs when the whole body is in ``exchange.body``, if `wants_body` said so."""

    def on_response_headers(self, exchange: Exchange) -> None:
        """Runs, last stage first, before the response head is sent; our own replies pass here too."""

    def on_response_chunk(self, exchange: Exchange, chunk: bytes) -> bytes:
        """Runs, last stage first, for each piece of a forwarded body; returns what is sent instead."""
        return chunk

    def on_complete(self, exchange: Exchange) -> None:
        """Runs exactly once, last stage first, for each stage that was passed, however the exchange ended."""

    def figures(self) -> list[Figure]:
        """What this stage counts, for the metrics."""
        return []

    def explain(self, exchange: Exchange) -> str:
        """One line on what this stage does with such an exchange and why, for ``sluice explain``."""
        return ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.mode}>"
