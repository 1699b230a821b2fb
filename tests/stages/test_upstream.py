"""upstream: where requests go, and the exact bytes of the head they go with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from proxy.core.exchange import Exchange, Route
from proxy.core.headers import FORWARDING, HOP_BY_HOP
from proxy.core.messages import LOOP_DETECTED, Sentence
from proxy.core.reply import Reply
from proxy.stages.upstream import Upstream, UpstreamConfig
from tests.stages.configs import refusal
from tests.support.exchange import HOP_ID, make_exchange, make_services

OPENAI = b" HTTP/1.1\r\nHost: api.openai.com\r\nx-sluice-hop: " + HOP_ID + b"\r\n"
LENGTH = b"Content-Length: 2\r\n"
ACCOUNT = [("OpenAI-Organization", "org-1"), ("OpenAI-Project", "proj_1"), ("Cookie", "a=b")]


def make(base_url: str = "https://api.openai.com/v1", **fields: object) -> Upstream:
    return Upstream("upstream", UpstreamConfig.model_validate({"base_url": base_url, **fields}), make_services())


def head_lines(exchange: Exchange, framing: bytes = b"") -> list[bytes]:
    """The lines of the forwarded head after those the stage always begins with."""
    head = make().request_head(exchange, framing)
    assert head.endswith(b"\r\n\r\n")
    start, host, hop, *lines = head[:-4].split(b"\r\n")
    assert start == b"POST /v1/chat/completions HTTP/1.1"
    assert host == b"Host: api.openai.com"
    assert hop == b"x-sluice-hop: " + HOP_ID
    return lines


def with_key(exchange: Exchange, source: str) -> Exchange:
    exchange.credential_source = source
    exchange.credential = f"sk-{source}"
    exchange.authorization = f"Bearer sk-{source}".encode()
    return exchange


WRITE_LIKE = "base_url: Value error, write it like https://api.openai.com/v1"
EXTRAS = "base_url: Value error, user names, queries and fragments do not belong into base_url"
CHARACTERS = "base_url: Value error, spaces, control and non-ASCII characters do not belong into a URL"


class TestConfig:
    @pytest.mark.parametrize(
        ("base_url", "message"),
        [
            ("", CHARACTERS),
            (" https://h/v1", CHARACTERS),
            ("https://h/v1\r\nHost: evil", CHARACTERS),
            ("https://h/v1\n", CHARACTERS),
            ("https://пример/v1", CHARACTERS),
            ("https://h/\x7f", CHARACTERS),
            ("api.openai.com/v1", WRITE_LIKE),
            ("//api.openai.com/v1", WRITE_LIKE),
            ("ftp://h/v1", WRITE_LIKE),
            ("file:///etc/passwd", WRITE_LIKE),
            ("unix:/run/x.sock", WRITE_LIKE),
            ("https://", WRITE_LIKE),
            ("https:///v1", WRITE_LIKE),
            ("https://:443/v1", WRITE_LIKE),
            ("https://h:0/v1", WRITE_LIKE),
            ("https://user@h/v1", EXTRAS),
            ("https://user:pw@h/v1", EXTRAS),
            ("https://h/v1?key=1", EXTRAS),
            ("https://h/v1?", EXTRAS),
            ("https://h/v1#x", EXTRAS),
            ("https://h/v1#", EXTRAS),
        ],
    )
    def test_bad_base_urls(self, base_url: str, message: str) -> None:
        assert refusal(UpstreamConfig, base_url=base_url) == message

    @pytest.mark.parametrize(
        "base_url", ["https://h:99999/v1", "https://h:x/v1", "https://[::1/v1", "https://[g]/v1"]
    )
    def test_what_is_no_url_at_all(self, base_url: str) -> None:
        assert refusal(UpstreamConfig, base_url=base_url).startswith("base_url: Value error, not a URL: ")

    @pytest.mark.parametrize("name", ["connect_timeout_s", "first_byte_timeout_s", "idle_timeout_s"])
    @pytest.mark.parametrize("seconds", [0, -1])
    def test_times_are_positive(self, name: str, seconds: float) -> None:
        assert refusal(UpstreamConfig, **{name: seconds}) == f"{name}: Input should be greater than 0"

    @pytest.mark.parametrize(
        "name", ["connect_timeout_s", "first_byte_timeout_s", "idle_timeout_s", "pool_idle_timeout_s"]
    )
    @pytest.mark.parametrize("seconds", [float("nan"), float("inf"), float("-inf")])
    def test_times_are_finite(self, name: str, seconds: float) -> None:
        assert refusal(UpstreamConfig, **{name: seconds}) == f"{name}: Input should be a finite number"

    def test_other_bad_values(self) -> None:
        assert refusal(UpstreamConfig, base_url=1) == "base_url: Input should be a valid string"
        assert refusal(UpstreamConfig, idle_timeout_s="5") == "idle_timeout_s: Input should be a valid number"
        assert refusal(UpstreamConfig, idle_timeout_s=True) == "idle_timeout_s: Input should be a valid number"
        assert refusal(UpstreamConfig, ca_file=1) == "ca_file: Input should be a valid string"
        expected = "pool_idle_timeout_s: Input should be greater than or equal to 0"
        assert refusal(UpstreamConfig, pool_idle_timeout_s=-0.1) == expected

    def test_defaults_leave_time_to_think(self) -> None:
        config = UpstreamConfig()
        assert config.base_url == "https://api.openai.com/v1"
        assert config.connect_timeout_s == 5
        assert min(config.first_byte_timeout_s, config.idle_timeout_s) >= 900
        assert UpstreamConfig(pool_idle_timeout_s=0, connect_timeout_s=1).pool_idle_timeout_s == 0


class TestMapping:
    @pytest.mark.parametrize(
        ("base_url", "target", "start", "host"),
        [
            ("https://api.openai.com/v1", b"/v1/models", b"/v1/models", b"api.openai.com"),
            ("https://api.openai.com", b"/v1/models", b"/v1/models", b"api.openai.com"),
            ("https://api.openai.com/", b"/v1/models", b"/v1/models", b"api.openai.com"),
            ("https://api.openai.com/v1/", b"/v1/models", b"/v1/models", b"api.openai.com"),
            ("http://127.0.0.1:8000/api/openai", b"/v1/models", b"/api/openai/models", b"127.0.0.1:8000"),
            ("http://h/v2", b"/v1/models?limit=1&a=/v1/", b"/v2/models?limit=1&a=/v1/", b"h"),
            ("http://h/v2", b"/v1", b"/v2", b"h"),
            ("http://h/v2", b"/v1/", b"/v2/", b"h"),
            ("http://h/v2", b"/v1?x=1", b"/v2?x=1", b"h"),
            ("http://h/v2", b"/v1/a%2Fb%20c", b"/v2/a%2Fb%20c", b"h"),
            ("http://h/v2", b"/v1/v1/x", b"/v2/v1/x", b"h"),
            ("http://[::1]:9/v1", b"/v1/x", b"/v1/x", b"[::1]:9"),
        ],
    )
    def test_base_url_stands_for_v1(self, base_url: str, target: bytes, start: bytes, host: bytes) -> None:
        head = make(base_url).request_head(make_exchange(method="GET", target=target), b"")
        assert head == b"GET %b HTTP/1.1\r\nHost: %b\r\nx-sluice-hop: %b\r\n\r\n" % (start, host, HOP_ID)

    @pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
    def test_the_method_stays(self, method: str) -> None:
        assert make().request_head(make_exchange(method=method), b"").startswith(method.encode() + b" /v1/chat")

    @pytest.mark.parametrize(
        ("base_url", "is_openai"),
        [("https://api.openai.com/v1", True), ("https://API.OpenAI.com", True), ("https://h/api.openai.com", False)],
    )
    def test_openai_is_recognised(self, base_url: str, is_openai: bool) -> None:
        assert make(base_url).is_openai is is_openai


class TestHead:
    def test_exact_bytes(self) -> None:
        exchange = make_exchange(
            ("host", "gateway.example"),
            ("X-Stainless-Lang", "python"),
            ("authorization", "Bearer sk-client"),
            ("ACCEPT", "application/json"),
            ("x-dup", "1"),
            ("X-Other", ""),
            ("X-Dup", "2"),
            ("X-Bytes", "\xe9\xff"),
            ("Idempotency-Key", "k"),
            ("content-length", "2"),
        )
        assert make().request_head(exchange, LENGTH) == (
            b"POST /v1/chat/completions" + OPENAI + b"X-Stainless-Lang: python\r\n"
            b"authorization: Bearer sk-client\r\nACCEPT: application/json\r\nx-dup: 1\r\nX-Other: \r\nX-Dup: 2\r\n"
            b"X-Bytes: \xe9\xff\r\nIdempotency-Key: k\r\nContent-Length: 2\r\n\r\n"
        )

    @pytest.mark.parametrize("name", sorted(HOP_BY_HOP | FORWARDING | {b"host", b"content-length", b"expect"}))
    def test_lines_that_end_here(self, name: bytes) -> None:
        exchange = make_exchange((name, b"x"), (b"A", b"1"), (name.upper(), b"y"), (b"B", b"2"))
        assert head_lines(exchange) == [b"A: 1", b"B: 2"]

    @pytest.mark.parametrize("source", ["", "client", "server"])
    def test_lines_named_by_connection_end_here_and_ours_do_not(self, source: str) -> None:
        named = "close, X-Secret , authorization, x-sluice-hop, host, content-length"
        exchange = make_exchange(
            ("Connection", named), ("x-secret", "1"), ("Authorization", "Bearer sk-old"), ("A", "1")
        )
        if source:
            with_key(exchange, source)
        # A client cannot have its own credential taken out either: the request would mean something else.
        credential = [b"Authorization: Bearer sk-" + (source or "old").encode()]
        assert head_lines(exchange, LENGTH) == [*credential, b"A: 1", b"Content-Length: 2"]

    def test_without_a_key_stage_the_clients_line_stays(self) -> None:
        exchange = make_exchange(("A", "1"), ("AUTHORIZATION", "Basic x"), *ACCOUNT)
        assert head_lines(exchange) == [
            b"A: 1", b"AUTHORIZATION: Basic x", b"OpenAI-Organization: org-1", b"OpenAI-Project: proj_1",
            b"Cookie: a=b",
        ]  # fmt: skip

    def test_a_clients_key_from_elsewhere_replaces_the_line_and_keeps_the_account(self) -> None:
        exchange = with_key(make_exchange(("authorization", "Bearer dummy"), ("A", "1"), *ACCOUNT), "client")
        assert head_lines(exchange) == [
            b"Authorization: Bearer sk-client", b"A: 1", b"OpenAI-Organization: org-1", b"OpenAI-Project: proj_1",
            b"Cookie: a=b",
        ]  # fmt: skip

    def test_a_servers_key_leaves_nothing_of_the_clients_account(self) -> None:
        lines = [("Authorization", "Bearer dummy"), ("authorization", "Bearer twice"), ("A", "1"), *ACCOUNT]
        exchange = with_key(make_exchange(*lines), "server")
        assert head_lines(exchange, LENGTH) == [b"Authorization: Bearer sk-server", b"A: 1", b"Content-Length: 2"]

    @given(
        names=st.lists(
            st.sampled_from(["A", "a", "B-c", "Authorization", "Cookie", "Host", "TE", "X-Real-Ip", "Expect"]),
            max_size=8,
        ),
        source=st.sampled_from(["", "client", "server"]),
    )
    def test_one_credential_one_host_and_the_rest_in_order(self, names: list[str], source: str) -> None:
        exchange = make_exchange(*((name, str(n)) for n, name in enumerate(names)))
        if source:
            with_key(exchange, source)
        lines = head_lines(exchange)
        gone = {"host", "te", "x-real-ip", "expect"} | ({"authorization"} if source else set())
        gone |= {"cookie"} if source == "server" else set()
        kept = [f"{name}: {n}".encode() for n, name in enumerate(names) if name.lower() not in gone]
        ours = [f"Authorization: Bearer sk-{source}".encode()] if source else []
        assert lines == ours + kept

    def test_the_exchange_is_left_as_it_was(self) -> None:
        exchange = with_key(make_exchange(("Authorization", "Bearer dummy"), ("Connection", "a")), "server")
        make().request_head(exchange, b"")
        assert list(exchange.headers.pairs()) == [("Authorization", "Bearer dummy"), ("Connection", "a")]


class TestChatHead:
    @pytest.mark.parametrize(("base_url", "path"), [("https://h", b"/v1"), ("https://h/x", b"/x")])
    def test_exact_bytes(self, base_url: str, path: bytes) -> None:
        assert make(base_url).chat_head(b"Bearer sk", b"sluice/1", 123) == (
            b"POST " + path + b"/chat/completions HTTP/1.1\r\nHost: h\r\nx-sluice-hop: " + HOP_ID + b"\r\n"
            b"Authorization: Bearer sk\r\nContent-Type: application/json\r\nAccept: application/json\r\n"
            b"Accept-Encoding: identity\r\nUser-Agent: sluice/1\r\nContent-Length: 123\r\n\r\n"
        )

    @pytest.mark.parametrize("authorization", [None, b""])
    def test_without_a_credential_there_is_no_line(self, authorization: bytes | None) -> None:
        assert b"Authorization" not in make().chat_head(authorization, b"sluice/1", 0)


class TestLoops:
    LOOP = Reply(508, "invalid_request_error", "loop_detected", (Sentence(LOOP_DETECTED),))

    def test_our_own_mark_is_recognised_on_any_line(self) -> None:
        stage = make()
        assert stage.on_request_headers(make_exchange(("X-Sluice-Hop", HOP_ID.decode()))) == self.LOOP
        two = make_exchange(("x-sluice-hop", "other"), ("x-sluice-hop", HOP_ID.decode()))
        assert stage.on_request_headers(two) == self.LOOP

    @pytest.mark.parametrize("hops", [[], ["other"], ["other", "another"], [HOP_ID.decode()[:-1]]])
    def test_other_gateways_are_no_loop_and_their_marks_stay(self, hops: list[str]) -> None:
        exchange = make_exchange(*(("x-sluice-hop", hop) for hop in hops))
        assert make().on_request_headers(exchange) is None
        assert head_lines(exchange) == [f"x-sluice-hop: {hop}".encode() for hop in hops]

    def test_a_loop_over_another_gateway_is_seen(self) -> None:
        # What we forwarded comes back, with the other's mark added.
        sent = make().request_head(make_exchange(), b"").split(b"\r\n")[1:-2]
        lines = [(name, value) for name, _, value in (line.partition(b": ") for line in sent)]
        back = make_exchange((b"x-sluice-hop", b"other"), *lines)
        assert make().on_request_headers(back) == self.LOOP


@pytest.mark.parametrize(
    ("base_url", "route", "explained"),
    [
        ("https://h/v2", Route.API, "POST goes to https://h:443/v2/files"),
        ("http://h:81", Route.API, "POST goes to http://h:81/v1/files"),
        ("http://h:81", Route.CHAT, "POST goes to http://h:81/v1/chat/completions"),
    ],
)
def test_explain(base_url: str, route: Route, explained: str) -> None:
    exchange = make_exchange(target=b"/v1/files?key=secret", route=route)
    assert make(base_url).explain(exchange) == explained


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/v1",
        "http://169.254.169.254./v1",
        "http://[fd00:ec2::254]/v1",
        "http://metadata.google.internal/v1",
        "http://127.1/v1",
        "http://2130706433/v1",
        "http://0x7f000001/v1",
        "http://010.0.0.1/v1",
    ],
)
def test_metadata_services_and_odd_ways_to_write_an_address_are_no_upstream(url: str) -> None:
    with pytest.raises(ValidationError):
        UpstreamConfig(base_url=url)


@pytest.mark.parametrize(
    "url", ["http://169.254.7.9/v1", "http://10.0.0.1:8080/v1", "http://[::1]/v1", "http://gpu-1/v1"]
)
def test_other_places_near_by_are(url: str) -> None:
    assert UpstreamConfig(base_url=url).base_url == url
