"""G5, drain: a gateway that is told to stop lets every open stream end with its own last event."""

from __future__ import annotations

import asyncio
import json
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from soak import kernel
from soak.answers import MARK, stream
from soak.book import Book, End, Seen, classify
from soak.caller import question
from soak.figure import Figure, Row, Size, ms
from soak.origin import Asked, Origin
from soak.process import config
from tests.support.process import Sluice
from tests.support.raw import Answer, Outcome, RawClient, request
from tests.support.upstream import Wire

READY_WITHIN_S = 0.25
EXIT_WITHIN_S = 1.0
_PROBE_EVERY_S = 0.05


@dataclass(frozen=True)
class Plan:
    """``streams`` are open at the signal; they end one by one within ``ending_s`` after ``held_s`` more."""

    streams: int
    held_s: float
    ending_s: float


class Drain(Figure[Plan]):
    """The command ``sluice serve``, as an operator runs it."""

    name = "G5"
    about = "a drain cuts no stream, and ends when the last one has"
    plans: ClassVar[Mapping[Size, Plan]] = {
        "full": Plan(1000, 2.0, 5.0),
        "quick": Plan(200, 1.0, 1.0),
        "test": Plan(40, 0.4, 0.4),
    }

    def __init__(self, *args: object, **named: object) -> None:
        super().__init__(*args, **named)  # type: ignore[arg-type]
        self._begin = asyncio.Event()
        self._probes: Counter[str] = Counter()

    async def run(self) -> list[Row]:
        """One drain."""
        kernel.raise_fd_limit()
        book: Book[float] = Book(self.seed)
        origin = Origin(book, self._stream, seed=self.seed)
        await origin.start()
        try:
            with tempfile.TemporaryDirectory(prefix="sluice-soak-") as directory:
                file = Path(directory) / "sluice.yaml"
                admin = {"host": "127.0.0.1", "port": 0}
                # JSON is YAML.
                file.write_text(json.dumps(config(origin.port, admin=admin, log_level="info")))
                sluice = await asyncio.to_thread(Sluice, "--config", str(file))
                try:
                    return await self._drain(sluice, book)
                finally:
                    await asyncio.to_thread(sluice.stop, signal.SIGKILL)
        finally:
            await origin.stop()

    async def _stream(self, asked: Asked[float], wire: Wire) -> None:
        """Begin, wait for the drain, then end after the time this stream was issued for."""
        head, *pieces = stream(asked.nonce, "chunked")
        await wire.send(head + pieces[0])
        await self._begin.wait()
        await asyncio.sleep(asked.purpose)
        for piece in pieces[1:]:
            await wire.send(piece)
            await asyncio.sleep(0.001)

    async def _drain(self, sluice: Sluice, book: Book[float]) -> list[Row]:
        port = await asyncio.to_thread(lambda: sluice.port)
        found = await asyncio.to_thread(sluice.wait_for, r"admin on http://127\.0\.0\.1:(\d+)")
        admin = await RawClient.connect(int(found[1]))
        if (await admin.ask(request("/readyz", method="GET", body=None))).status != 200:
            raise RuntimeError("the gateway is not ready before the drain")
        opened = [await self._open(port, book, number) for number in range(self.plan.streams)]
        signalled_s = time.perf_counter()
        sluice.process.send_signal(signal.SIGTERM)
        unready_s = await self._until_unready(admin) - signalled_s
        admin.close()
        probing = asyncio.create_task(self._probe(port))
        await asyncio.sleep(self.plan.held_s)
        self._begin.set()
        ends = await asyncio.gather(*(self._read(*each) for each in opened))
        last_s = max(at for _, at in ends)
        status = await asyncio.to_thread(sluice.process.wait, 30)
        exited_s = time.perf_counter()
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)
        book.seen.extend(seen for seen, _ in ends)
        return self._rows(book, unready_s, exited_s - last_s, status)

    async def _open(self, port: int, book: Book[float], number: int) -> tuple[str, RawClient]:
        nonce = book.issue(self.plan.ending_s * number / self.plan.streams)
        client = await RawClient.connect(port)
        await client.send(question(nonce))
        await book.arrival(nonce).wait()
        return nonce, client

    async def _read(self, nonce: str, client: RawClient) -> tuple[Seen, float]:
        try:
            async with asyncio.timeout(30):
                seen = classify(nonce, await client.outcome("POST"))
        except TimeoutError:
            seen = Seen(nonce, End.HUNG)
        at = time.perf_counter()
        client.close()
        return seen, at

    async def _until_unready(self, admin: RawClient) -> float:
        """When ``/readyz`` of the admin plane first says 503; never, if it does not within five seconds."""
        end = time.perf_counter() + 5
        while time.perf_counter() < end:
            answer: Answer = await admin.ask(request("/readyz", method="GET", body=None))
            if answer.status == 503:
                return time.perf_counter()
            await asyncio.sleep(0.005)
        return float("inf")

    async def _probe(self, port: int) -> None:
        """Ask on new connections while the drain lasts."""
        while True:
            self._probes[await probe(port)] += 1
            await asyncio.sleep(_PROBE_EVERY_S)

    def _rows(self, book: Book[float], unready_s: float, exit_s: float, status: int) -> list[Row]:
        cut = [seen for seen in book.seen if seen.end is not End.OK]
        verdict = book.close()
        probes = ", ".join(f"{count} {what}" for what, count in sorted(self._probes.items())) or "none"
        wrong = sum(count for what, count in self._probes.items() if what not in ALLOWED)
        streams = f"{self.plan.streams} open streams"
        goals = f"each stream ends with {MARK.decode()}"
        return [
            Row(
                self.name,
                goals,
                f"{len(cut)} cut",
                streams,
                not cut and not verdict.violations,
                tuple(verdict.evidence),
            ),
            Row(
                self.name,
                f"readiness 503 <= {ms(READY_WITHIN_S)}",
                ms(unready_s),
                "1 drain",
                unready_s <= READY_WITHIN_S,
            ),
            Row(
                self.name,
                f"exit <= {EXIT_WITHIN_S:g} s after the last stream",
                ms(exit_s),
                "1 drain",
                exit_s <= EXIT_WITHIN_S,
            ),
            Row(self.name, "exit status 0", str(status), "1 drain", status == 0),
            Row(
                self.name,
                "new work refused or told to close, none cut",
                f"{wrong} cut",
                f"asked on new connections: {probes}",
                not wrong,
            ),
        ]


ALLOWED = frozenset({"refused", "told to close"})
"""What a new connection may meet in a drain. Closed before its first byte was read is as good as refused."""


async def probe(port: int) -> str:
    """What happens to a request on a new connection."""
    try:
        client = await RawClient.connect(port)
    except OSError:
        return "refused"
    try:
        async with asyncio.timeout(5):
            try:
                await client.send(request("/healthz", method="GET", body=None))
            except OSError:
                return "refused"
            outcome: Outcome = await client.outcome()
    except TimeoutError:
        return "left hanging"
    finally:
        client.close()
    if outcome.answer is None:
        return "refused"
    if not outcome.is_whole:
        return "cut"
    return "told to close" if outcome.answer.get("connection") == "close" else "kept alive"
