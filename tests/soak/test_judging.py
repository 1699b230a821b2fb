"""The judge of the soak: a figure that cannot be missed would promise nothing."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from soak.answers import FRAMINGS, answer, completion, events, stream
from soak.book import Book, End, Seen, classify
from soak.faults import FAULTS
from soak.figure import Row, percentile, slope
from soak.flood import Flood, FloodPlan
from soak.g1_faults import judge
from soak.g9_cuts import all_cuts
from soak.process import State
from soak.report import misses, table
from tests.support.raw import Answer, Outcome

NONCE = "n0000abcd-0000001"
WHOLE = b'{"nonce": "n0000abcd-0000001", "end": "[DONE]"}'


def outcome(status: int, body: bytes, *lines: tuple[str, str], is_whole: bool = True) -> Outcome:
    return Outcome(Answer(status, "", list(lines), body), is_whole)


@pytest.mark.parametrize(
    ("seen", "end"),
    [
        (outcome(200, WHOLE), End.OK),
        (outcome(200, WHOLE, is_whole=False), End.CUT),
        (Outcome(None, False), End.CUT),
        (outcome(200, WHOLE[:-10]), End.SHORT),
        (outcome(200, b""), End.SHORT),
        (outcome(200, WHOLE.replace(b"0001", b"0002")), End.FOREIGN),
        (outcome(401, WHOLE), End.PASSED),
        (outcome(502, b"{}", ("X-Sluice-Upstream-Sent", "no")), End.ERROR),
        (outcome(502, b"{}", ("X-Sluice-Upstream-Sent", "perhaps")), End.MUTE),
        (outcome(502, b"{}"), End.MUTE),
        (outcome(502, b"{}", is_whole=False), End.CUT),
    ],
)
def test_what_a_client_sees(seen: Outcome, end: End) -> None:
    assert classify(NONCE, seen).end is end


@pytest.mark.parametrize(
    ("end", "said", "received", "begun", "wrong"),
    [
        (End.OK, "", 1, 1, None),
        (End.OK, "", 0, 1, "answered but not in the ledger"),
        (End.OK, "", 2, 2, "duplicated"),
        (End.ERROR, "unknown", 2, 2, "duplicated"),
        (End.LEFT, "", 2, 2, "duplicated"),
        (End.ERROR, "no", 0, 0, None),
        (End.ERROR, "no", 1, 1, "upstream-sent: no, but it was"),
        (End.ERROR, "no", 0, 1, "upstream-sent: no, but it was"),
        (End.ERROR, "unknown", 0, 0, None),
        (End.CUT, "", 0, 0, None),
        (End.SHORT, "", 1, 1, "short but clean"),
        (End.HUNG, "", 1, 1, "no end"),
        (End.FOREIGN, "", 1, 1, "another's answer"),
        (End.MUTE, "", 1, 1, "error without a word on billing"),
    ],
)
def test_what_client_and_ledger_say_together(
    end: End, said: str, received: int, begun: int, wrong: str | None
) -> None:
    book: Book[None] = Book(0)
    nonce = book.issue(None)
    book.received[nonce], book.begun[nonce] = received, begun
    book.seen.append(Seen(nonce, end, 200, said))
    verdict = book.close()
    assert (verdict.requests, list(verdict.violations)) == (1, [wrong] if wrong else [])
    assert bool(verdict.evidence) is (wrong is not None)


def test_a_request_whose_client_was_told_nothing_is_lost() -> None:
    book: Book[None] = Book(0)
    book.issue(None)
    assert list(book.close().violations) == ["the client was told nothing"]
    assert not book.close().violations, "the page was turned"


def test_an_end_that_a_fault_cannot_explain_is_a_violation() -> None:
    refused = judge(FAULTS["refused"])
    assert refused(Seen(NONCE, End.ERROR, 502, "no")) == []
    assert refused(Seen(NONCE, End.ERROR, 502, "unknown")) == ["says upstream-sent: unknown"]
    assert refused(Seen(NONCE, End.OK, 200)) == ["ends 'whole'"]


def test_there_are_as_many_faults_as_were_promised() -> None:
    assert len(FAULTS) >= 24


@pytest.mark.parametrize("framing", FRAMINGS)
def test_answers_name_their_request_and_end_in_the_mark(framing: str) -> None:
    body = b"".join(events(NONCE, 3))
    assert b"".join(stream(NONCE, framing, 3)).count(NONCE.encode()) == 3
    assert body.endswith(b"data: [DONE]\n\n")
    for whole in (answer(NONCE), completion(NONCE)):
        assert NONCE.encode() in whole
        assert b"[DONE]" in whole


def test_cuts_cover_every_offset_of_every_framing() -> None:
    cuts = all_cuts(0)
    for framing in FRAMINGS:
        offsets = sorted(cut.offset for cut in cuts if cut.framing == framing)
        assert offsets == list(range(len(offsets)))
        assert len(offsets) > 3900
    assert len(cuts) >= 10_000


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3, 1, 2], 0.99, 3), ([3, 1, 2], 0.5, 2), ([5], 0.01, 5), (list(range(1, 101)), 0.99, 99)],
)
def test_percentiles(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_nothing_measured_meets_no_bound() -> None:
    assert math.isnan(percentile([], 0.99))
    assert not percentile([], 0.99) <= 1e9


def test_slopes() -> None:
    assert slope([(x, 3.0 * x + 1) for x in range(10)]) == pytest.approx(3)
    assert slope([(1.0, 5.0)]) == 0
    assert slope([]) == 0


def test_what_there_is_more_of_has_leaked() -> None:
    before = State(port=1, fds=10, tasks=2, objects=5, in_flight=0, connections=0)
    after = State(port=1, fds=12, tasks=1, objects=9, in_flight=0, connections=1)
    assert after.leaked(before) == {"fds": 2, "connections": 1}
    assert before.leaked(before) == {}


@pytest.mark.parametrize(
    ("took_s", "field"), [(2.0, "on_time"), (2.3, "on_time"), (3.5, "late"), (1.5, "early"), (None, "open_at_end")]
)
@pytest.mark.gen_test
async def test_a_slow_connection_is_judged_by_its_timeout(took_s: float | None, field: str) -> None:
    flood = Flood(FloodPlan(1, 1, 1, 0, 2, 3, 1))
    closed: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    started = time.monotonic()
    if took_s is not None:
        closed.set_result(started + took_s)
    await flood._judge(closed, started, 2.0)
    assert getattr(flood.result, field) == 1


def test_the_table_says_what_was_missed() -> None:
    rows = [
        Row("G1", "0 lost", "0", "10 requests", True),
        Row("G9", "0 cut", "3", "10 cuts", False, ("chunked after 7 bytes",)),
    ]
    lines = table(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["figure", "G1", "G9"]
    assert [line.split()[-1] for line in lines[1:]] == ["ok", "MISSED"]
    assert misses(rows) == ["G9, 0 cut: chunked after 7 bytes"]
