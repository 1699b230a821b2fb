"""Every hard message of our own through the whole gateway, and the judge that says what came of it.

The public collections are replayed by ``python -m tests.corpus``; here their readers are tried on messages of ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from proxy.gateway.worker import new_loop
from tests.corpus.answers import AnswerCase, End, Got, answer_case, answer_faults, judge_answers, own_answers
from tests.corpus.cases import own_cases
from tests.corpus.public import desync_cases, llhttp_blocks, request_case
from tests.support.corpus import (
    Case,
    LedgerUpstream,
    Outcome,
    Reading,
    Tier,
    Way,
    answers_in,
    faults_of,
    head_faults,
    judge_all,
)
from tests.support.upstream import Received

T = TypeVar("T")
ONE = Reading("POST", "/v1/case", b"ab")
OPEN = Case("a case", b"", Tier.AMBIGUOUS, (ONE,))
SEVERE = Case("a case", b"", Tier.SEVERE)
SERVED = [(200, "/v1/case"), (200, "/v1/canary-1")]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Each broken message is worth a line in a log, and here there are hundreds."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def run(work: Coroutine[Any, Any, T]) -> T:
    """On the event loop that serves in production."""
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(work)


def test_every_request_comes_to_what_it_must() -> None:
    cases = own_cases()
    assert len({case.name for case in cases}) == len(cases)
    counts = Counter(case.tier for case in cases)
    assert counts[Tier.SEVERE] > 600
    assert counts[Tier.COMPLIANT] > 60
    faults = [fault for verdict in run(judge_all(cases)) for fault in verdict.faults]
    assert not faults, "\n".join(faults)


def test_every_answer_comes_to_what_it_must() -> None:
    cases = own_answers()
    assert len({case.name for case in cases}) == len(cases) > 100
    faults = [fault for verdict in run(judge_answers(cases)) for fault in verdict.faults]
    assert not faults, "\n".join(faults)


def refused(status: int = 400) -> Outcome:
    """What comes of a request that the wire refuses."""
    return Outcome(answers=[(status, "")], closed=True)


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (SEVERE, Outcome(seen=[ONE], canaries=1, answers=SERVED, closed=True)),
        (SEVERE, Outcome(answers=[(400, "")])),
        (SEVERE, Outcome(seen=[ONE], answers=[(400, "")], closed=True)),
        (SEVERE, Outcome(canaries=1, answers=[(400, ""), (200, "/v1/canary-1")], closed=True)),
        (Case("a case", b"", Tier.SEVERE, statuses=(431,)), refused()),
        (OPEN, Outcome(seen=[Reading("POST", "/v1/case", b"abc")], canaries=1, answers=SERVED, closed=True)),
        (OPEN, Outcome(seen=[ONE, ONE], canaries=1, answers=SERVED, closed=True)),
        (OPEN, Outcome(seen=[ONE], canaries=2, answers=SERVED, closed=True)),
        (OPEN, Outcome(seen=[ONE], answers=SERVED[:1], closed=True)),
        (OPEN, Outcome(seen=[ONE], canaries=1, answers=SERVED[::-1], closed=True)),
        (OPEN, Outcome(seen=[ONE], canaries=1, answers=[*SERVED, (200, "/v1/x")], closed=True)),
        (OPEN, Outcome(seen=[ONE], canaries=1, answers=SERVED, closed=True, faults=["two framings"])),
        (OPEN, Outcome()),
        (Case("a case", b"", Tier.COMPLIANT, (ONE,)), refused()),
        (Case("a case", b"", Tier.COMPLIANT, by_rule="a rule"), Outcome(canaries=1, answers=SERVED[1:], closed=True)),
        (Case("a case", b"", Tier.WAITS), Outcome(seen=[ONE], answers=SERVED[:1])),
    ],
)
def test_the_judge_sees_what_must_not_be(case: Case, outcome: Outcome) -> None:
    assert faults_of(case, outcome)


@pytest.mark.parametrize(
    ("case", "outcome"),
    [
        (SEVERE, refused()),
        (OPEN, refused()),
        (OPEN, Outcome(seen=[ONE], canaries=1, answers=SERVED, closed=True)),
        (Case("a case", b"", Tier.AMBIGUOUS, (ONE,), closes=True), Outcome([ONE], 0, SERVED[:1], closed=True)),
        (Case("a case", b"", Tier.COMPLIANT, by_rule="a rule"), refused()),
        (Case("a case", b"", Tier.WAITS), Outcome()),
    ],
)
def test_the_judge_lets_pass_what_may_be(case: Case, outcome: Outcome) -> None:
    assert faults_of(case, outcome) == []


@pytest.mark.parametrize(
    "lines",
    [
        [("Host", "a"), ("Content-Length", "2"), ("Content-Length", "2")],
        [("Host", "a"), ("Content-Length", "2"), ("Transfer-Encoding", "chunked")],
        [("Host", "a"), ("Content-Length", "02")],
        [("Host", "a"), ("Transfer-Encoding", "Chunked")],
        [("Host", "b")],
        [("Host", "a"), ("Host", "a")],
        [("Host", "a"), ("Upgrade", "h2c")],
        [("Host", "a"), ("X-Forwarded-For", "192.0.2.1")],
    ],
)
def test_the_upstream_sees_what_two_servers_could_read_differently(lines: list[tuple[str, str]]) -> None:
    assert head_faults(Received(1, "POST", "/", lines, b""), "a")
    assert not head_faults(Received(1, "POST", "/", [("Host", "a"), ("Content-Length", "2")], b""), "a")


@pytest.mark.parametrize(
    "data",
    [
        b"POST / HTTP/1.0\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1 x\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX: a\nb\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nab\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nA: b\r\n\r\n",
    ],
)
def test_the_upstream_takes_nothing_in_doubt(data: bytes) -> None:
    async def send() -> list[str]:
        upstream = LedgerUpstream("a")
        await upstream.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", upstream.port)
            writer.write(data)
            writer.write_eof()
            await reader.read()
            writer.close()
            await writer.wait_closed()
        finally:
            await upstream.stop()
        return upstream.faults

    assert run(send())


def test_answers_are_told_apart() -> None:
    forwarded = b"HTTP/1.1 200 OK\r\nX-Target: /a\r\nContent-Length: 2\r\n\r\n"
    own = b'HTTP/1.1 400 Bad\r\nContent-Length: 28\r\n\r\n{"error":{"message": "why"}}'
    assert answers_in(forwarded + b"ok" + own, ["POST"]) == ([(200, "/a"), (400, "")], "why")
    assert answers_in(b"HTTP/1.1 100 Continue\r\n\r\n" + forwarded + own, ["HEAD"])[0] == [(200, "/a"), (400, "")]
    assert answers_in(forwarded + b"okmore", ["POST"])[0][-1] == (0, "not an answer: b'more'")


@pytest.mark.parametrize(
    ("tier", "got", "sound"),
    [
        (Tier.SEVERE, Got(End.REFUSED, 502), True),
        (Tier.SEVERE, Got(End.CUT, 200, b"a"), True),
        (Tier.SEVERE, Got(End.TAKEN, 200, b"ab"), False),
        (Tier.AMBIGUOUS, Got(End.TAKEN, 200, b"ab"), True),
        (Tier.AMBIGUOUS, Got(End.TAKEN, 200, b"a"), False),
        (Tier.AMBIGUOUS, Got(End.CUT, 200, b"x"), False),
        (Tier.COMPLIANT, Got(End.TAKEN, 200, b"ab"), True),
        (Tier.COMPLIANT, Got(End.TAKEN, 500, b"ab"), False),
        (Tier.COMPLIANT, Got(End.REFUSED, 502), False),
        (Tier.COMPLIANT, Got(End.WAITS), False),
        (Tier.SEVERE, Got(End.NONSENSE), False),
    ],
)
def test_the_judge_of_answers(tier: Tier, got: Got, sound: bool) -> None:
    assert (answer_faults(AnswerCase("an answer", b"", tier, 200, b"ab"), got) == []) is sound


DESYNC = r"""
- name: two lengths
  uri: /a
  method: POST
  version: HTTP/1.1
  headers: [{name: Content-Length, value: 1}, {name: Content-Length, value: 2}]
  expected: {tier: Severe}
