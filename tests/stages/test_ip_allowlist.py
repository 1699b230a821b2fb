"""ip_allowlist: who may speak. The cases follow the ways in which such lists have been got round."""

from __future__ import annotations

import pytest

from proxy.core.address import client_address, normalise_peer, parse_network
from proxy.core.messages import IP_NOT_ALLOWED, Sentence
from proxy.core.reply import Reply
from proxy.stages.ip_allowlist import IPAllowlist, IPAllowlistConfig
from tests.stages.configs import refusal
from tests.support.exchange import make_exchange, make_services

EMPTY = (
    "allow: Value error, an empty list would let nobody in; "
    "write allow: [any] to let everybody in, or leave the setting out"
)
NOT_AN_ADDRESS = "is not an IP address or a network like 10.0.0.0/8 or 2001:db8::/32"


def make(allow: list[str] | None = None, deny: list[str] | None = None) -> IPAllowlist:
    return IPAllowlist("ip_allowlist", IPAllowlistConfig(allow=allow, deny=deny or []), make_services())


def is_allowed(stage: IPAllowlist, client_ip: str) -> bool:
    reply = stage.on_request_headers(make_exchange(client_ip=client_ip))
    if reply is None:
        return True
    assert reply == Reply(403, "permission_error", "ip_not_allowed", (Sentence(IP_NOT_ALLOWED),))
    return False


class TestConfig:
    @pytest.mark.parametrize("field", ["allow", "deny"])
    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ("10.0.0.1/8", "'10.0.0.1/8' has bits set behind the prefix; did you mean 10.0.0.0/8?"),
            ("10.0.0.0/33", f"'10.0.0.0/33' {NOT_AN_ADDRESS}"),
            ("10.0.0.0/0.255.255.255", "'10.0.0.0/0.255.255.255': write the prefix length as a number, like"),
            ("10.0.0.0/255.0.0.0", "'10.0.0.0/255.0.0.0': write the prefix length as a number, like 10.0.0.0/8"),
            ("10", f"'10' {NOT_AN_ADDRESS}"),
            ("010.0.0.1", f"'010.0.0.1' {NOT_AN_ADDRESS}"),
            ("0x7f.1", f"'0x7f.1' {NOT_AN_ADDRESS}"),
            ("127.1", f"'127.1' {NOT_AN_ADDRESS}"),
            ("2130706433", f"'2130706433' {NOT_AN_ADDRESS}"),
            ("192.168", f"'192.168' {NOT_AN_ADDRESS}"),
            ("１.2.3.4", f"'１.2.3.4' {NOT_AN_ADDRESS}"),
            ("192.0.2.1\n", f"'192.0.2.1\\n' {NOT_AN_ADDRESS}"),
            ("ANY", f"'ANY' {NOT_AN_ADDRESS}"),
            ("*", f"'*' {NOT_AN_ADDRESS}"),
            ("", f"'' {NOT_AN_ADDRESS}"),
            ("localhost", f"'localhost' {NOT_AN_ADDRESS}"),
            ("192.0.2.1:80", f"'192.0.2.1:80' {NOT_AN_ADDRESS}"),
        ],
    )
    def test_bad_entries(self, field: str, entry: str, message: str) -> None:
        assert refusal(IPAllowlistConfig, **{field: ["192.0.2.1", entry]}).startswith(
            f"{field}: Value error, {message}"
        )

    @pytest.mark.parametrize("entry", [10, True, 0x7F000001, 192.168, None])
    def test_entries_are_text(self, entry: object) -> None:
        # YAML makes numbers of some addresses: a number must never become an address again.
        assert refusal(IPAllowlistConfig, allow=[entry]) == "allow.0: Input should be a valid string"
        assert refusal(IPAllowlistConfig, deny=[entry]) == "deny.0: Input should be a valid string"

    def test_lists_are_lists(self) -> None:
        assert refusal(IPAllowlistConfig, allow="10.0.0.0/8") == "allow: Input should be a valid list"
        assert refusal(IPAllowlistConfig, deny=None) == "deny: Input should be a valid list"

    def test_an_empty_allow_is_refused_and_an_empty_deny_is_not(self) -> None:
        assert refusal(IPAllowlistConfig, allow=[]) == EMPTY
        assert IPAllowlistConfig(deny=[]).deny == []

    @pytest.mark.parametrize(
        ("allow", "is_open"),
        [(None, True), (["any"], True), (["10.0.0.0/8", "any"], True), (["unix"], False), (["10.0.0.1"], False)],
    )
    def test_open_needs_an_absent_list_or_the_word(self, allow: list[str] | None, is_open: bool) -> None:
        assert IPAllowlistConfig(allow=allow).is_open is is_open


