"""Many clients at a time against one gateway, for so long, and then the account."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from fuzz.campaign import Plan, Result
from fuzz.mutation import Mutator
from fuzz.raw.book import Book
from fuzz.raw.client import Client, Manner, status_of
from fuzz.raw.gateway import Gateway
from fuzz.raw.origin import Origin
from fuzz.report import RAW
from fuzz.target import seeds_of
from fuzz.targets import load

CLIENTS = 200
MOST_GROWTH_BYTES = 16 * 2**20
_MOST_SLOW = 50
_LOOK_S = 0.25
_NONCE = b"@N@"
_MAX_BYTES = 4096
_MOST_FINDINGS = 20


def new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it exists: this process must be quicker than the gateway."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def run(plan: Plan) -> Result:
    """Attack; the result as one row of the table."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(Attack(plan).run())


class Attack:
    """One gateway under attack."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = Random(plan.seed)
        self._mutator = Mutator(seeds_of(RAW), (*load("request").words, _NONCE), _MAX_BYTES, self._random)
        self._first = seeds_of(RAW)
        self._book = Book()
        self._inputs = 0
        self._answers: Counter[int] = Counter()
        self._findings: dict[str, dict[str, Any]] = {}
        self._recent: deque[bytes] = deque(maxlen=CLIENTS * 2)
        self._rss: list[int] = []
        self._is_over = False
        self._slow: list[bytes] = []

    async def run(self) -> Result:
        """Start all, attack, stop all, judge."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Origin(self._book, self._found), "127.0.0.1", 0, backlog=1024)
        gateway = Gateway(self._plan.folder, server.sockets[0].getsockname()[1], self._book)
        try:
            port = await asyncio.to_thread(gateway.port)
            began = time.perf_counter()
            clients = [loop.create_task(self._send_on(port)) for _ in range(CLIENTS)]
            await self._watch(gateway, began)
            self._is_over = True
            await asyncio.gather(*clients)
            seconds = time.perf_counter() - began
            if not gateway.is_alive:
                self._found("the gateway died", gateway.said()[-1000:], b"\n-----\n".join(self._recent))
            else:
                await self._try_slow_ones(port)
                await self._check_canary(port)
        finally:
            status = await asyncio.to_thread(gateway.stop)
            server.close()
        self._judge(gateway, status)
        growth = self._growth()
        about = "mutated requests over sockets to a running gateway"
        return Result(RAW, about, "sockets", self._inputs, seconds, growth, list(self._findings.values()))

    async def _watch(self, gateway: Gateway, began: float) -> None:
        """Sleep until the time or the count is up, and look at the gateway meanwhile."""
        plan = self._plan
        while gateway.is_alive and len(self._findings) < _MOST_FINDINGS:
            await asyncio.sleep(_LOOK_S)
            self._rss.append(gateway.rss_bytes())
            if plan.seconds and time.perf_counter() - began >= plan.seconds:
                return
            if plan.runs and self._inputs >= plan.runs:
                return

    def _next(self) -> tuple[bytes, Manner]:
        self._inputs += 1
        # Numbers from a hash, not a counter: neighbours must not share digests or caches.
        data = self._first.pop() if self._first else self._mutator.next()
        data = data.replace(_NONCE, b"n%08x" % (self._inputs * 2654435761 % 2**32))
        roll = self._random.random()
        manner = Manner.PATIENT if roll < 1 / 16 else Manner.RUDE if roll < 2 / 16 else Manner.BRISK
        return data or b"\r", manner

    async def _send_on(self, port: int) -> None:
        limit = self._plan.runs or 1 << 62
        while not self._is_over and self._inputs < limit:
            data, manner = self._next()
            self._recent.append(data)
            cut = self._random.randrange(1, len(data)) if len(data) > 1 and self._random.random() < 0.25 else 0
            parts = [data[:cut], data[cut:]] if cut else [data]
            try:
                client = await self._connect(port, parts, manner)
            except OSError as error:
                self._found("the gateway takes no connection", error, data)
                self._is_over = True
                return
            self._look_at(data, await client.done)
            if client.was_slow and len(self._slow) < _MOST_SLOW:
                self._slow.append(data)

    @staticmethod
    async def _connect(port: int, parts: list[bytes], manner: Manner) -> Client:
        loop = asyncio.get_running_loop()
        return (await loop.create_connection(lambda: Client(parts, manner), "127.0.0.1", port))[1]

    async def _try_slow_ones(self, port: int) -> None:
        """What took over a second in the crowd is sent alone: a busy machine is no fault of the gateway."""
        again = 0
        for data in self._slow:
            client = await self._connect(port, [data], Manner.PATIENT)
            await client.done
            if client.was_slow:
                again += 1
                self._found("an input takes longer than a second", "", data)
        if self._slow:
            print(f"raw: {len(self._slow)} inputs took over a second in the crowd, {again} of them did again alone")

    def _look_at(self, data: bytes, received: bytes | None) -> None:
        if received is None:
            self._found("it neither answered nor closed", "", data)
            return
        status = status_of(received)
        self._answers[status] += 1
        if status in (500, -1):
            self._found(f"status {status}" if status > 0 else "no answer at all", received[:500], data)

    async def _check_canary(self, port: int) -> None:
        """After all that, an ordinary request is answered."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        if not answer.startswith(b"HTTP/1.1 200 "):
            self._found("an ordinary request is not answered any more", answer[:200])

    def _judge(self, gateway: Gateway, status: int) -> None:
        book = self._book
        if status != 0:
            self._found("the gateway's exit status", status)
        for line in gateway.complaints()[:3]:
            self._found("it logged an error", line)
        if gateway.broken_line is not None:
            self._found("a line of the access log is not JSON", gateway.broken_line[:300])
        for detail in book.disagreements()[:3]:
            self._found("access log and ledger disagree", detail)
        if self._growth() > MOST_GROWTH_BYTES:
            self._found("its memory grows", f"{self._growth()} bytes")
        said = book.said["yes"] + book.said["unknown"]
        print(
            f"raw: {book.arrived:,} of {self._inputs:,} inputs went upstream, {said:,} lines of the log say so; "
            f"{book.never_arrived} of these were 'unknown' and never arrived; {book.said['no']:,} lines say 'no'"
        )
        print(
            "raw: first answers by status:",
            ", ".join(f"{s or 'none'}: {c:,}" for s, c in sorted(self._answers.items())),
        )

    def _growth(self) -> int:
        """Resident bytes at the end beyond those after the first quarter, as medians."""
        count = len(self._rss)
        if count < 16:
            return 0
        window = max(4, count // 10)
        early = self._rss[count // 4 : count // 4 + window]
        return int(median(self._rss[-window:]) - median(early))

    def _found(self, rule: str, detail: object, data: bytes = b"") -> None:
        if rule in self._findings:
            self._findings[rule]["times"] += 1
            return
        file = Path(self._plan.folder, f"raw-{len(self._findings)}")
        file.write_bytes(data)
        self._findings[rule] = {
            "rule": rule,
            "message": str(detail)[:1000],
            "input": repr(data[:400]),
            "file": str(file),
            "times": 1,
        }
