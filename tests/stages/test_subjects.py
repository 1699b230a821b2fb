"""Whom a limit counts: subjects, exceptions, and the addresses that unverified keys come from."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.exchange import Exchange, Route
from proxy.core.rate import Claim
from proxy.limits.memory import MemoryStore
from proxy.stages.limit_rules import LimitRule
from proxy.stages.subject_names import key_id
from proxy.stages.subjects import Subjects
from tests.support.clock import FakeClock
from tests.support.exchange import make_exchange

ADDRESS = "192.0.2.1"
MINE = key_id("sk-mine")
KNOWN = f"sha256:{MINE}"


def make(**fields: object) -> Subjects:
    return Subjects("limit", LimitRule.model_validate({"hour": 10} | fields))


def claimed(subjects: Subjects, exchange: Exchange | None = None, **parts: Any) -> list[tuple[str, str, list[int]]]:
    """(rule, subject, limits of its windows) of each claim of an exchange."""
    asked = exchange or make_exchange(**parts)
    return [(rule.name, subject, [w.limit for w in rule.windows]) for rule, subject in subjects.claims(asked)]


class TestByAddress:
    @pytest.mark.parametrize(
        ("one", "other", "shared"),
        [
            ("192.0.2.1", "192.0.2.2", False),
            ("2001:db8::1", "2001:db8::ffff:1", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("unix", "unix", True),
            ("unix", "192.0.2.1", False),
        ],
    )
    def test_who_shares_a_limit(self, one: str, other: str, shared: bool) -> None:
        subjects = make()
        assert (subjects.claims_of_address(one) == subjects.claims_of_address(other)) is shared

    def test_ten_thousand_addresses_of_one_network_are_one_subject(self) -> None:
        subjects = make()
        assert len({subjects.claims_of_address(f"2001:db8:1:2::{n:x}")[0].subject for n in range(1, 10_001)}) == 1
        assert len({make(ipv6_prefix=128).claims_of_address(f"2001:db8::{n:x}")[0] for n in range(1, 11)}) == 10

    def test_nothing_but_the_address_counts(self) -> None:
        subjects = make()
        assert subjects.is_by_address
        assert not subjects.needs_credential
        plain = claimed(subjects)
        assert plain == [("limit", ADDRESS, [10])]
        assert claimed(subjects, credential="sk-mine", target=b"/v1/models") == plain

    @pytest.mark.parametrize(
        ("exempt", "client_ip", "is_exempt"),
        [
            (["10.0.0.0/8"], "10.1.2.3", True),
            (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
            (["10.0.0.0/8"], ADDRESS, False),
            (["10.0.0.0/8"], "unix", False),
            (["unix"], "unix", True),
            (["unix"], "10.1.2.3", False),
            (["unix", "fd00::/8"], "fd00::1", True),
            # Narrower than what is counted: the others of that network still are.
            (["2001:db8::1"], "2001:db8::1", True),
            (["2001:db8::1"], "2001:db8::2", False),
        ],
    )
    def test_the_exempt_claim_nothing(self, exempt: list[str], client_ip: str, is_exempt: bool) -> None:
        assert (make(exempt=exempt).claims_of_address(client_ip) == ()) is is_exempt

    @pytest.mark.parametrize(
        ("client_ip", "limit"), [(ADDRESS, 10), ("10.9.9.9", 100), ("10.1.9.9", 1000), ("10.1.2.3", 5), ("unix", 7)]
    )
    def test_the_narrowest_override_counts(self, client_ip: str, limit: int) -> None:
        networks = {"10.0.0.0/8": 100, "10.1.2.3": 5, "10.1.0.0/16": 1000, "unix": 7}
        subjects = make(overrides={network: {"hour": hour} for network, hour in networks.items()})
        assert claimed(subjects, client_ip=client_ip) == [("limit", client_ip, [limit])]

    def test_an_override_may_be_no_limit_at_all_or_the_only_one(self) -> None:
        assert make(overrides={"10.0.0.0/8": {"hour": 0}}).claims_of_address("10.1.2.3") == ()
        subjects = make(hour=0, overrides={"10.0.0.0/8": {"day": 3}})
        assert subjects.counts
        assert subjects.rules == ()
        assert subjects.claims_of_address(ADDRESS) == ()
        assert claimed(subjects, client_ip="10.1.2.3") == [("limit", "10.1.2.3", [3])]
        assert not make(hour=0, overrides={"10.0.0.0/8": {"day": 0}}).counts


class TestByCredential:
    def test_a_key_pays_for_itself_and_for_its_address(self) -> None:
        subjects = make(by="credential", keys_per_ip=3)
        assert subjects.needs_credential
        assert claimed(subjects, credential="sk-mine") == [("limit", MINE, [10]), ("limit.address", ADDRESS, [30])]

    @pytest.mark.parametrize("source", ["server", None])
    def test_who_has_no_key_of_his_own_is_known_by_his_address(self, source: str | None) -> None:
        exchange = make_exchange(credential="sk-server")
        exchange.credential_source = source
        assert claimed(make(by="credential"), exchange) == [("limit.address", ADDRESS, [10])]

    def test_made_up_keys_share_the_address_they_come_from(self) -> None:
        subjects = make(by="credential")
        made_up = [claimed(subjects, credential=f"sk-{number}") for number in range(50)]
        assert len({own[1] for own, _ in made_up}) == 50
        assert {of_address[:2] for _, of_address in made_up} == {("limit.address", ADDRESS)}

    def test_a_key_with_numbers_of_its_own_is_known_and_does_not_pay_for_its_address(self) -> None:
        subjects = make(by="credential", overrides={KNOWN + "0123": {"hour": 500}, "10.0.0.0/8": {"hour": 20}})
        for client_ip in (ADDRESS, "10.1.2.3"):
            exchange = make_exchange(credential="sk-mine", client_ip=client_ip)
            assert claimed(subjects, exchange) == [("limit", MINE, [500])]
        exchange = make_exchange(credential="sk-other", client_ip="10.1.2.3")
        assert [limits for _, _, limits in claimed(subjects, exchange)] == [[20], [20]]

    def test_a_key_can_be_exempt_of_any_limit(self) -> None:
        for by in ("client_ip", "credential", ["path"]):
            subjects = make(by=by, exempt=[KNOWN])
            assert subjects.needs_credential
            assert not subjects.is_by_address
            assert claimed(subjects, credential="sk-mine") == []
            assert claimed(subjects, credential="sk-other") != []
            assert claimed(subjects) != []

    def test_a_key_is_no_text_of_the_clients(self) -> None:
        for credential in ("{x}", "a:b", "\r\n", "k" * 10_000, "10.0.0.1"):
            (_, subject, _), _ = claimed(make(by="credential"), credential=credential)
            assert len(subject) == 32
            assert set(subject) <= set("0123456789abcdef")

    def test_nor_do_the_shares_of_one_host(self) -> None:
        subjects = make(
            by="credential",
            hour=0,
            second=1,
            overrides={"10.0.0.0/8": {"second": 0, "hour": 100}},
            on_store_error="local",
        )
        clock = FakeClock()
        store = MemoryStore(clock)
        inside, outside = (
            Claim(subjects.claims(exchange)[0].rule.share(2), MINE)
            for exchange in (
                make_exchange(credential="sk-mine", client_ip="10.0.0.1"),
                make_exchange(credential="sk-mine"),
            )
        )
        assert [store.acquire((inside,)).allowed for _ in range(51)] == [True] * 50 + [False]
        clock.advance(1)
        assert store.acquire((outside,)).allowed
        assert not store.acquire((inside,)).allowed, "the hour's share is used up, wherever the key was used since"

    def test_rules_that_ask_one_account_by_turns_forget_nothing_of_each_other(self) -> None:
        overrides = {"10.0.0.0/8": {"hour": 1000}, "10.1.0.0/16": {"hour": 0, "day": 5}}
        rules = [
            make(by="credential", overrides=overrides)
            .claims(make_exchange(credential="sk-mine", client_ip=client_ip))[0]
            .rule
            for client_ip in (ADDRESS, "10.9.9.9", "10.1.2.3")
        ]
        assert [rule.capacity for rule in rules] == [1000] * 3
        assert [rule.longest_s for rule in rules] == [86_400] * 3
        # An address has one rule only.
        by_address = make(overrides=overrides)
        assert [by_address.claims_of_address(ip)[0].rule.capacity for ip in (ADDRESS, "10.9.9.9")] == [10, 1000]


class TestByPath:
    def test_a_path_counts_for_everybody(self) -> None:
        subjects = make(by="path")
        assert claimed(subjects, target=b"/v1/models?x") == [("limit", "/v1/models", [10])]
        assert claimed(subjects, target=b"/v1/%6dodels/", client_ip="10.0.0.1", credential="sk-a") == [
            ("limit", "/v1/models", [10])
        ]

    def test_the_chat_route_is_where_it_leads(self) -> None:
        subjects = make(by="path")
        ways = [make_exchange(target=target, route=Route.CHAT) for target in (b"/", b"/api", b"/api/")]
        assert {subjects.claims(way) for way in ways} == {subjects.claims(make_exchange())}

    def test_an_override_of_a_path_is_found_however_it_is_written(self) -> None:
        subjects = make(by="path", overrides={"/v1/Models/": {"hour": 99}})
        assert claimed(subjects, target=b"/v1//models;x?y") == [("limit", "/v1/models", [99])]
        assert claimed(subjects, target=b"/v1/models/gpt-4") == [("limit", "/v1/models/gpt-4", [10])]


class TestTuples:
    def test_each_combination_is_a_subject(self) -> None:
        subjects = make(by=["path", "credential", "client_ip"])
        exchange = make_exchange(target=b"/v1/models", credential="sk-mine")
        assert claimed(subjects, exchange) == [
            ("limit", f"{ADDRESS} {MINE} /v1/models", [10]),
            ("limit.address", f"{ADDRESS} /v1/models", [10]),
        ]
        assert claimed(make(by=["path", "client_ip"]), exchange) == [("limit", f"{ADDRESS} /v1/models", [10])]

    def test_an_address_alone_is_called_as_it_is_for_the_address_of_keys(self) -> None:
        subjects = make(by=["client_ip", "credential"])
        claims = claimed(subjects, credential="sk-mine", client_ip="2001:db8::5")
        assert claims == [("limit", f"2001:db8::/64 {MINE}", [10]), ("limit.address", "2001:db8::/64", [10])]

    @given(paths=st.lists(st.binary(max_size=12), min_size=2, max_size=2, unique=True))
    def test_no_two_subjects_are_called_the_same(self, paths: list[bytes]) -> None:
        subjects = make(by=["client_ip", "path"])
        named: set[tuple[str, str]] = set()
        texts: set[str] = set()
        for client_ip in ("10.0.0.1", "10.0.0.11", "unix"):
            for path in paths:
                exchange = make_exchange(target=b"/v1/" + path.replace(b"?", b""), client_ip=client_ip)
                subject = subjects.claims(exchange)[0].subject
                texts.add(subject)
                named.add((client_ip, subject.partition(" ")[2]))
        assert len(texts) == len(named)

    def test_key_then_address_then_path_decide_which_override_counts(self) -> None:
        overrides = {KNOWN: {"hour": 1}, "10.0.0.0/8": {"hour": 2}, "/v1/models": {"hour": 3}}
        subjects = make(by=["credential", "path"], overrides=overrides)

        def limits(**parts: Any) -> list[int]:
            return [limit for _, _, (limit,) in claimed(subjects, **parts)]

        assert limits(target=b"/v1/models", credential="sk-mine", client_ip="10.1.1.1") == [1]
        assert limits(target=b"/v1/models", credential="sk-other", client_ip="10.1.1.1") == [2, 2]
        # What holds for a path holds for the address that asks for it, too: else that would refuse first.
        assert limits(target=b"/v1/models", credential="sk-other") == [3, 3]
        assert limits(target=b"/v1/models") == [3]
        assert limits(target=b"/v1/x", credential="sk-other") == [10, 10]


class TestNamed:
    """Subjects as operators name them."""

    def test_a_named_subject_is_the_one_that_is_counted(self) -> None:
        subjects = make(by=["credential", "path"], overrides={KNOWN: {"hour": 5}})
        own, of_address = subjects.claims(make_exchange(credential="sk-other", target=b"/v1/models"))
        assert list(subjects.claims_of({"credential": key_id("sk-other"), "path": "/v1/models"})) == [own]
        assert list(subjects.claims_of({"client_ip": ADDRESS, "path": "/v1/models"})) == [of_address]
        (known,) = subjects.claims_of({"credential": MINE, "path": "/v1/models"})
        assert (known.subject, known.rule.windows[0].limit) == (f"{MINE} /v1/models", 5)

    @pytest.mark.parametrize("given", [{}, {"path": "/v1/x"}, {"client_ip": ADDRESS, "credential": MINE}])
    def test_who_is_not_counted_has_no_claim(self, given: dict[str, str]) -> None:
        assert list(make(by="credential").claims_of(given)) == []

    def test_without_numbers_there_is_no_claim(self) -> None:
        subjects = make(hour=0, overrides={"10.0.0.0/8": {"day": 3}})
        assert list(subjects.claims_of({"client_ip": ADDRESS})) == []
        assert [claim.subject for claim in subjects.claims_of({"client_ip": "10.1.1.1"})] == ["10.1.1.1"]


@pytest.mark.parametrize(
    ("fields", "exchange", "explained"),
    [
        ({"second": 1}, {}, "192.0.2.1 may send 1 per second, 10 per hour"),
        ({"exempt": ["192.0.2.0/24"]}, {}, "192.0.2.1 is exempt (192.0.2.0/24)"),
        ({"exempt": [KNOWN]}, {"credential": "sk-mine"}, f"the key is exempt ({KNOWN})"),
        ({"overrides": {"192.0.2.0/24": {"hour": 5}}}, {}, "192.0.2.1 may send 5 per hour (overrides: 192.0.2.0/24)"),
        ({"overrides": {"192.0.2.0/24": {"hour": 0}}}, {}, "192.0.2.1 has no limit (overrides: 192.0.2.0/24)"),
        ({"hour": 0, "overrides": {"10.0.0.0/8": {"hour": 1}}}, {}, "192.0.2.1 has no limit"),
        ({"by": "credential"}, {}, "192.0.2.1 may send 10 per hour"),
        (
            {"by": "credential", "keys_per_ip": 2},
            {"credential": "sk-mine"},
            "the key may send 10 per hour, and 192.0.2.1 may send 20 per hour",
        ),
        (
            {"by": ["credential", "path"], "overrides": {KNOWN: {"hour": 5}}},
            {"credential": "sk-mine", "target": b"/v1/models?x"},
            f"the key on /v1/models may send 5 per hour (overrides: {KNOWN})",
        ),
        (
            {"by": ["client_ip", "path"], "overrides": {"/v1/models/": {"hour": 5}}},
            {"target": b"/v1/models"},
            "192.0.2.1 on /v1/models may send 5 per hour (overrides: /v1/models/)",
        ),
        (
            {"by": "path"},
            {"target": b"/v1/models"},
            "/v1/models is asked at most 10 per hour",
        ),
    ],
)
def test_explain(fields: dict[str, object], exchange: dict[str, Any], explained: str) -> None:
    assert make(**fields).explain(make_exchange(**exchange)) == explained
