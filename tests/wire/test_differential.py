"""What we accept, others read alike; what a proxy hands on to us, it and we count alike."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest

from bench.install import ensure
from proxy.gateway.worker import new_loop
from tests.corpus.cases import own_cases
from tests.corpus.differential import PROXIES, chain, compare, known_differences
from tests.support.corpus import Case, Outcome, Reading, Tier, Verdict, Way, judge_all
from tests.support.peers import H11Peer, peers

T = TypeVar("T")
TWO = (
    b"POST /v1/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab"
    b"POST /v1/b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n"
)
READ = [Reading("POST", "/v1/a", b"ab"), Reading("POST", "/v1/b", b"c")]
TWO_LENGTHS = b"POST /v1/a HTTP/1.1\r\nHost: a\r\nContent-Length: 2, 3\r\n\r\nabc"


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


async def read_by_all(data: bytes, wanted: int, *proxies: str) -> dict[str, list[Reading]]:
    """What each peer makes of these bytes."""
    async with peers(*proxies) as found:
        return {peer.name: await peer.read(data, wanted) for peer in found}


def test_what_the_peers_say_is_what_they_read() -> None:
    assert run(read_by_all(TWO, 2)) == {"h11": READ, "tornado": READ}
    assert run(read_by_all(TWO_LENGTHS, 0)) == {"h11": [], "tornado": []}
    assert run(H11Peer().read(TWO[:-7], 1)) == READ[:1]


def test_whatever_we_accept_is_read_alike_by_h11_and_tornado() -> None:
    async def work() -> list[str]:
        result = await compare(await judge_all(own_cases(), (Way.WHOLE,)))
        assert result.compared > 80
        return result.faults

    faults = run(work())
    assert not faults, "\n".join(faults)


def test_a_reading_of_our_own_is_a_fault() -> None:
    """The comparison can fail: here we claim a body that nobody else sees."""
    case = Case("a case", TWO, Tier.AMBIGUOUS)
    verdict = Verdict(case, {Way.WHOLE: Outcome(seen=[Reading("POST", "/v1/a", b"abc")])}, [])
    result = run(compare([verdict]))
    assert [fault.split(":")[1].split()[0] for fault in result.faults[:2]] == ["h11", "tornado"]
    assert "only 0 others" in result.faults[2]


def test_every_listed_difference_has_a_reason() -> None:
    assert all(len(reason) > 20 for reason in known_differences().values())
    names = {case.name for case in own_cases()}
    own = {name for name, _ in known_differences() if not name.startswith("request/")}
    assert own <= names


@pytest.mark.long
@pytest.mark.timeout(180)
def test_whatever_we_accept_is_read_alike_by_nginx_and_haproxy() -> None:
    ensure(PROXIES)

    async def work() -> list[str]:
        assert await read_by_all(TWO, 2, *PROXIES) == dict.fromkeys(("h11", "tornado", *PROXIES), READ)
        return (await compare(await judge_all(own_cases(), (Way.WHOLE,)), PROXIES)).faults

    faults = run(work())
    assert not faults, "\n".join(faults)


@pytest.mark.long
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", PROXIES)
def test_s20_a_proxy_and_the_gateway_behind_it_count_alike(name: str) -> None:
    ensure([name])
    result = run(chain(name, own_cases()))
    assert not result.faults, "\n".join(result.faults)
    assert result.passed_on > 100