# fmt: off
VERDICTS: list[tuple[list[str] | None, list[str], list[str], list[str]]] = [
    # (allow, deny, who passes, who does not)
    (None, [], ["192.0.2.1", "2001:db8::1", "unix"], []),
    (["any"], [], ["192.0.2.1", "2001:db8::1", "unix"], []),
    (["10.0.0.0/8"], [], ["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0", "unix"]),
    (["10.1.2.3"], [], ["10.1.2.3"], ["10.1.2.2", "10.1.2.4"]),
    (["2001:db8::/33"], [], ["2001:db8::1", "2001:db8:7fff::"], ["2001:db8:8000::", "10.0.0.1"]),
    # one version's everything is not the other's
    (["0.0.0.0/0"], [], ["192.0.2.1"], ["2001:db8::1", "::1", "unix"]),
    (["::/0"], [], ["2001:db8::1"], ["192.0.2.1", "unix"]),
    # addresses that embed an allowed IPv4 address do not inherit its entry
    (["127.0.0.0/8", "10.0.0.0/8"], [], ["127.0.0.1"],
     ["64:ff9b::7f00:1", "2002:7f00:1::", "2001:0:7f00:1::", "::7f00:1", "::1"]),
    (["::ffff:10.0.0.0/104"], [], ["10.1.2.3"], ["11.0.0.1", "::a01:203"]),
    # a unix peer has no address: only its own word or `any` holds it
    (["unix"], [], ["unix"], ["127.0.0.1", "::1"]),
    (["10.0.0.1", "unix"], [], ["10.0.0.1", "unix"], ["10.0.0.2"]),
    # deny wins
    (["10.0.0.0/8"], ["10.1.0.0/16"], ["10.0.0.1"], ["10.1.0.1"]),
    (["10.1.2.3"], ["10.0.0.0/8"], [], ["10.1.2.3"]),
    (None, ["10.0.0.0/8"], ["11.0.0.1", "unix"], ["10.0.0.1"]),
    (["any"], ["any"], [], ["192.0.2.1", "unix"]),
    (["any"], ["unix"], ["192.0.2.1"], ["unix"]),
    # special ranges are nothing special
    (["10.0.0.0/8"], [], [], ["192.0.0.8", "127.0.0.1", "192.168.0.1", "169.254.1.1", "fe80::1"]),
]
# fmt: on


class TestVerdicts:
    @pytest.mark.parametrize(("allow", "deny", "passes", "refused"), VERDICTS)
    def test_who_may_speak(
        self, allow: list[str] | None, deny: list[str], passes: list[str], refused: list[str]
    ) -> None:
        stage = make(allow, deny)
        for _ in range(2):  # the second time from memory
            assert [ip for ip in passes + refused if is_allowed(stage, ip)] == passes

    @pytest.mark.parametrize("peer", ["::ffff:10.1.2.3", "10.1.2.3"])
    def test_a_mapped_peer_is_its_ipv4_self(self, peer: str) -> None:
        assert is_allowed(make(["10.0.0.0/8"]), normalise_peer(peer))

    def test_a_zone_does_not_matter(self) -> None:
        assert is_allowed(make(["fe80::1"]), normalise_peer("fe80::1%eth0"))

    @pytest.mark.parametrize(
        ("peer", "forwarded", "allowed"),
        [
            ("192.0.2.1", b"10.0.0.1", False),  # an untrusted peer names an allowed address
            ("172.16.0.1", b"10.0.0.1, 192.0.2.1", False),  # the client puts one in front of its own
            ("172.16.0.1", b"192.0.2.1, 10.0.0.1", True),
            ("172.16.0.1", b"10.0.0.1, unknown", False),
        ],
    )
    def test_forwarded_addresses_open_nothing(self, peer: str, forwarded: bytes, allowed: bool) -> None:
        client_ip = client_address(peer, [forwarded], (parse_network("172.16.0.0/12"),))
        exchange = make_exchange(
            ("Forwarded", "for=10.0.0.1"), ("X-Real-Ip", "10.0.0.1"), client_ip=client_ip, peer_ip=peer
        )
        assert (make(["10.0.0.0/8"]).on_request_headers(exchange) is None) is allowed

    def test_memory_of_verdicts_is_bounded_and_right(self) -> None:
        stage = make(["10.0.0.0/17"])
        for n in range(65536):
            if n % 4 == 0:
                assert is_allowed(stage, f"10.0.{n >> 8}.{n & 255}") is (n < 32768)
        assert stage._is_allowed.cache_info().currsize == 4096
        assert is_allowed(stage, "10.0.0.0")

    def test_nobody_elses_fields_are_touched(self) -> None:
        exchange = make_exchange(client_ip="192.0.2.1")
        make(["10.0.0.0/8"]).on_request_headers(exchange)
        assert exchange.reply is None
        assert exchange.status == 0


@pytest.mark.parametrize(
    ("allow", "deny", "explained"),
    [
        (None, [], "192.0.2.1 is in allow: any"),
        (["192.0.2.0/24"], [], "192.0.2.1 is in allow: 192.0.2.0/24"),
        (["10.0.0.0/8"], [], "192.0.2.1 is in no entry of allow"),
        (["any"], ["192.0.2.1"], "192.0.2.1 is in deny: 192.0.2.1/32"),
    ],
)
def test_explain(allow: list[str] | None, deny: list[str], explained: str) -> None:
    assert make(allow, deny).explain(make_exchange(client_ip="192.0.2.1")) == explained