- name: a length
  uri: /a
  method: POST
  version: HTTP/1.1
  headers: [{name: Content-Length, value: 3}]
  expected: {tier: Compliant}
- name: no version
  uri: /a
  method: GET
  version: ""
  headers:
  expected: {tier: Ambiguous}
"""


def test_a_collection_in_the_guardians_form(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "some.yaml").write_text(DESYNC)
    found = desync_cases(tmp_path)
    assert [word for word, _ in found] == ["Severe", "Compliant", "Ambiguous"]
    two, one, none = (case for _, case in found)
    assert b"Host: gateway.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n" in two.data
    assert one.data == b"POST /v1/a HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 3\r\n\r\nxxx"
    assert one.readings == (Reading("POST", "/v1/a", b"xxx"),)
    assert none.data.startswith(b"GET /v1/a\r\n")
    verdicts = run(judge_all([two, one, none]))
    assert [verdict.refused for verdict in verdicts] == [True, False, True]
    assert not [fault for verdict in verdicts for fault in verdict.faults]


LLHTTP = r"""
# Title

### Two in a row

<!-- meta={"type": "request"} -->
```http
PUT /a HTTP/1.1
Content-Length: 2

ab\
GET /b HTTP/1.0


```

A remark with `ticks`.

```log
off=0 message begin
off=0 len=3 span[method]="PUT"
off=4 len=2 span[url]="/a"
off=12 len=3 span[version]="1.1"
off=17 len=14 span[header_field]="Content-Length"
off=38 headers complete method=4 v=1/1 flags=20 content_length=2
off=38 len=2 span[body]="ab"
off=40 message complete
off=40 message begin
off=40 len=3 span[method]="GET"
off=44 len=2 span[url]="/b"
off=52 len=3 span[version]="1.0"
off=59 headers complete method=1 v=1/0 flags=0 content_length=0
off=59 message complete
```

