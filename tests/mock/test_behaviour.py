"""Behaviours: how they are written, which wins, and what each does on the wire."""

from __future__ import annotations

import itertools
import time

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from proxy.mock.behaviour import MODELS, SETTINGS, Behaviour, BehaviourError, parse, resolve
from proxy.mock.server import MockOpenAI

from .raw import ask, chat, connect, read, until

SAID: list[ChatCompletionMessageParam] = [{"role": "user", "content": "one two three four"}]


def create(client: openai.OpenAI, x_mock: str, model: str = "gpt-4.1-mini") -> str | None:
    answer = client.chat.completions.create(model=model, messages=SAID, extra_headers={"x-mock": x_mock})
    return answer.choices[0].message.content


def test_every_setting_is_read() -> None:
    text = (
        "status=429; code=slow_down; retry-after=0.5; delay-ms=1; chunk-delay-ms=2; "
        "cut-after=3; cut-by=reset; chunks=4; silence=on"
    )
    assert len(parse(text, "here")) == len(SETTINGS)
    assert Behaviour().but(text, "here") == Behaviour(
        delay_ms=1,
        chunk_delay_ms=2,
        status=429,
        code="slow_down",
        retry_after_s=0.5,
        cut_after=3,
        cut_by="reset",
        chunks=4,
        silence=True,
    )


def test_spaces_and_empty_settings_do_not_matter() -> None:
    assert parse(" delay-ms = 5 ;; silence; ", "here") == {"delay_ms": 5, "silence": True}
    assert parse("cut-after=none; code=none", "here") == {"cut_after": None, "code": None}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("delay-ms=1; delay=5", "here, setting 2 ('delay=5'): there is no setting 'delay'; did you mean 'delay-ms'?"),
        ("zzz", "here, setting 1 ('zzz'): there is no setting 'zzz'; known are delay-ms, "),
        ("delay-ms=-1", "delay-ms must be a whole number from 0 to 600000"),
        ("delay-ms=١", "delay-ms must be a whole number"),
        ("delay-ms", "delay-ms must be a whole number"),
        ("chunks=0", "chunks must be a whole number from 1 to 1000000, or none"),
        ("status=302", "status must be 200 or an error status from 400 to 599"),
        ("status=429; retry-after=1e9", "retry-after must be seconds such as 2 or 0.5, or none"),
        ("code=No Quota", "code must be an error code"),
        ("cut-by=force", "cut-by must be close or reset"),
        ("silence=yes", "silence must be on or off"),
        ("delay-ms=1; delay-ms=1", "setting 2 ('delay-ms=1'): delay-ms is given twice"),
        ("retry-after=2", "here: retry-after goes with an error status only"),
    ],
)
def test_what_cannot_be_read_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(BehaviourError) as caught:
        Behaviour().but(text, "here")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("here")


def test_the_header_wins_over_the_model_and_the_model_over_the_server() -> None:
    server = Behaviour(status=500, delay_ms=7)
    assert resolve(server, None, []) is server
    assert resolve(server, "gpt-4.1", []) is server
    assert resolve(server, "mock-429", []) == Behaviour(status=429, delay_ms=7, retry_after_s=1)
    assert resolve(server, "mock-429", ["status=503", "delay-ms=0"]) == Behaviour(status=503)
    assert resolve(server, "mock-429", ["status=200"]) == Behaviour(delay_ms=7)


def test_every_model_has_a_behaviour_that_can_be_read() -> None:
    for model in MODELS:
        assert resolve(Behaviour(), model, []) != Behaviour()


