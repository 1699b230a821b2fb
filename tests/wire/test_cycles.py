"""The hot path leaves nothing for the garbage collector: whatever an exchange makes is freed with its last byte."""

from __future__ import annotations

import gc
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import proxy
from proxy.core.headers import Headers
from proxy.wire.endpoint import Endpoint
from proxy.wire.listener import Listener
from tests.support.raw import RawClient, request
from tests.support.upstream import FakeUpstream, Received, Wire, answer_ok

EXCHANGES = 50
ALL = {"stages": {"ip_allowlist": {"allow": ["any"]}}}
NONE = {"stages": {"ip_allowlist": {"deny": ["any"]}}}
CHUNKED = request(body=None, headers=("Authorization: Bearer k", "Transfer-Encoding: chunked"))
CHUNKED += b"2\r\n{}\r\n0\r\n\r\n"


async def stream(received: Received, wire: Wire) -> None:
    """A few events."""
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(3):
        await wire.send(b"9\r\ndata: x\n\n\r\n")
    await wire.send(b"0\r\n\r\n")


async def end_each(received: Received, wire: Wire) -> None:
    """Answer, and close: each request needs a connection of its own."""
    await wire.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
    wire.close()


async def early(received: Received, wire: Wire) -> None:
    """Break off."""
    wire.reset()


CASES: dict[str, tuple[dict[str, Any], Any, bytes, int]] = {
    "json": (ALL, answer_ok, request(), 200),
    "get": (ALL, answer_ok, request("/v1/models", method="GET", body=None), 200),
    "sse": (ALL, stream, request(), 200),
    "chunked upload": (ALL, answer_ok, CHUNKED, 200),
    "connection for each": (ALL, end_each, request(), 200),
    "upstream breaks off": (ALL, early, request(), 502),
    "denied": (NONE, answer_ok, request(), 403),
    "denied with a body on its way": (NONE, answer_ok, request(body=bytes(100_000)), 403),
    "not found": (ALL, answer_ok, request("/nowhere"), 404),
    "health": (ALL, answer_ok, request("/healthz", method="GET", body=None), 200),
}


@contextmanager
def saved_garbage() -> Iterator[list[object]]:
    """Everything only the cycle collector could free, made between here and `gc.collect`; gc is restored."""
    was_enabled, flags = gc.isenabled(), gc.get_debug()
    gc.collect()
    gc.disable()
    kept = list(gc.garbage)
    gc.garbage.clear()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        yield gc.garbage
    finally:
        gc.set_debug(flags)
        gc.garbage.clear()
        gc.garbage.extend(kept)
        if was_enabled:
            gc.enable()


def name_of_ours(thing: object) -> str:
    """What this object is to us, or "" if it is none of ours."""
    if isinstance(thing, types.MethodType | types.FunctionType):
        return f"{thing.__module__}.{thing.__qualname__}" if _is_ours(str(thing.__module__)) else ""
    if isinstance(thing, types.CoroutineType):
        return f"coroutine {thing.__qualname__}" if "/proxy/" in thing.cr_code.co_filename else ""
    if isinstance(thing, types.FrameType):
        return f"frame {thing.f_code.co_qualname}" if "/proxy/" in thing.f_code.co_filename else ""
    if isinstance(thing, BaseException):
        return type(thing).__qualname__ if _raised_by_us(thing) else ""
    return type(thing).__qualname__ if _is_ours(type(thing).__module__) else ""


def _is_ours(module: str) -> bool:
    return module.split(".")[0] in ("proxy", "httptools")


def _raised_by_us(error: BaseException) -> bool:
    step = error.__traceback__
    while step is not None:
        if "/proxy/" in step.tb_frame.f_code.co_filename:
            return True
        step = step.tb_next
    return _is_ours(type(error).__module__)


def test_the_measure_itself_finds_a_cycle() -> None:
    with saved_garbage() as garbage:
        found: list[Any] = [Headers() for _ in range(3)]
        for headers in found:
            headers.fields.append(headers)
        del found, headers
        gc.collect()
        assert Counter(map(name_of_ours, garbage))["Headers"] == 3


@pytest.mark.gen_test(timeout=20)
@pytest.mark.parametrize("case", CASES)
async def test_exchanges_leave_no_cycles(case: str, caplog: pytest.LogCaptureFixture) -> None:
    config, script, data, status = CASES[case]
    caplog.set_level("CRITICAL")
    upstream = FakeUpstream()
    await upstream.start()
    upstream.script = script
    if script is early:
        upstream.early = early
    stages = config["stages"] | {"upstream": {"base_url": upstream.base_url}}
    plane = proxy.mount({"stages": stages})
    listener = Listener(plane, ticker=plane.ticker, on_error=plane.render_refusal)
    await listener.listen(Endpoint("127.0.0.1"))
    client = await RawClient.connect(listener.port)
    for _ in range(5):
        assert (await client.ask(data)).status == status
    with saved_garbage() as garbage:
        for _ in range(EXCHANGES):
            assert (await client.ask(data)).status == status
        gc.collect()
        ours = Counter(filter(None, map(name_of_ours, garbage)))
    client.close()
    await listener.close()
    await plane.close()
    await upstream.stop()
    # One cycle at the end of a connection would do no harm; one for each exchange would.
    assert {name: count for name, count in ours.items() if count >= EXCHANGES // 2} == {}