### A bare CR

<!-- meta={"type": "request"} -->
```http
GET /a HTTP/1.1
X: a\rb


```

```log
off=0 message begin
off=0 len=3 span[method]="GET"
off=4 len=2 span[url]="/a"
off=12 len=3 span[version]="1.1"
off=21 error code=3 reason="a line ends too early"
```
"""
LLHTTP_ANSWERS = r"""
### To the end

<!-- meta={"type": "response"} -->
```http
HTTP/1.1 200 OK

ab
```

```log
off=0 message begin
off=5 len=3 span[version]="1.1"
off=13 len=2 span[status]="OK"
off=19 headers complete status=200 v=1/1 flags=0 content_length=0
off=19 len=2 span[body]="ab"
```

### Broken off

<!-- meta={"type": "response"} -->
```http
HTTP/1.1 200 OK
Content-Length: 9

ab
```

```log
off=0 message begin
off=5 len=3 span[version]="1.1"
off=13 len=2 span[status]="OK"
off=17 len=14 span[header_field]="Content-Length"
off=38 headers complete status=200 v=1/1 flags=20 content_length=9
off=38 len=2 span[body]="ab"
```
"""


def test_a_collection_in_llhttps_form(tmp_path: Path) -> None:
    for kind, text in (("request", LLHTTP), ("response", LLHTTP_ANSWERS)):
        (tmp_path / "test" / kind).mkdir(parents=True)
        (tmp_path / "test" / kind / "some.md").write_text(text)
    two, bare = (request_case(block) for block in llhttp_blocks(tmp_path, "request"))
    assert two.data == (
        b"PUT /v1/a HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 2\r\n\r\nab"
        b"GET /v1/b HTTP/1.0\r\nHost: gateway.test\r\n\r\n"
    )
    assert two.readings == (Reading("PUT", "/v1/a", b"ab"), Reading("GET", "/v1/b"))
    assert (two.tier, two.closes, bare.tier, bare.readings) == (Tier.AMBIGUOUS, True, Tier.SEVERE, ())
    verdicts = run(judge_all([two, bare], (Way.WHOLE,)))
    assert [verdict.refused for verdict in verdicts] == [False, True]
    whole, broken = (answer_case(block) for block in llhttp_blocks(tmp_path, "response"))
    assert (whole.tier, whole.body, broken.tier) == (Tier.AMBIGUOUS, b"ab", Tier.SEVERE)
    answers = run(judge_answers([whole, broken]))
    assert [verdict.got[0].end for verdict in answers] == [End.TAKEN, End.CUT]
    assert not [fault for verdict in verdicts for fault in verdict.faults]
    assert not [fault for answer in answers for fault in answer.faults]


def test_a_collection_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"tests/\*\.yaml"):
        desync_cases(tmp_path)
    with pytest.raises(OSError, match=r"test/request/\*\.md"):
        llhttp_blocks(tmp_path, "request")
