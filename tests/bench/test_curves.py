"""The curves of the bench: the verdict's arithmetic, the configurations, and a small run in this process."""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Awaitable, Callable

import pytest

from bench.curves import allowlist, chain, headers, keys, prompts
from bench.curves.gateway import Config, config, cpu_s
from bench.curves.load import get, load, numbered, post, refusals
from bench.curves.sampling import QUICK, Plan, asking, sample
from bench.curves.upstream import answer, start
from bench.curves.verdict import Curve, Point, added_exponent, document, judge, table
from bench.request import QUESTION
from proxy.core.address import parse_address, parse_network
from proxy.settings import load as load_settings
from proxy.wire.head import MAX_FIELDS
from tests.support.gateway import gateway

DECADES = (10, 100, 1000, 10_000)
BRIEF = Plan(rounds=2, seconds=0.02, warm_up_s=0.01)


def curve_of(cost: Callable[[int], float], sizes: tuple[int, ...] = DECADES) -> tuple[Point, ...]:
    return tuple(Point(x, cost(x)) for x in sizes)


@pytest.mark.parametrize(
    ("cost", "shape"),
    [
        (lambda x: 50.0, "flat"),
        (lambda x: 50.0 - math.log(x), "flat"),
        (lambda x: 50.0 + 2 * math.log10(x), "flat"),
        (lambda x: 50.0 + 4 * (x % 100 == 0), "flat"),
        (lambda x: 50.0 + x / 100, "at most linear"),
        (lambda x: 50.0 + x, "at most linear"),
        (lambda x: 50.0 + 20 * math.sqrt(x), "at most linear"),
        (lambda x: 50.0 + x * math.log(x) / 10, "at most linear"),
        (lambda x: 50.0 + x * x / 1000, "worse than linear"),
        (lambda x: 50.0 + x * x / 100_000, "worse than linear"),
        (lambda x: 50.0 + x**1.5, "worse than linear"),
    ],
)
def test_the_shape_is_that_of_the_function(cost: Callable[[int], float], shape: str) -> None:
    assert judge(curve_of(cost)).shape == shape


@pytest.mark.parametrize("sizes", [(4, 6, 8, 10, 12), (4, 8, 12), (1, 25, 100), (1, 10, 25, 50, 100)])
def test_a_base_cost_does_not_hide_the_exponent(sizes: tuple[int, ...]) -> None:
    assert added_exponent(curve_of(lambda x: 1000.0 + 500 * x, sizes)) == pytest.approx(1.0, abs=0.15)
    assert judge(curve_of(lambda x: 1000.0 + 500 * x, sizes)).shape == "at most linear"


@pytest.mark.parametrize("sign", [1, -1])
def test_noise_makes_no_linear_curve_worse(sign: int) -> None:
    jitter = {10: 1 - 0.04 * sign, 100: 1.0, 1000: 1 - 0.04 * sign, 10_000: 1 + 0.04 * sign}
    assert judge(curve_of(lambda x: (50.0 + x / 10) * jitter[x])).shape == "at most linear"


def test_growth_that_only_begins_at_the_end_is_not_flat() -> None:
    assert judge([Point(1, 50.0), Point(1_000_000, 75.0)]).shape == "flat"
    assert judge([Point(1, 50.0), Point(100_000, 50.0), Point(1_000_000, 75.0)]).shape == "at most linear"
    assert judge([Point(1, 50.0), Point(100_000, 50.0), Point(1_000_000, 1000.0)]).shape == "worse than linear"


def test_what_the_noise_may_hide_is_not_held_against_a_curve() -> None:
    # At 1,000 nothing can be told from chance, and it may be that a tenth of what is added later was there.
    assert judge(curve_of(lambda x: 50.0 + x * x / 2_000_000)).shape == "at most linear"


def test_two_points_are_judged_by_the_whole_cost() -> None:
    assert judge([Point(1, 10.0), Point(10, 100.0)]).shape == "at most linear"
    assert judge([Point(1, 10.0), Point(10, 1000.0)]).shape == "worse than linear"
    assert added_exponent([Point(1, 10.0), Point(10, 1000.0)]) == pytest.approx(2.0)


