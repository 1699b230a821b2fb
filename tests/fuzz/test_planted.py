"""Each target finds a mistake planted in what it tries, with its seeds alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest

from fuzz import targets
from fuzz.session import failure_of
from fuzz.target import rule_of, seeds_of
from proxy.core.headers import Headers
from proxy.wire.framing import CloseReader, LengthReader


def everything(headers: Headers, replaced: object) -> object:
    return headers.fields


def split_at_commas(lines: list[bytes]) -> list[str]:
    """`Forwarded` as careless readers take it: no quotes, from the left."""
    return [part.partition("for=")[2].split(";")[0] for part in b",".join(lines).decode("latin-1").split(",")][::-1]


def says_too_much(path: object, environ: dict[str, str]) -> object:
    from proxy.settings import ConfigError
    from proxy.settings.problems import DEFAULT, Problem

    raise ConfigError([Problem(DEFAULT, "", f"cannot be used: {environ}")])


def raises(*args: object, **named: object) -> None:
    raise KeyError("x")


# (the target, the name that is replaced, what replaces it, a rule that is then broken)
PLANTED: list[tuple[str, str, Callable[..., Any], str]] = [
    ("request", "proxy.wire.head.check_request", lambda head: None, "h11 "),
    ("request", "proxy.wire.request_body.reader_for", lambda framing, length: LengthReader(1), "h11 "),
    ("request", "fuzz.targets.request._Delegate.finish", raises, "KeyError"),
    ("exchange", "proxy.core.headers.end_to_end", everything, "what goes upstream is not HTTP"),
    ("exchange", "proxy.gateway.plane.DataPlane.close_exchange", raises, "KeyError"),
    ("answer", "proxy.wire.answer_reader.reader_for", lambda framing, length: CloseReader(), "h11 "),
    ("answer", "fuzz.targets.answer.Taken.on_upstream_end", lambda taken: None, "neither an end nor an error"),
    ("address", "fuzz.targets.address.parse_address", ipaddress.ip_address, "an address is"),
    ("address", "fuzz.targets.address.client_address", lambda peer, hops, trusted: "127.0.0.1", "the walk ends"),
    ("forwarded", "fuzz.targets.forwarded.forwarded_hops", split_at_commas, "read otherwise"),
    ("proxy_protocol", "fuzz.targets.proxy_protocol.read_header", lambda data: None, "a header"),
    ("sse", "proxy.core.sse.EventWatch._judge", lambda watch, line: None, "a terminal event was missed"),
    ("settings", "fuzz.targets.settings.load", raises, "KeyError"),
    ("settings", "fuzz.targets.settings.load", says_too_much, "a secret"),
    ("language", "fuzz.targets.language.negotiate", lambda text, default: "ru_RU", "a malformed header is obeyed"),
    ("chat", "fuzz.targets.chat.parse", raises, "KeyError"),
    ("chat", "fuzz.targets.chat.read_answer", raises, "KeyError"),
]


@pytest.mark.parametrize(("name", "replaced", "by", "rule"), PLANTED, ids=[f"{p[0]}-{p[1]}" for p in PLANTED])
def test_a_planted_mistake_is_found(
    name: str, replaced: str, by: Callable[..., Any], rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = targets.load(name)
    seeds = seeds_of(name)
    monkeypatch.setattr(replaced, by)
    failures = [failure_of(target, data) for data in seeds]
    monkeypatch.undo()
    found = {rule_of(failure) for failure in failures if failure is not None}
    assert any(one.startswith(rule) for one in found), found
    assert all(failure_of(target, data) is None for data in seeds), "and nothing of it is left"


def test_every_target_has_one() -> None:
    assert {planted[0] for planted in PLANTED} == set(targets.NAMES)
