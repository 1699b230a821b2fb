"""The bench on sockets: its upstream as a process, in the clear and with TLS, held streams, and a gateway."""

from __future__ import annotations

import asyncio
import http.client
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from bench.client import Gateway, JSONClient, NewHeadClient, SSEClient, UploadClient
from bench.cpu import JSON, NEW_HEAD, UPLOAD, loaded
from bench.held import Held
from bench.latency import Latency
from bench.load import Load
from bench.memory import SILENT
from bench.peers.peer import Peer
from bench.peers.sluice import Sluice
from bench.process import Cores
from bench.request import ANSWER, CLIENT_KEY, FIELDS, JSON_TARGET, QUESTION, SERVER_KEY
from bench.section import Bench, Plan, check, difference
from bench.upstream_process import Upstream
from bench.workers import Workers


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    running = Upstream(tmp_path_factory.mktemp("upstream"), Cores.available().others)
    yield running
    running.process.stop()


def straight(upstream: Upstream, key: str = SERVER_KEY) -> Gateway:
    return Gateway(upstream.targets["plain"].port, {"Authorization": f"Bearer {key}"})


@pytest.mark.parametrize(
    ("kind", "counter"),
    [(JSONClient, "answers"), (NewHeadClient, "answers"), (SSEClient, "streams"), (UploadClient, "uploads")],
)
def test_both_ends_count_the_same(upstream: Upstream, kind: type[JSONClient | SSEClient], counter: str) -> None:
    async def main() -> None:
        before = upstream.counters()
        load = await Load.connect(kind, straight(upstream), 3, 1)
        tally = await load.run(0.1)
        load.close()
        check(tally, difference(upstream.counters(), before), counter)

    uvloop.run(main())


def test_no_head_is_the_same_as_one_before_where_that_is_measured() -> None:
    driver = Load()
    client, other = (NewHeadClient(driver, Gateway(4711)) for _ in range(2))
    sent = [each.next_request() for each in (client, other) for _ in range(100)]
    assert len(set(sent)) == 200
    assert {len(request) for request in sent} == {len(sent[0])}
    head, _, body = sent[0].partition(b"\r\n\r\n")
    assert re.fullmatch(rb"traceparent: 00-[0-9a-f]{32}-[0-9a-f]{16}-01", head.splitlines()[-1])
    assert body == QUESTION


def test_a_gateway_that_forwards_the_key_of_the_client_is_found_out(upstream: Upstream) -> None:
    async def main() -> None:
        before = upstream.counters()
        load = await Load.connect(JSONClient, straight(upstream, CLIENT_KEY), 2, 1)
        tally = await load.run(0.1)
        load.close()
        sent = difference(upstream.counters(), before)
        assert sent["refusals"] == 2
        with pytest.raises(RuntimeError, match="status 401"):
            check(tally, sent, "answers")

    uvloop.run(main())


def test_tls_is_for_who_trusts_the_authority_and_asks_for_localhost(upstream: Upstream) -> None:
    target = upstream.targets["tls"]
    context = ssl.create_default_context(cafile=str(target.ca))
    connection = http.client.HTTPSConnection("localhost", target.port, context=context, timeout=10)
    fields = dict(FIELDS) | {"Authorization": f"Bearer {SERVER_KEY}"}
    connection.request("POST", JSON_TARGET, QUESTION, fields)
    assert connection.getresponse().read() == ANSWER
    connection.close()
    stranger = http.client.HTTPSConnection("localhost", target.port, context=ssl.create_default_context(), timeout=10)
    with pytest.raises(ssl.SSLCertVerificationError):
        stranger.request("POST", JSON_TARGET, QUESTION, fields)
    stranger.close()


def test_held_streams_are_silent_until_told_otherwise_and_end_when_told(upstream: Upstream) -> None:
    async def main() -> None:
        before = upstream.counters()
        upstream.stream(SILENT)
        held = Held(straight(upstream), 1)
        await held.open(5)
        await held.open(3)
        assert difference(upstream.counters(), before)["events"] == 8
        upstream.beat(0.02)
        for _ in range(500):
            await asyncio.sleep(0.01)
            if held.tally.events >= 8 + 16:
                break
        upstream.finish()
        tally = await held.ended()
        upstream.stream()
        held.close()
        assert tally.answers == 8
        check(tally, difference(upstream.counters(), before), "streams")

    uvloop.run(main())


def test_a_refused_stream_is_said(upstream: Upstream) -> None:
    async def main() -> None:
        held = Held(straight(upstream, CLIENT_KEY), 1)
        with pytest.raises(RuntimeError, match=r"of 2 streams: status 401"):
            await held.open(2)
        held.close()

    uvloop.run(main())


class Mute(Peer):
    """It never forwards."""

    name = "mute"
    has_workers = False
    start_timeout_s = 0.1

    def configure(self) -> list[str]:
        return ["sleep", "60"]

    def version(self) -> str:
        return "1"


def test_a_run_measures_who_starts_and_says_who_does_not(upstream: Upstream, tmp_path: Path) -> None:
    plan = Plan(rounds=1, seconds=0.2, rate=50, pairs=1)
    bench = Bench([Mute, Sluice], plan, Cores.available(), tmp_path, upstream)

    async def main() -> None:
        (peer,) = bench.fleet("tls")
        for number, kind in enumerate((JSON, NEW_HEAD, UPLOAD), 1):
            sample, rss_bytes = await loaded(bench, peer, kind, "tls", number)
            bench.record(sample)
            assert sample.value is not None
            assert 1 < sample.value < 1e6
            assert rss_bytes > 10 * 2**20
        await Latency().measure(bench, "tls")
        bench.kinds.remove(Mute)
        await Workers().measure(bench, "plain")

    try:
        uvloop.run(main())
    finally:
        bench.close()
    assert [problem.partition(":")[0] for problem in bench.problems] == ["mute, tls"]
    assert list(bench.versions) == ["sluice"]
    assert [sample.figure for sample in bench.samples] == [
        *("json_us", "json_new_us", "upload_us"),
        *("added_p50_ms", "added_p99_ms"),
        *("one_worker_us", "two_workers_us", "second_worker"),
    ]
