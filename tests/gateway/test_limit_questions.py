"""What operators ask about limits, answered by a chain with a store in memory."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from proxy.core.chain import Chain
from proxy.core.rate import Claim, Claims, Decision
from proxy.gateway.limit_questions import LimitQuestions, parse_subject
from proxy.limits.memory import MemoryStore
from proxy.limits.store import Standing, StoreError
from proxy.stages import build
from proxy.stages.key import KeyConfig
from proxy.stages.limit import LimitConfig
from proxy.stages.subjects import key_id
from proxy.stages.upstream import UpstreamConfig
from tests.support.clock import FakeClock
from tests.support.exchange import make_exchange, make_services

KEY = "sk-somebodys-key"
LIMIT = {
    "minute": 3,
    "limits": {
        "per_key": {"by": "credential", "hour": 10},
        "per_path": {"by": ["client_ip", "path"], "second": 2},
    },
}


class LaterStore(MemoryStore):
    """Answers later, as a store behind a socket does."""

    def acquire(self, claims: Claims) -> Decision:
        return super().acquire(claims)

    def standing(self, claim: Claim) -> Any:
        async def later() -> Standing:
            return MemoryStore.standing(self, claim)

        return later()

    def reset(self, claim: Claim) -> Any:
        async def later() -> bool:
            return MemoryStore.reset(self, claim)

        return later()


class BrokenStore(MemoryStore):
    def standing(self, claim: Claim) -> Standing:
        raise StoreError("the store is away")


@pytest.fixture(params=[MemoryStore, LaterStore])
def asked(request: pytest.FixtureRequest) -> LimitQuestions:
    """The questions of a chain that has passed one request of a key from an address to a path."""
    clock = FakeClock()
    store = request.param(clock)
    services = make_services(clock, store)
    stages = {
        "key": KeyConfig(),
        "limit": LimitConfig.model_validate(LIMIT),
        "upstream": UpstreamConfig(),
    }
    chain = Chain(build(name, config, services) for name, config in stages.items())
    exchange = make_exchange(
        ("Authorization", f"Bearer {KEY}"), client_ip="203.0.113.7", target=b"/v1/embeddings?x=1"
    )
    assert chain.proceed(exchange) is None
    return LimitQuestions(chain, store)


def show(asked: LimitQuestions, subject: str) -> list[tuple[str, int, int, bool]]:
    answer = asyncio.run(asked.show({"subject": subject}))
    return [(one["limit"], one["remaining"], one["requests"], one["seen"]) for one in answer["limits"]]


def test_an_address_stands_with_its_own_limits_and_with_those_of_the_keys_it_sends(asked: LimitQuestions) -> None:
    assert show(asked, "203.0.113.7") == [("limit.minute", 2, 3, True), ("limit.per_key.address.hour", 9, 10, True)]
    assert show(asked, "203.0.113.8") == [
        ("limit.minute", 3, 3, False),
        ("limit.per_key.address.hour", 10, 10, False),
    ]
    assert show(asked, "client_ip=203.0.113.7") == show(asked, "203.0.113.7")


@pytest.mark.parametrize(
    "subject", [f"sha256:{key_id(KEY)}", f"credential={KEY}", f"credential=sha256:{key_id(KEY)}00"]
)
def test_a_key_is_found_by_itself_and_by_its_hash(asked: LimitQuestions, subject: str) -> None:
    assert show(asked, subject) == [("limit.per_key.hour", 9, 10, True)]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1//embeddings/", "/v1/%65mbeddings?y=2"])
def test_a_limit_by_several_parts_is_asked_with_all_of_them(asked: LimitQuestions, path: str) -> None:
    assert show(asked, f"path={path},client_ip=203.0.113.7") == [("limit.per_path.second", 1, 2, True)]


def test_what_is_shown_is_plain_data(asked: LimitQuestions) -> None:
    answer = asyncio.run(asked.show({"subject": "203.0.113.7"}))
    assert answer["limits"][0] == {
        "limit": "limit.minute",
        "subject": "203.0.113.7",
        "requests": 3,
        "window_s": 60,
        "remaining": 2,
        "reset_s": 60.0,
        "seen": True,
    }


def test_showing_charges_nothing_and_resetting_forgets(asked: LimitQuestions) -> None:
    for _ in range(5):
        show(asked, "203.0.113.7")
    forgotten = asyncio.run(asked.reset({"subject": "203.0.113.7"}))
    assert forgotten == {"forgotten": ["limit", "limit.per_key.address"]}
    assert show(asked, "203.0.113.7")[0] == ("limit.minute", 3, 3, False)
    assert asyncio.run(asked.reset({"subject": "203.0.113.7"})) == {"forgotten": []}
    assert show(asked, f"credential={KEY}") == [("limit.per_key.hour", 9, 10, True)], "another subject"


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("/v1/embeddings", "no limit counts by path; they count by client_ip, client_ip+path, credential"),
        ("nobody", "is not an IP address"),
        ("", "is not an IP address"),
        ("client_ip=203.0.113.7,colour=red", "write parts like"),
        ("client_ip=203.0.113.7,client_ip=203.0.113.8", "each once"),
        ("path=v1", "a path begins with /"),
        ("sha256:abc", "32 or more hexadecimal digits"),
        ("sha256:" + "Z" * 32, "32 or more hexadecimal digits"),
    ],
)
def test_what_cannot_be_meant_is_said(asked: LimitQuestions, subject: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        asyncio.run(asked.show({"subject": subject}))


def test_without_a_limit_there_is_nothing_to_count_by() -> None:
    services = make_services()
    chain = Chain([build("limit", LimitConfig(), services), build("upstream", UpstreamConfig(), services)])
    with pytest.raises(ValueError, match="nothing: no limit is set"):
        asyncio.run(LimitQuestions(chain, services.store).show({"subject": "203.0.113.7"}))


def test_a_store_that_is_away_is_not_taken_for_a_bad_question() -> None:
    store = BrokenStore(FakeClock())
    services = make_services(store=store)
    chain = Chain([build("limit", LimitConfig(minute=1), services), build("upstream", UpstreamConfig(), services)])
    answer = asyncio.run(LimitQuestions(chain, store).show({"subject": "203.0.113.7"}))
    assert answer == {"unavailable": "the store is away"}


def test_addresses_are_written_as_they_are_counted() -> None:
    assert parse_subject("::ffff:203.0.113.7") == {"client_ip": "203.0.113.7"}
    assert parse_subject("unix") == {"client_ip": "unix"}
