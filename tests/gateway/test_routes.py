"""Routes: decided on the raw bytes, so that no other spelling of a path leads anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.routes import Destination, Routes, speaks_openai

API, CHAT, HEALTHZ, READYZ, NOWHERE = (
    Destination.API, Destination.CHAT, Destination.HEALTHZ, Destination.READYZ, Destination.NOWHERE,
)  # fmt: skip


@pytest.mark.parametrize("route", ["", "api", "my/chat"])
@pytest.mark.parametrize(
    ("target", "destination"),
    [
        (b"/v1", API),
        (b"/v1/", API),
        (b"/v1?x=1", API),
        (b"/v1/models", API),
        (b"/v1/chat/completions?x=/api", API),
        (b"/v1/unknown/path", API),
        (b"/healthz", HEALTHZ),
        (b"/healthz?x=1", HEALTHZ),
        (b"/readyz", READYZ),
        (b"/healthz/", NOWHERE),
        (b"/HEALTHZ", NOWHERE),
        (b"/v10", NOWHERE),
        (b"/v1x/models", NOWHERE),
        (b"/V1/models", NOWHERE),
        (b"//v1/models", NOWHERE),
        (b"/%76%31/models", NOWHERE),
        (b"/v1;x/models", NOWHERE),
        (b"v1/models", NOWHERE),
        (b"/x/v1/models", NOWHERE),
        (b"/x?/v1/models", NOWHERE),
        (b"/chat/completions", NOWHERE),
        (b"/metrics", NOWHERE),
        (b"/config", NOWHERE),
        (b"/admin", NOWHERE),
        (b"*", NOWHERE),
        (b"", NOWHERE),
        (b"?", NOWHERE),
    ],
)
def test_everywhere(route: str, target: bytes, destination: Destination) -> None:
    assert Routes(route).destination(target) is destination


@pytest.mark.parametrize(
    ("route", "chat", "nowhere"),
    [
        (
            "",
            [b"/", b"/?x=1", b"/api", b"/api/", b"/api?x=1"],
            [b"//", b"/api//", b"/apix", b"/API", b"/api/x", b"/x"],
        ),
        ("api", [b"/api", b"/api/", b"/api/?x"], [b"/", b"/?x=1", b"/API"]),
        ("my/chat", [b"/my/chat", b"/my/chat/"], [b"/", b"/api", b"/my", b"/my/chat/x", b"/my%2Fchat"]),
    ],
)
def test_the_chat_route(route: str, chat: list[bytes], nowhere: list[bytes]) -> None:
    routes = Routes(route)
    assert [target for target in chat + nowhere if routes.destination(target) is CHAT] == chat
    assert all(routes.destination(target) is NOWHERE for target in nowhere)


@given(st.binary(max_size=30))
def test_only_what_begins_with_v1_is_openais(target: bytes) -> None:
    is_api = target.startswith((b"/v1/", b"/v1?")) or target == b"/v1"
    assert (Routes("").destination(target) is API) is is_api
    assert speaks_openai(target) is (is_api or not target)


@pytest.mark.parametrize(("target", "speaks"), [(b"", True), (b"/v1", True), (b"/v1x", False), (b"/", False)])
def test_the_shape_of_an_error(target: bytes, speaks: bool) -> None:
    assert speaks_openai(target) is speaks
