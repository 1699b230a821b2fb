"""The mock's side of the wire: requests come in whole, answers go out as the behaviour says."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import struct
import uuid
import weakref
from collections.abc import Callable, Iterator

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
    format_timestamp,
)
from tornado.iostream import StreamClosedError

from proxy.mock.api import Answer, Api, Request, is_echo
from proxy.mock.behaviour import HEADER, Behaviour, BehaviourError, resolve
from proxy.mock.errors import ApiError
from proxy.mock.ledger import KEPT_BODY_BYTES, Body, Entry, Ledger

log = logging.getLogger("sluice.mock")

MAX_BODY_BYTES = 1 << 30
"""The largest request body the mock takes."""


class Plane(HTTPServerConnectionDelegate):
    """All exchanges of one mock: what they share, and the tasks that answer them."""

    def __init__(self, api: Api, ledger: Ledger, behaviour: Behaviour, clock: Callable[[], float]) -> None:
        self.api = api
        self.ledger = ledger
        self.behaviour = behaviour
        self.clock = clock
        self.closing = False
        self.tasks: set[asyncio.Task[None]] = set()
        self._connections = 0
        self._numbers: weakref.WeakKeyDictionary[object, int] = weakref.WeakKeyDictionary()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> Exchange:
        """Tornado's call for every request; ``server_conn`` is the same for all requests of a connection."""
        if server_conn not in self._numbers:
            self._connections += 1
            self._numbers[server_conn] = self._connections
        assert isinstance(request_conn, HTTP1Connection)
        return Exchange(self, request_conn, self._numbers[server_conn])

    async def close(self) -> None:
        """Wait for the answering tasks; the connections are closed already."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class Exchange(HTTPMessageDelegate):
    """One request and its answer."""

    def __init__(self, plane: Plane, connection: HTTP1Connection, number: int) -> None:
        self._plane = plane
        self._connection = connection
        self._number = number
        self._id = uuid.uuid4().hex
        self._task: asyncio.Task[None] | None = None

    def headers_received(self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders) -> None:
        """The head is in."""
        assert isinstance(start_line, RequestStartLine)
        self._method = start_line.method
        self._target = start_line.path
        self._headers = headers
        # The echo takes a body of any size: it needs no more of it than the ledger keeps.
        echo = is_echo(self._target.partition("?")[0])
        self._body = Body(KEPT_BODY_BYTES if echo else MAX_BODY_BYTES)

    def data_received(self, chunk: bytes) -> None:
        """A piece of the body is in."""
        self._body.add(chunk)

    def finish(self) -> None:
        """The request is whole: record it, then answer."""
        request = Request(self._method, self._target, self._headers, self._body, self._id)
        entry = self._plane.ledger.add(
            connection=self._number,
            method=self._method,
            target=self._target,
            headers=tuple(self._headers.get_all()),
            body=self._body,
            model=request.model,
            request_id=f"req_{self._id}",
        )
        self._entry = entry
        if self._connection.stream.closed():
            # The end of the connection came together with the end of the request; nobody will call us back.
            entry.aborted = True
            return
        self._connection.set_close_callback(self._on_close)
        self._task = asyncio.get_running_loop().create_task(self._run(request))
        self._plane.tasks.add(self._task)
        self._task.add_done_callback(self._plane.tasks.discard)

    def on_connection_close(self) -> None:
        """The connection ended before the request was whole: it never counts as received."""

    def _on_close(self) -> None:
        # Tornado leaves the future of a pending write unresolved when the connection closes, so the task
        # would wait for ever.
        self._entry.aborted = not self._plane.closing
        assert self._task is not None
        self._task.cancel()

    async def _run(self, request: Request) -> None:
        try:
            await self._answer(request, self._entry)
        except StreamClosedError:
            self._entry.aborted = True
        except Exception:
            log.exception("the mock failed to answer %s %s", request.method, request.target)
            self._cut("close")

    async def _answer(self, request: Request, entry: Entry) -> None:
        started_s = asyncio.get_running_loop().time()
        behaviour = Behaviour()
        try:
            behaviour = resolve(self._plane.behaviour, request.model, self._headers.get_list(HEADER))
            if behaviour.silence:
                await asyncio.Event().wait()
            await asyncio.sleep(behaviour.delay_ms / 1000)
            answer = self._plane.api.answer(request, behaviour)
        except BehaviourError as error:
            answer = Answer.of_error(ApiError(400, str(error), param=HEADER, code="invalid_behaviour"))
        except ApiError as error:
            answer = Answer.of_error(error)
        taken_ms = round((asyncio.get_running_loop().time() - started_s) * 1000)
        headers = self._head(answer, taken_ms)
        start = ResponseStartLine("HTTP/1.1", answer.status, http.client.responses.get(answer.status, "Error"))
        if isinstance(answer.body, bytes):
            await self._send(start, headers, answer.body, behaviour)
        else:
            await self._stream(start, headers, answer.body, behaviour)

    def _head(self, answer: Answer, taken_ms: int) -> HTTPHeaders:
        """The headers of OpenAI's answers (https://platform.openai.com/docs/api-reference/debugging-requests)."""
        used = self._entry.sequence
        headers = HTTPHeaders()
        for name, value in (
            ("Date", format_timestamp(self._plane.clock())),
            ("Content-Type", answer.content_type),
            ("openai-organization", "org-mock"),
            ("openai-processing-ms", str(taken_ms)),
            ("openai-version", "2020-10-01"),
            ("x-ratelimit-limit-requests", "10000"),
            ("x-ratelimit-limit-tokens", "2000000"),
            ("x-ratelimit-remaining-requests", str(max(10_000 - used, 0))),
            ("x-ratelimit-remaining-tokens", str(max(2_000_000 - 100 * used, 0))),
            ("x-ratelimit-reset-requests", "6ms"),
            ("x-ratelimit-reset-tokens", "3ms"),
            ("x-request-id", self._entry.request_id),
            *answer.headers,
        ):
            headers.add(name, value)
        return headers

    async def _send(self, start: ResponseStartLine, headers: HTTPHeaders, body: bytes, behaviour: Behaviour) -> None:
        headers["Content-Length"] = str(len(body))
        self._entry.status = start.code
        sent = b"" if self._method == "HEAD" else body
        if behaviour.cut_after is not None:
            await self._connection.write_headers(start, headers, sent[: len(sent) // 2])
            self._cut(behaviour.cut_by)
            return
        await self._connection.write_headers(start, headers, sent)
        self._finish()

    async def _stream(
        self, start: ResponseStartLine, headers: HTTPHeaders, parts: Iterator[bytes], behaviour: Behaviour
    ) -> None:
        entry, cut_after = self._entry, behaviour.cut_after
        entry.status = start.code
        await self._connection.write_headers(start, headers)
        for part in parts:
            if entry.parts == cut_after:
                break
            if entry.parts:
                # Even without a delay: writes to a quick reader never wait, and others want their turn.
                await asyncio.sleep(behaviour.chunk_delay_ms / 1000)
            # Each write is awaited: a reader that stops reading stops us.
            await self._connection.write(part)
            entry.parts += 1
        if entry.parts == cut_after:
            self._cut(behaviour.cut_by)
        else:
            self._finish()

    def _finish(self) -> None:
        # A write the socket took at once is awaited without a pause, so the end of the framing follows the
        # last part before a client that leaves at [DONE] can be noticed: it is not an aborted answer.
        self._connection.set_close_callback(None)
        self._connection.finish()

    def _cut(self, how: str) -> None:
        """End the connection in the middle of the answer: the reader sees unfinished framing, or a reset."""
        self._connection.set_close_callback(None)
        stream = self._connection.stream
        if stream.closed():
            return
        if how == "reset":
            # SO_LINGER with zero seconds makes close() send RST instead of FIN.
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.close()
