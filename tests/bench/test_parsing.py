"""What the bench reads: /proc, requests at its upstream, event streams in pieces."""

from __future__ import annotations

import os
from itertools import pairwise

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import upstream
from bench.load import StreamScanner, source
from bench.process import Stat, family, parse_rss, parse_stat, used_s
from bench.request import ANSWER, EVENT, FIELDS, JSON_TARGET, QUESTION, request

TICKS = os.sysconf("SC_CLK_TCK")


def stat_line(name: str) -> str:
    return f"41 ({name}) S 7 41 41 0 -1 4194560 100 0 0 0 {3 * TICKS} {TICKS} 0 0 20 0 1 0 9000 1000 200"


@pytest.mark.parametrize("name", ["nginx", "a b", "a) S 1 (b", "((", ")"])
def test_a_stat_line_is_read_whatever_the_name(name: str) -> None:
    assert parse_stat(stat_line(name)) == Stat(41, 7, 4.0)


def test_resident_memory_is_in_bytes() -> None:
    assert parse_rss("Name:\tnginx\nVmPeak:\t    9000 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n") == 2048 * 1024


def test_a_family_is_all_descendants_and_nobody_else() -> None:
    stats = [Stat(12, 11, 0), Stat(10, 1, 0), Stat(11, 10, 0), Stat(13, 12, 0), Stat(20, 1, 0), Stat(21, 20, 0)]
    assert {stat.pid for stat in family(10, stats)} == {10, 11, 12, 13}


def test_used_time_is_that_of_the_whole_family() -> None:
    before = [Stat(10, 1, 1.0), Stat(11, 10, 5.0)]
    after = [Stat(11, 10, 7.5), Stat(10, 1, 1.5)]
    assert used_s(before, after) == pytest.approx(3.0)


def test_a_family_that_changed_gives_no_figure() -> None:
    with pytest.raises(RuntimeError, match="started or ended"):
        used_s([Stat(10, 1, 1.0)], [Stat(10, 1, 1.0), Stat(11, 10, 5.0)])


def test_the_question_and_the_answer_have_the_size_the_figures_are_quoted_for() -> None:
    assert 330 <= len(QUESTION) <= 370
    assert 350 <= len(ANSWER) <= 700
    assert 200 <= len(EVENT) <= 300
    assert len(FIELDS) == 12


def test_the_fields_are_those_the_sdk_sends() -> None:
    sent: list[httpx2.Request] = []

    def answer(asked: httpx2.Request) -> httpx2.Response:
        sent.append(asked)
        return httpx2.Response(200, content=ANSWER, headers={"Content-Type": "application/json"})

    transport = httpx2.Client(transport=httpx2.MockTransport(answer))
    with openai.OpenAI(api_key="sk-client", base_url="http://127.0.0.1/v1", http_client=transport) as client:
        completion = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
    assert completion.usage is not None
    assert {name.lower() for name, _ in FIELDS} <= set(sent[0].headers)
    assert sent[0].url.path == JSON_TARGET


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -len(QUESTION), -len(QUESTION) - 2])
def test_the_upstream_knows_what_is_missing_of_a_request(cut: int) -> None:
    whole = request(JSON_TARGET, "h")
    assert upstream.missing(whole) == 0
    part = whole[:cut]
    if len(part) < len(whole) - len(QUESTION):
        assert upstream.missing(part) is None
    else:
        assert upstream.missing(part) == len(whole) - len(part)


STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%b\r\n" % (len(event), event) for event in [EVENT] * 5
)
END = b"0\r\n\r\n"


@given(st.lists(st.integers(1, len(STREAM) + len(END)), max_size=12))
def test_events_are_counted_however_the_bytes_are_cut(cuts: list[int]) -> None:
    scanner = StreamScanner()
    whole = STREAM + END
    edges = sorted({0, *cuts, len(whole)})
    pieces = [whole[start:end] for start, end in pairwise(edges)]
    total = 0
    for piece in pieces:
        assert not scanner.is_at_end
        total += scanner.feed(piece)
    assert total == scanner.events == 5
    assert scanner.is_at_end


def test_a_stream_without_its_last_chunk_is_not_at_its_end() -> None:
    scanner = StreamScanner()
    scanner.feed(STREAM)
    assert not scanner.is_at_end


def test_every_connection_of_every_round_has_its_own_address() -> None:
    addresses = {source(round_number, connection) for round_number in range(20) for connection in range(300)}
    assert len(addresses) == 20 * 300
    assert all(address.startswith("127.") for address in addresses)
    assert not any(address.endswith((".0", ".255")) for address in addresses)
