"""What the bench reads and sends: /proc, requests, uploads, streams in pieces, answers written anew."""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.client import EventCounter, source
from bench.process import Process, Stat, family, family_rss, parse_rss, parse_schedstat, parse_stat, used_s
from bench.request import (
    ANSWER,
    EVENT,
    FIELDS,
    FILE_ANSWER,
    FILE_BYTES,
    JSON_TARGET,
    LAST_EVENT,
    QUESTION,
    SSE_TARGET,
    STREAM_QUESTION,
    UPLOAD,
    UPLOAD_TARGET,
    request,
    says_the_same,
)
from bench.upstream import Mode

TICKS = os.sysconf("SC_CLK_TCK")


def stat_line(name: str) -> str:
    return f"41 ({name}) S 7 41 41 0 -1 4194560 100 0 0 0 {3 * TICKS} {TICKS} 0 0 20 0 1 0 9000 1000 200"


@pytest.mark.parametrize("name", ["nginx", "a b", "a) S 1 (b", "((", ")"])
def test_a_stat_line_is_read_whatever_the_name(name: str) -> None:
    assert parse_stat(stat_line(name)) == Stat(41, 7, 4.0)


def test_the_time_of_a_thread_is_in_nanoseconds() -> None:
    assert parse_schedstat("1234567890 29880 12\n") == pytest.approx(1.23456789)


def test_the_time_of_a_process_is_that_of_all_its_threads(tmp_path: Path) -> None:
    program = (
        "import threading, time\n"
        "def work():\n"
        "    while time.thread_time() < 0.05: pass\n"
        "threads = [threading.Thread(target=work) for _ in range(3)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n"
        "print('done', flush=True)\n"
        "time.sleep(60)\n"
    )
    process = Process([sys.executable, "-S", "-c", program], os.sched_getaffinity(0), env={}, log=tmp_path / "log")
    try:
        while not process.said():
            process.check()
            time.sleep(0.01)
        assert 0.13 < sum(stat.cpu_s for stat in process.family) < 1
    finally:
        process.stop()


def test_resident_memory_is_in_bytes() -> None:
    assert parse_rss("Name:\tnginx\nVmPeak:\t    9000 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n") == 2048 * 1024


def rollup(rss: int, clean: int, dirty: int) -> str:
    return (
        f"55d0-7ffc ---p 00000000 00:00 0    [rollup]\nRss:    {rss} kB\nPss:    1 kB\nShared_Clean:  99 kB\n"
        f"Private_Clean:   {clean} kB\nPrivate_Dirty:   {dirty} kB\n"
    )


def test_what_a_family_shares_counts_once_and_what_is_private_for_each() -> None:
    assert family_rss([rollup(1000, 100, 300)]) == 1000 * 1024
    assert family_rss([rollup(1000, 100, 300), rollup(900, 0, 150)]) == (400 + 150 + 750) * 1024


def test_memory_is_not_less_because_strangers_share_it(tmp_path: Path) -> None:
    argv = [sys.executable, "-S", "-c", "print('up', flush=True); import time; time.sleep(60)"]
    running: list[Process] = []
    seen = []
    try:
        for number in range(3):
            running.append(Process(argv, os.sched_getaffinity(0), env={}, log=tmp_path / f"log{number}"))
            while not running[-1].said():
                running[-1].check()
                time.sleep(0.01)
            seen.append(running[0].rss_bytes())
    finally:
        for process in running:
            process.stop()
    assert seen[2] == pytest.approx(seen[0], rel=0.02)


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


@pytest.mark.parametrize(
    ("target", "body"), [(JSON_TARGET, QUESTION), (SSE_TARGET, STREAM_QUESTION), (UPLOAD_TARGET, UPLOAD)]
)
def test_a_request_has_the_fields_the_gateway_wants_and_its_body(target: str, body: bytes) -> None:
    head, _, sent = request(target, "h:1", {"X-Config": "c", "Authorization": "Bearer other"}).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == f"POST {target} HTTP/1.1"
    assert {"Host: h:1", "X-Config: c", "Authorization: Bearer other", f"Content-Length: {len(body)}"} <= set(lines)
    assert len(lines) == len({line.partition(":")[0] for line in lines})
    assert sent == body


def test_an_upload_is_a_form_with_one_mebibyte() -> None:
    assert FILE_BYTES == 2**20
    boundary = UPLOAD.partition(b"\r\n")[0]
    parts = UPLOAD.split(boundary)
    assert parts[-1] == b"--\r\n"
    _, _, file = parts[2].partition(b"\r\n\r\n")
    assert len(file.removesuffix(b"\r\n")) == FILE_BYTES


def test_answers_written_anew_are_told_from_others() -> None:
    anew = json.loads(ANSWER) | {"id": "another", "service_tier": None}
    assert says_the_same(json.dumps(anew, indent=1).encode(), ANSWER)
    anew["choices"][0]["message"]["content"] = "No."
    assert not says_the_same(json.dumps(anew).encode(), ANSWER)
    assert says_the_same(json.dumps(json.loads(FILE_ANSWER) | {"id": "f"}).encode(), FILE_ANSWER)
    assert not says_the_same(json.dumps(json.loads(FILE_ANSWER) | {"bytes": 1}).encode(), FILE_ANSWER)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"null", b"<html>", b'{"object":"chat.completion"}'])
def test_what_is_no_answer_says_something_else(body: bytes) -> None:
    assert not says_the_same(body, ANSWER)


STREAM = EVENT * 5 + LAST_EVENT


@given(st.lists(st.integers(1, len(STREAM) + 14), max_size=12), st.booleans())
def test_events_are_counted_however_the_body_is_cut(cuts: list[int], is_marked: bool) -> None:
    counter = EventCounter()
    whole = STREAM + (b"data: [DONE]\n\n" if is_marked else b"")
    edges = sorted({0, *(cut for cut in cuts if cut < len(whole)), len(whole)})
    total = sum(counter.feed(whole[start:end]) for start, end in pairwise(edges))
    assert total == counter.events == 6


@pytest.mark.parametrize("mode", [Mode(), Mode(0, 0.0, True), Mode(10, 1.5, False)])
def test_a_mode_comes_through_its_path(mode: Mode) -> None:
    assert Mode.parse(mode.path) == mode


def test_every_connection_of_every_round_has_its_own_address() -> None:
    addresses = {source(round_number, connection) for round_number in range(20) for connection in range(300)}
    assert len(addresses) == 20 * 300
    assert all(address.startswith("127.") for address in addresses)
    assert not any(address.endswith((".0", ".255")) for address in addresses)