def test_a_bad_header_is_a_400_that_says_what_and_where(client: openai.OpenAI, mock: MockOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        create(client, "delay-ms=1; chunk-delay-ms=soon")
    assert (caught.value.code, caught.value.param) == ("invalid_behaviour", "x-mock")
    assert "header x-mock, setting 2 ('chunk-delay-ms=soon')" in caught.value.message
    assert mock.ledger.entries[0].status == 400


def test_rate_limit(client: openai.OpenAI, mock: MockOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        create(client, "status=429; retry-after=1.5")
    assert (caught.value.type, caught.value.code) == ("requests", "rate_limit_exceeded")
    assert caught.value.request_id == mock.ledger.entries[0].request_id
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("2", "1500")
    assert headers["x-should-retry"] == "true"


def test_the_sdk_retries_a_rate_limit(mock: MockOpenAI) -> None:
    mock.behaviour = Behaviour(status=429, retry_after_s=0.01)
    with (
        openai.OpenAI(api_key="sk-test", base_url=mock.base_url, max_retries=2) as sdk,
        pytest.raises(openai.RateLimitError),
    ):
        sdk.models.list()
    retries = [entry.header_values("x-stainless-retry-count") for entry in mock.ledger.entries]
    assert retries == [["0"], ["1"], ["2"]]


def test_exhausted_quota(client: openai.OpenAI) -> None:
    for x_mock, model in (("status=429; code=insufficient_quota", "gpt-4.1-mini"), ("", "mock-quota")):
        with pytest.raises(openai.RateLimitError) as caught:
            create(client, x_mock, model)
        assert (caught.value.type, caught.value.code) == ("insufficient_quota", "insufficient_quota")
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in caught.value.response.headers


@pytest.mark.parametrize(
    ("status", "error", "type", "code"),
    [
        (400, openai.BadRequestError, "invalid_request_error", None),
        (401, openai.AuthenticationError, "invalid_request_error", "invalid_api_key"),
        (403, openai.PermissionDeniedError, "request_forbidden", "unsupported_country_region_territory"),
        (422, openai.UnprocessableEntityError, "invalid_request_error", None),
        (500, openai.InternalServerError, "server_error", None),
        (502, openai.InternalServerError, "server_error", None),
        (503, openai.InternalServerError, "service_unavailable_error", "server_is_overloaded"),
    ],
)
def test_status(
    client: openai.OpenAI, status: int, error: type[openai.APIStatusError], type: str, code: str | None
) -> None:
    with pytest.raises(error) as caught:
        create(client, f"status={status}")
    assert caught.value.status_code == status
    assert (caught.value.type, caught.value.code) == (type, code)
    assert caught.value.request_id is not None


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_model_name_chooses_a_status(client: openai.OpenAI, status: int) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.responses.create(model=f"mock-{status}", input="x")
    assert caught.value.status_code == status


def test_the_servers_own_behaviour(client: openai.OpenAI, mock: MockOpenAI) -> None:
    mock.behaviour = Behaviour(status=503)
    with pytest.raises(openai.InternalServerError):
        client.models.list()
    assert create(client, "status=200; chunks=2") == "You said:"


def test_delay(client: openai.OpenAI) -> None:
    started = time.monotonic()
    create(client, "delay-ms=150")
    assert 0.15 <= time.monotonic() - started < 2


def test_chunk_delay_and_the_length_of_a_stream(client: openai.OpenAI) -> None:
    with client.chat.completions.create(
        model="gpt-4.1-mini",
        messages=SAID,
        stream=True,
        extra_headers={"x-mock": "chunks=3; chunk-delay-ms=50"},
    ) as stream:
        arrivals = [(time.monotonic(), chunk.choices[0].delta.content) for chunk in stream]
    assert [content for _, content in arrivals] == ["", "You", " said:", " one", None]
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(arrivals)]
    # Each part is flushed by itself: were they held back, they would arrive together.
    assert all(gap > 0.02 for gap in gaps)


def test_chunks_may_be_more_than_was_said(client: openai.OpenAI) -> None:
    answer = create(client, "chunks=50")
    assert answer is not None
    assert len(answer.split()) == 50
    assert answer.startswith("You said: one two three four You said:")


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_cut_stream_raises_in_the_sdk(client: openai.OpenAI, mock: MockOpenAI, how: str) -> None:
    seen: list[str | None] = []
    stream = client.chat.completions.create(
        model="gpt-4.1-mini",
        messages=SAID,
        stream=True,
        extra_headers={"x-mock": f"cut-after=3; cut-by={how}; chunk-delay-ms=20"},
    )
    with stream, pytest.raises(openai.APIConnectionError):
        seen.extend(chunk.choices[0].delta.content for chunk in stream)
    assert seen == ["", "You", " said:"]
    assert mock.ledger.entries[0].parts == 3
    assert not mock.ledger.entries[0].aborted


@pytest.mark.parametrize(("how", "reset"), [("close", False), ("reset", True)])
def test_how_a_cut_looks_on_the_wire(mock: MockOpenAI, how: str, reset: bool) -> None:
    answer = ask(mock, "POST", "/v1/chat/completions", chat(stream=True), f"x-mock: cut-after=2; cut-by={how}")
    assert answer.reset is reset
    if not reset:
        assert answer.body.count(b"data: ") == 2
        assert not answer.body.endswith(b"0\r\n\r\n")


def test_a_cut_before_the_first_part_and_behind_the_last(mock: MockOpenAI) -> None:
    first = ask(mock, "POST", "/v1/chat/completions", chat(stream=True), "x-mock: cut-after=0")
    assert (first.status, first.body) == (200, b"")
    # role, five words, end, [DONE]: eight parts, all there, and still no end of the framing.
    last = ask(mock, "POST", "/v1/chat/completions", chat(stream=True), "x-mock: cut-after=8")
    assert b"[DONE]" in last.body
    assert not last.body.endswith(b"0\r\n\r\n")
    beyond = ask(mock, "POST", "/v1/chat/completions", chat(stream=True), "x-mock: cut-after=9")
    assert beyond.body.endswith(b"0\r\n\r\n")


def test_a_cut_answer_that_is_no_stream_is_too_short(client: openai.OpenAI, mock: MockOpenAI) -> None:
    answer = ask(mock, "POST", "/v1/chat/completions", chat(), "x-mock: cut-after=1")
    assert 0 < len(answer.body) < int(answer.values("content-length")[0])
    with pytest.raises(openai.APIConnectionError):
        create(client, "cut-after=1")


def test_a_model_name_chooses_a_cut(client: openai.OpenAI) -> None:
    with (
        client.responses.create(model="mock-cut", input="one two", stream=True) as stream,
        pytest.raises(openai.APIConnectionError),
    ):
        list(stream)


def test_silence(client: openai.OpenAI, mock: MockOpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.2).models.list(extra_headers={"x-mock": "silence"})
    until(lambda: mock.ledger.entries[0].aborted)
    assert mock.ledger.entries[0].status == 0


def test_silence_says_nothing_at_all(mock: MockOpenAI) -> None:
    with connect(mock) as sock:
        sock.sendall(b"GET /v1/models HTTP/1.1\r\nHost: m\r\nx-mock: silence=on\r\n\r\n")
        until(lambda: len(mock.ledger.entries) == 1)
        sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            read(sock)


def test_a_slow_model(mock: MockOpenAI) -> None:
    started = time.monotonic()
    assert ask(mock, "POST", "/v1/chat/completions", chat(model="mock-slow")).status == 200
    assert time.monotonic() - started >= 1
