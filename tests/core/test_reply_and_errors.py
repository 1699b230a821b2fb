"""Replies and failures: statuses, OpenAI's types and codes, and what the caller may be told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from proxy.core import errors
from proxy.core.errors import (
    ConnectError,
    ConnectTimeout,
    GatewayError,
    NoCapacity,
    ProtocolError,
    ReadTimeout,
    Stopping,
    UpstreamError,
)
from proxy.core.messages import (
    FIELD_REQUIRED,
    INVALID_JSON,
    NOT_FOUND,
    STOPPING,
    UPSTREAM_CONNECT,
    UPSTREAM_CONNECT_TIMEOUT,
    UPSTREAM_NO_CAPACITY,
    UPSTREAM_PROTOCOL,
    UPSTREAM_TIMEOUT,
    Message,
    Sentence,
)
from proxy.core.reply import INVALID_REQUEST, SERVER_ERROR, Reply, invalid_request

FAILURES = [
    (UpstreamError, 502, "upstream_error", UPSTREAM_PROTOCOL),
    (ConnectError, 502, "upstream_unreachable", UPSTREAM_CONNECT),
    (ConnectTimeout, 504, "upstream_connect_timeout", UPSTREAM_CONNECT_TIMEOUT),
    (ReadTimeout, 504, "upstream_timeout", UPSTREAM_TIMEOUT),
    (ProtocolError, 502, "upstream_protocol_error", UPSTREAM_PROTOCOL),
    (NoCapacity, 503, "upstream_no_capacity", UPSTREAM_NO_CAPACITY),
    (Stopping, 503, "gateway_stopping", STOPPING),
]


def descendants(of: type[Exception]) -> Iterator[type[Exception]]:
    for child in of.__subclasses__():
        yield child
        yield from descendants(child)


class TestReply:
    def test_of_makes_one_sentence_of_the_parameters(self) -> None:
        retry = (b"retry-after", b"Retry-After", b"1")
        reply = Reply.of(404, "t", "c", NOT_FOUND, param="p", headers=(retry,), method="GET", path="/x")
        assert reply == Reply(404, "t", "c", (Sentence(NOT_FOUND, {"method": "GET", "path": "/x"}),), "p", (retry,))

    def test_defaults(self) -> None:
        reply = Reply.of(400, "t", None, INVALID_JSON)
        assert (reply.param, reply.headers, reply.code) == (None, (), None)

    def test_invalid_request(self) -> None:
        assert invalid_request(FIELD_REQUIRED, param="user_content", field="user_content") == Reply(
            400,
            INVALID_REQUEST,
            "invalid_request",
            (Sentence(FIELD_REQUIRED, {"field": "user_content"}),),
            "user_content",
        )

    def test_a_reply_may_be_shared_between_exchanges(self) -> None:
        reply = Reply.of(403, "t", "c", INVALID_JSON)
        with pytest.raises(dataclasses.FrozenInstanceError):
            reply.status = 200  # type: ignore[misc]


class TestErrors:
    @pytest.mark.parametrize(("failure", "status", "code", "message"), FAILURES)
    def test_reply(self, failure: type[GatewayError], status: int, code: str, message: Message) -> None:
        reply = failure("connect to 10.1.2.3 with sk-secret failed").reply()
        # Only the prepared sentence: what the exception says is for the log.
        assert reply == Reply(status, SERVER_ERROR, code, (Sentence(message),), headers=failure.headers)
        assert "secret" not in repr(reply)

    def test_the_table_is_complete(self) -> None:
        assert set(descendants(GatewayError)) == {failure for failure, *_ in FAILURES}

    @pytest.mark.parametrize("failure", [failure for failure, *_ in FAILURES])
    def test_the_tree_in_the_docstring_tells_the_same(self, failure: type[GatewayError]) -> None:
        line = next(line for line in (errors.__doc__ or "").splitlines() if failure.__name__ in line.split())
        if failure is not UpstreamError:
            assert str(failure.status) in line.split()