@pytest.mark.parametrize("points", [[], [Point(1, 1.0)], [Point(2, 1.0), Point(1, 1.0)], [Point(1, 1.0)] * 2])
def test_less_than_a_curve_has_no_shape(points: list[Point]) -> None:
    with pytest.raises(ValueError, match="two points or more"):
        judge(points)


LINEAR = Curve("prompts", "longer prompts", "KiB", curve_of(lambda x: 50.0 + x), per="KiB")


def test_a_table_has_a_row_for_each_point_and_a_verdict() -> None:
    title, head, *rows, verdict = table(LINEAR).splitlines()
    assert title == "prompts: longer prompts"
    assert head.split("  ")[-1].strip() == "µs per KiB"
    assert [row.split() for row in rows] == [
        ["10", "60.00", "1.00", "6.000"],
        ["100", "150.00", "2.50", "1.500"],
        ["1,000", "1,050.00", "17.50", "1.050"],
        ["10,000", "10,050.00", "167.50", "1.005"],
    ]
    assert verdict.strip().startswith("at most linear: the added cost grows with KiB to the power of 0.9")


def test_a_curve_that_is_worse_than_wanted_says_so() -> None:
    wanted = Curve("allowlist", "more networks", "networks", LINEAR.points, "flat")
    assert LINEAR.is_good
    assert not wanted.is_good
    assert "NOT GOOD ENOUGH, it is to be flat" in table(wanted)
    assert "NOT GOOD" not in table(LINEAR)


def test_the_document_is_json_with_every_point() -> None:
    (written,) = json.loads(json.dumps(document([LINEAR])))
    assert written["shape"] == "at most linear"
    assert written["points"][1] == {"x": 100, "cost_us": 150.0, "ratio": 2.5}
    assert written["is_good"] is True


def test_a_rough_plan_keeps_both_ends() -> None:
    assert QUICK.some((4, 6, 8, 10, 12)) == (4, 8, 12)
    assert QUICK.some((101, 200, 350, 500)) == (101, 200, 500)
    assert QUICK.some((1,)) == (1,)
    assert Plan().some((1, 2, 3)) == (1, 2, 3)


@pytest.mark.parametrize("stages", chain.STAGES)
def test_the_chains_load_and_have_their_length(stages: int) -> None:
    settings = load_settings(chain.settings(stages, 9), {}).settings
    assert len(settings.chain) == stages
    kinds = [settings.stages[name].type or name for name in settings.chain]
    assert kinds[-1] == "upstream"
    assert kinds.count("limit") == 1 + (stages - 4) // 2


@pytest.mark.parametrize(
    "wanted",
    [
        config(9),
        allowlist.settings(allowlist.networks(1000), 9),
        keys.settings("sliding", 9),
        keys.settings("gcra", 9),
    ],
    ids=["ordinary", "allowlist", "sliding", "gcra"],
)
def test_the_configurations_load(wanted: Config) -> None:
    settings = load_settings(wanted, {}).settings
    assert settings.chain == ["ip_allowlist", "limit", "key", "upstream"]


def test_the_networks_are_different_and_hold_the_clients() -> None:
    entries = allowlist.networks(10_000)
    assert len(set(entries)) == 10_000
    some = [parse_network(entry) for entry in entries[:10]]
    ask = allowlist.clients(entries[:10], None)
    named = {ask().split(b"X-Forwarded-For: ")[1].split(b"\r\n")[0].decode() for _ in range(200)}
    assert len(named) > 190
    assert all(any(parse_address(name) in network for network in some) for name in named)


def test_known_clients_are_few() -> None:
    ask = allowlist.clients(allowlist.networks(10), 5)
    assert len({ask() for _ in range(200)}) == 5


def test_every_key_is_another_address() -> None:
    assert len({keys.subject(number) for number in range(50_000)}) == 50_000
    assert parse_address(keys.subject(999_999)) in parse_network("10.0.0.0/8")


@pytest.mark.parametrize("algorithm", list(keys.SIZES))
def test_decisions_are_measured_on_keys_that_were_counted(algorithm: str) -> None:
    plan = Plan(rounds=1)
    points = keys.in_memory(algorithm, [300, 600], plan).points
    assert [point.x for point in points] == [300, 600]
    assert all(0 < point.cost_us < 10_000 for point in points)


