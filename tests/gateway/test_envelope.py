"""The event that tells of a failure within a stream: which form it has on which path."""

from __future__ import annotations

import json

import pytest

from proxy.gateway.envelope import error_event

ERROR = {"message": "m", "type": "server_error", "param": None, "code": "c"}


@pytest.mark.parametrize(
    "path", [b"/v1/responses", b"/v1/responses/resp_1", b"/v1/responses/resp_1/", b"/v1/some/responses"]
)
def test_on_paths_of_the_responses_api_it_is_the_apis_own(path: bytes) -> None:
    name, data, *rest = error_event(path, ERROR, 7).split(b"\n")
    assert (name, rest) == (b"event: error", [b"", b""])
    assert json.loads(data.removeprefix(b"data: ")) == {
        "type": "error",
        "sequence_number": 7,
        "code": "c",
        "message": "m",
        "param": None,
        "error": ERROR,
    }


@pytest.mark.parametrize(
    "path", [b"/v1/chat/completions", b"/v1/images/edits", b"/v1/responses_x", b"/v1/my-responses"]
)
def test_on_all_others_it_is_that_of_chat(path: bytes) -> None:
    assert json.loads(error_event(path, ERROR, 7).removeprefix(b"data: ")) == {"error": ERROR}
