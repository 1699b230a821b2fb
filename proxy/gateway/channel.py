"""The channel between the supervisor and a worker: lines of JSON on a pair of unix sockets.

Three kinds of lines go either way::

    {"say": "beat", ...}                               heard or not, nobody answers
    {"ask": "limits.show", "id": 7, "params": {...}}    answered by one of
    {"answer": 7, "result": ...}   {"answer": 7, "error": "text"}

Both ends are bounded and neither ever waits for the other: what does not fit is not said, and whoever asked is told.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from inspect import isawaitable
from typing import Any

log = logging.getLogger("sluice.channel")

MAX_LINE_BYTES = 1_048_576
"""The longest line. A longer one ends the channel: the other end is not one of ours."""
MAX_UNSENT_BYTES = 2 * MAX_LINE_BYTES
"""What may wait for an end that does not read."""
MAX_SPARE_BYTES = 65_536
"""With more than this waiting, what may be left unsaid is."""
MAX_OPEN_QUESTIONS = 256
READ_BYTES = 65_536

Params = Mapping[str, Any]
Handler = Callable[[Params], Awaitable[object] | object]
"""Answers one question with what is JSON, at once or later; or raises ValueError with words for the asker."""
Listener = Callable[[Params], None]
"""Hears what is said; the parameters are the whole line."""


class ChannelClosed(ConnectionError):
    """The other end is gone, or does not read."""


class Refused(ValueError):
    """The other end has no answer to a question; its words say why."""


class Channel:
    """One end. ``on_close`` is called once, when the other end is gone; ``sock`` becomes this channel's own.

    ``handlers`` answer the other end's questions, by name; more may be put there at any time.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_close: Callable[[], None],
        handlers: Mapping[str, Handler] | None = None,
    ) -> None:
        self._loop = loop
        self._socket = sock
        self._on_close = on_close
        self._listeners: dict[str, Listener] = {}
        self._handlers: Mapping[str, Handler] = {} if handlers is None else handlers
        self._asked: dict[int, asyncio.Future[object]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._next_id = 1
        self._received = bytearray()
        self._unsent = bytearray()
        self.is_closed = False
        sock.setblocking(False)
        loop.add_reader(sock, self._on_readable)

    # what is done with it

    def on_say(self, what: str, listener: Listener) -> None:
        """Have these words heard."""
        self._listeners[what] = listener

    def say(self, what: str, *, may_drop: bool = False, **params: object) -> bool:
        """Say something; False if it was not, because the other end is gone or does not read.

        ``may_drop``: better left out than kept waiting, since something newer comes.
        """
        if may_drop and len(self._unsent) > MAX_SPARE_BYTES:
            return False
        return self._send({"say": what, **params})

    async def ask(self, name: str, params: Params, timeout_s: float) -> object:
        """Ask, and wait for the answer.

        Raises TimeoutError, `Refused` if the other end has no answer, `ChannelClosed` if it cannot be asked.
        """
        number = self._next_id
        self._next_id += 1
        answer: asyncio.Future[object] = self._loop.create_future()
        self._asked[number] = answer
        try:
            if len(self._asked) > MAX_OPEN_QUESTIONS:
                raise ChannelClosed("too many questions are waiting for an answer")
            if not self._send({"ask": name, "id": number, "params": dict(params)}):
                raise ChannelClosed("the other end is gone or does not read")
            async with asyncio.timeout(timeout_s):
                return await answer
        finally:
            del self._asked[number]

    def read_rest(self) -> None:
        """Heed what an end that is gone has said before."""
        while not self.is_closed and self._on_readable():
            pass

    def close(self) -> None:
        """Let go of it; ``on_close`` is not called. What can be sent at once still is."""
        if self.is_closed:
            return
        self._flush()
        self._end()

    # the wire

    def _send(self, message: Mapping[str, object]) -> bool:
        if self.is_closed:
            return False
        line = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
        if len(line) > MAX_LINE_BYTES or len(self._unsent) + len(line) > MAX_UNSENT_BYTES:
            return False
        was_waiting = bool(self._unsent)
        self._unsent += line
        if not was_waiting:
            self._flush()
            if self._unsent and not self.is_closed:
                self._loop.add_writer(self._socket, self._on_writable)
        return not self.is_closed

    def _on_writable(self) -> None:
        self._flush()
        if not self._unsent and not self.is_closed:
            self._loop.remove_writer(self._socket)

    def _flush(self) -> None:
        try:
            while self._unsent:
                sent = self._socket.send(self._unsent)
                del self._unsent[:sent]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            # Reading notices it, too, and there may still be something to read.
            self._unsent.clear()

    def _on_readable(self) -> bool:
        """Read; False if there is nothing more to read now."""
        try:
            data = self._socket.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            data = b""
        if not data:
            self._lost()
            return False
        self._received += data
        *lines, rest = self._received.split(b"\n")
        self._received = rest
        try:
            if len(rest) > MAX_LINE_BYTES:
                raise ValueError("a line is too long")
            for line in lines:
                self._heed(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            log.exception("what came on the channel cannot be read")
            self._lost()
        return True

    def _heed(self, message: dict[str, Any]) -> None:
        if "say" in message:
            listener = self._listeners.get(message["say"])
            if listener is not None:
                listener(message)
        elif "ask" in message:
            self._answer(message["ask"], int(message["id"]), message["params"])
        else:
            answer = self._asked.get(message["answer"])
            if answer is None or answer.done():
                return  # it came too late
            if "error" in message:
                answer.set_exception(Refused(message["error"]))
            else:
                answer.set_result(message["result"])

    def _answer(self, name: str, number: int, params: Params) -> None:
        handler = self._handlers.get(name)
        if handler is None:
            self._send({"answer": number, "error": f"nobody here answers {name}"})
        elif len(self._answering) >= MAX_OPEN_QUESTIONS:
            self._send({"answer": number, "error": "too many questions are being answered"})
        else:
            task = self._loop.create_task(self._answer_with(handler, number, params))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer_with(self, handler: Handler, number: int, params: Params) -> None:
        try:
            result = handler(params)
            message = {"answer": number, "result": await result if isawaitable(result) else result}
            if self._send(message):
                return
            error = "the answer is too long, or could not be sent"
        except ValueError as refused:
            error = str(refused)
        except Exception:
            log.exception("a question was not answered")
            error = "the question could not be answered; the log says why"
        self._send({"answer": number, "error": error})

    def _lost(self) -> None:
        if not self.is_closed:
            self._end()
            self._on_close()

    def _end(self) -> None:
        self.is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        for task in self._answering:
            task.cancel()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ChannelClosed("the other end is gone"))

    def __repr__(self) -> str:
        return f"<Channel {'closed' if self.is_closed else len(self._unsent)}>"


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a channel: the supervisor's and the worker's. Raises OSError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        with suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 262_144)
    return ours, theirs