def test_the_requests_have_the_size_they_are_measured_for() -> None:
    assert [len(prompts.prompt(kib)) for kib in (1, 10)] == [1024, 10_240]
    assert json.loads(prompts.prompt(1))["model"]
    assert get(1).count(b"\r\n") - 2 == 1
    assert get(500).count(b"\r\n") - 2 == 500
    assert answer(500).split(b"\r\n\r\n")[0].count(b"\r\n") == 500
    assert max(headers.FORWARDED) == MAX_FIELDS < min(headers.REFUSED)
    assert max(headers.REFUSED) == max(headers.ANSWERED) == headers.MOST


@pytest.mark.parametrize("lines", headers.FORWARDED)
def test_no_two_requests_of_a_size_have_the_same_head(lines: int) -> None:
    ask = numbered(get(lines))
    sent = [ask() for _ in range(100)]
    assert len(set(sent)) == 100
    assert {len(request) for request in sent} == {len(sent[0])}
    assert all(request.endswith(b"\r\n\r\n") and request.count(b"\r\n") - 2 == lines for request in sent)


def test_without_a_line_of_ours_nothing_is_numbered() -> None:
    with pytest.raises(ValueError, match="not an X-Line"):
        numbered(get(1))


def test_the_cpu_time_of_a_process_is_its_own() -> None:
    before, began = cpu_s(os.getpid()), time.process_time()
    while time.process_time() < began + 0.05:
        pass
    assert cpu_s(os.getpid()) - before == pytest.approx(time.process_time() - began, abs=0.03)
    with pytest.raises(RuntimeError, match="ended"):
        cpu_s(2**22 + 1)


async def in_process(settings: Config, use: Callable[[int], Awaitable[None]]) -> None:
    """Serve a configuration from here. The curves' gateways are processes, which take a second each to start."""
    upstream = await start()
    own = dict(settings) | {"limits": {"store": "memory"}}
    base_url = f"http://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/v1"
    stages = own["stages"]
    assert isinstance(stages, dict)
    own["stages"] = {**stages, "upstream": {"base_url": base_url}}
    async with gateway(base_url, **own, access_log={"enabled": False}) as worker:
        await use(int(worker.listener.urls[0].rpartition(":")[2].rstrip("/")))
    upstream.close()


def test_a_small_run_gives_a_point_for_each_size() -> None:
    async def use(port: int) -> None:
        sizes = {lines: asking(port, numbered(get(lines)), time.process_time, connections=2) for lines in (2, 50)}
        points = await sample(sizes, BRIEF)
        assert [point.x for point in points] == [2, 50]
        assert all(point.cost_us > 1 for point in points)
        assert await load(port, lambda: post(prompts.prompt(100)), 0.02, 1) >= 1
        assert await load(port, lambda: get(1, "/v1/lines/500"), 0.02, 1) >= 1
        assert await refusals(port, get(MAX_FIELDS + 1), 0.02) >= 1

    asyncio.run(in_process(config(9), use))


def test_an_answer_that_is_not_as_it_must_be_ends_the_run() -> None:
    async def use(port: int) -> None:
        with pytest.raises(RuntimeError, match=r"answers b'HTTP/1\.1 431 "):
            await load(port, lambda: get(MAX_FIELDS + 1), 0.02, 1)
        with pytest.raises(RuntimeError, match=r"answers b'HTTP/1\.1 200 "):
            await refusals(port, get(1).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), 0.02)
        with pytest.raises(RuntimeError, match=r"answers b'HTTP/1\.1 403 "):
            await load(port, lambda: post(QUESTION, "X-Forwarded-For: 192.0.2.1"), 0.02, 1)

    asyncio.run(in_process(allowlist.settings(["127.0.0.0/8"], 9), use))


def test_the_upstream_insists_on_the_server_key() -> None:
    async def use(port: int) -> None:
        with pytest.raises(RuntimeError, match=r"answers b'HTTP/1\.1 401 "):
            await load(port, lambda: post(QUESTION), 0.02, 1)

    own = config(9, key={})
    asyncio.run(in_process(own, use))
