"""Exchanges and services for tests of stages and chain: no loop, no socket, no real clock."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from proxy.core.exchange import Exchange, Route
from proxy.core.headers import Headers
from proxy.core.stage import Mode, Stage
from proxy.limits.memory import MemoryStore
from proxy.limits.store import LimitStore
from proxy.stages import Services
from tests.support.clock import FakeClock

HOP_ID = b"0123456789abcdef"
T = TypeVar("T")
_HOOKS = {
    "headers": "on_request_headers",
    "body": "on_request_body",
    "response": "on_response_headers",
    "chunk": "on_response_chunk",
    "complete": "on_complete",
}


def headers_of(*lines: tuple[str, str] | tuple[bytes, bytes]) -> Headers:
    """Headers of these (name, value) lines, in order and in the spelling given."""
    headers = Headers()
    for name, value in lines:
        headers.add(_raw(name), _raw(value))
    return headers


def make_exchange(
    *lines: tuple[str, str] | tuple[bytes, bytes],
    method: str = "POST",
    target: bytes = b"/v1/chat/completions",
    client_ip: str = "192.0.2.1",
    peer_ip: str = "",
    route: Route = Route.API,
    body: bytes | None = None,
    api_key: str | None = None,
    credential: str | None = None,
    request_id: str = "req_1",
    started_s: float = 1000.0,
) -> Exchange:
    """An exchange whose request head is in: ``lines`` are its headers, ``api_key`` is the chat route's field.

    ``credential`` is the client's own key as the key stage leaves it; without one it has resolved nothing.
    """
    exchange = Exchange(
        method=method,
        target=target,
        headers=headers_of(*lines),
        peer_ip=peer_ip or client_ip,
        client_ip=client_ip,
        route=route,
        request_id=request_id,
        started_s=started_s,
    )
    if credential is not None:
        exchange.credential, exchange.credential_source = credential, "client"
    exchange.body = body
    exchange.body_credential = api_key
    return exchange


def make_services(clock: FakeClock | None = None, store: LimitStore | None = None) -> Services:
    """What stages are given; without ``store`` every limit counts in memory, on the clock given."""
    ticking = clock or FakeClock()
    return Services(clock=ticking, store=MemoryStore(ticking) if store is None else store, hop_id=HOP_ID)


def drive(coroutine: Coroutine[Any, Any, T], resumptions: int = 100) -> T:
    """Run a coroutine to its end by hand, resuming it at once each time it waits. Returns what it returns.

    Raises AssertionError if it waits more than ``resumptions`` times.
    """
    for _ in range(resumptions + 1):
        try:
            coroutine.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result
    coroutine.close()
    raise AssertionError(f"still waiting after {resumptions} resumptions")


def make_stage(
    name: str,
    trace: list[str],
    *,
    wants: bool = True,
    terminal: bool = False,
    reads: tuple[str, ...] = (),
    writes: tuple[str, ...] = (),
    mode: Mode = Mode.ENFORCE,
    **outcomes: Any,
) -> Stage:
    """A stage with just the hooks named in ``outcomes``: headers, body, response, chunk, complete.

    Each notes its call in ``trace``, then returns its outcome, or raises it if it is an exception. A chunk is
    returned with the stage's name behind it.
    """

    def hook_of(phase: str) -> Any:
        def hook(stage: Stage, exchange: Exchange, *chunk: bytes) -> Any:
            trace.append(f"{name} {phase}")
            if isinstance(outcomes[phase], Exception):
                raise outcomes[phase]
            return chunk[0] + name.encode() if chunk else outcomes[phase]

        return hook

    namespace: dict[str, Any] = {_HOOKS[phase]: hook_of(phase) for phase in outcomes}
    namespace["wants_body"] = lambda stage, exchange: wants
    stage: Stage = type(name, (Stage,), namespace)(name, mode)
    stage.terminal, stage.reads, stage.writes = terminal, reads, writes
    return stage


class Later:
    """An awaitable that waits once, then gives ``value`` or raises it if it is an exception."""

    def __init__(self, value: Any = None) -> None:
        self._value = value

    def __await__(self) -> Any:
        yield
        if isinstance(self._value, BaseException):
            raise self._value
        return self._value


def _raw(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")
