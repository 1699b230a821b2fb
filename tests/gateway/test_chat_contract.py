"""The simple chat contract: every field of a request, every kind of answer, and whatever else JSON can carry."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core import messages
from proxy.core.headers import Headers
from proxy.core.messages import Message, Sentence
from proxy.core.reply import Reply
from proxy.gateway.chat_contract import (
    ROLES,
    ChatAnswer,
    ChatRequest,
    Defaults,
    Refused,
    failure,
    parse,
    read_answer,
    upstream_body,
)
from tests.support.exchange import headers_of

DEFAULTS = Defaults(
    model="text-davinci-003",
    max_tokens=100,
    most_tokens=3500,
    token_field="auto",
    aliases={"text-davinci-003": "gpt-4.1-mini"},
)
EARLIER = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
SYSTEM = {"role": "system", "content": "Be old."}


def parsed(**fields: object) -> ChatRequest:
    return parse(json.dumps({"user_content": "Why?", **fields}).encode(), DEFAULTS)


def refused(body: bytes | dict[str, Any]) -> Reply:
    with pytest.raises(Refused) as caught:
        parse(body if isinstance(body, bytes) else json.dumps(body).encode(), DEFAULTS)
    return caught.value.reply


def either(body: bytes) -> tuple[ChatRequest | None, Reply | None]:
    """What `parse` makes of a body: a request, or a reply."""
    try:
        return parse(body, DEFAULTS), None
    except Refused as caught:
        return None, caught.reply


def invalid(message: Message, field: str | None = None, **params: object) -> Reply:
    named = params if field is None else {"field": field, **params}
    return Reply(400, "invalid_request_error", "invalid_request", (Sentence(message, named),), field)


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


class TestFields:
    def test_the_least_request(self) -> None:
        assert parsed() == ChatRequest([user("Why?")], "text-davinci-003", 100, None)

    def test_the_published_samples_request(self) -> None:
        body = (
            b'{"system_content": "You are a poet", "user_content": "\xe4\xbd\xa0\xe5\xa5\xbd", "model": "gpt-4o", '
            b'"api_key": "sk-1", "continuous": [], "max_tokens": 3000}'
        )
        assert parse(body, DEFAULTS) == ChatRequest([system("You are a poet"), user("你好")], "gpt-4o", 3000, "sk-1")

    @pytest.mark.parametrize("body", [{}, {"user_content": None}, {"user_content": ""}, {"USER_CONTENT": "Hi"}])
    def test_user_content_is_required(self, body: dict[str, object]) -> None:
        assert refused(body) == invalid(messages.FIELD_REQUIRED, "user_content")

    @pytest.mark.parametrize("field", ["user_content", "sys_content", "system_content", "model", "api_key"])
    @pytest.mark.parametrize("value", [1, 1.5, True, False, [], ["Hi"], {}, {"text": "Hi"}])
    def test_texts_are_strings(self, field: str, value: object) -> None:
        assert refused({"user_content": "Why?", field: value}) == invalid(messages.FIELD_NOT_TEXT, field)

    @pytest.mark.parametrize("field", ["sys_content", "system_content", "model", "api_key", "max_tokens"])
    def test_null_counts_as_absent(self, field: str) -> None:
        assert parsed(**{field: None}) == parsed()

    @pytest.mark.parametrize("field", ["sys_content", "system_content", "model", "api_key"])
    def test_an_empty_text_counts_as_absent(self, field: str) -> None:
        assert parsed(**{field: ""}) == parsed()

    @pytest.mark.parametrize("tokens", [1, 100, 3499, 3500])
    def test_max_tokens(self, tokens: int) -> None:
        assert parsed(max_tokens=tokens).max_tokens == tokens

    @pytest.mark.parametrize("tokens", [0, -1, 3501, 10**4000])
    def test_max_tokens_out_of_range(self, tokens: int) -> None:
        expected = invalid(messages.FIELD_OUT_OF_RANGE, "max_tokens", minimum=1, maximum=3500)
        assert refused({"user_content": "Why?", "max_tokens": tokens}) == expected

    @pytest.mark.parametrize("tokens", ["100", 100.0, True, [100], {}, float("nan"), float("inf")])
    def test_max_tokens_is_an_integer(self, tokens: object) -> None:
        expected = invalid(messages.FIELD_NOT_INTEGER, "max_tokens")
        assert refused({"user_content": "Why?", "max_tokens": tokens}) == expected

    def test_unknown_fields_do_not_matter(self) -> None:
        assert parsed(temperature=1, stream=True, nothing=None) == parsed()

    def test_the_operators_defaults_count(self) -> None:
        defaults = Defaults(model="m", max_tokens=5, most_tokens=10, token_field="auto", aliases={})
        assert parse(b'{"user_content": "Why?"}', defaults) == ChatRequest([user("Why?")], "m", 5, None)
        with pytest.raises(Refused):
            parse(b'{"user_content": "Why?", "max_tokens": 11}', defaults)


class TestDialogue:
    @pytest.mark.parametrize("spelling", ["sys_content", "system_content"])
    @pytest.mark.parametrize("continuous", ["continuous", "continuous_dialogue"])
    def test_system_then_earlier_then_user(self, spelling: str, continuous: str) -> None:
        request = parsed(**{spelling: "Be brief.", continuous: EARLIER})
        assert request.dialogue == [system("Be brief."), *EARLIER, user("Why?")]

    @pytest.mark.parametrize("continuous", ["continuous", "continuous_dialogue"])
    def test_a_dialogue_that_begins_with_a_system_message_keeps_it(self, continuous: str) -> None:
        request = parsed(**{continuous: [SYSTEM, *EARLIER]})
        assert request.dialogue == [SYSTEM, *EARLIER, user("Why?")]

    @pytest.mark.parametrize("spelling", ["sys_content", "system_content"])
    def test_there_is_no_second_one(self, spelling: str) -> None:
        request = parsed(**{spelling: "Be brief.", "continuous": [SYSTEM, *EARLIER]})
        assert request.dialogue == [system("Be brief."), *EARLIER, user("Why?")]

    def test_a_later_system_message_stays_where_it_is(self) -> None:
        request = parsed(sys_content="Be brief.", continuous=[*EARLIER, SYSTEM])
        assert request.dialogue == [system("Be brief."), *EARLIER, SYSTEM, user("Why?")]

    def test_the_documented_spelling_comes_first(self) -> None:
        both = {"sys_content": "one", "system_content": "two"}
        assert parsed(**both).dialogue[0] == system("one")
        assert parsed(**both | {"sys_content": ""}).dialogue[0] == system("two")
        one, two = [user("one")], [user("two")]
        assert parsed(continuous=one, continuous_dialogue=two).dialogue[0] == user("one")
        assert parsed(continuous=[], continuous_dialogue=two).dialogue[0] == user("two")

    @pytest.mark.parametrize("value", [None, []])
    def test_an_empty_dialogue(self, value: object) -> None:
        assert parsed(continuous=value, continuous_dialogue=value) == parsed()

    def test_the_answers_result_can_be_sent_back(self) -> None:
        first = parsed(sys_content="Be brief.")
        result = [*first.dialogue, {"role": "assistant", "content": "Because."}]
        second = parsed(user_content="Really?", sys_content="Be brief.", continuous=result)
        assert second.dialogue == [*result, user("Really?")]

    def test_further_fields_of_a_turn_are_dropped(self) -> None:
        turn = {"role": "user", "content": "Hi", "name": "x", "tool_calls": []}
        assert parsed(continuous=[turn]).dialogue[0] == user("Hi")

    @pytest.mark.parametrize("field", ["continuous", "continuous_dialogue"])
    @pytest.mark.parametrize(
        "value",
        [
            "Hi",
            {},
            {"role": "user", "content": "Hi"},
            1,
            True,
            ["Hi"],
            [None],
            [[]],
            [{}],
            [{"role": "user"}],
            [{"content": "Hi"}],
            [{"role": 1, "content": "Hi"}],
            [{"role": "user", "content": None}],
            [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
            [*EARLIER, {"role": "user", "content": 1}],
        ],
    )
    def test_shape(self, field: str, value: object) -> None:
        expected = invalid(messages.DIALOGUE_SHAPE, field)
        assert refused({"user_content": "Why?", field: value}) == expected

    @pytest.mark.parametrize("field", ["continuous", "continuous_dialogue"])
    @pytest.mark.parametrize("role", ["tool", "developer", "User", "", "r" * 1000])
    def test_roles(self, field: str, role: str) -> None:
        body = {"user_content": "Why?", field: [{"role": role, "content": "Hi"}]}
        assert refused(body) == invalid(messages.DIALOGUE_ROLE, field, role=role[:200])
        assert set(ROLES) == {"system", "user", "assistant"}


# fmt: off
NOT_JSON = [
    b"", b" ", b"{", b"{'user_content': 'Hi'}", b"user_content=Hi", b'{"user_content": "Hi"} x', b"\x00", b"\xff\xfe",
    b'{"user_content": "\xff"}', b'{"user_content": "\n"}', b"[" * 100_000, b'{"a":' * 100_000,
    b'{"max_tokens": ' + b"9" * 5000 + b"}", b"--boundary\r\n",
]
NOT_OBJECTS = [b"[]", b"null", b"1", b'"text"', b"true", b'[{"user_content": "Hi"}]', b"NaN"]
# fmt: on


class TestJson:
    @pytest.mark.parametrize("body", NOT_JSON, ids=range(len(NOT_JSON)))
    def test_malformed(self, body: bytes) -> None:
        assert refused(body) == invalid(messages.INVALID_JSON)

    @pytest.mark.parametrize("body", NOT_OBJECTS)
    def test_not_an_object(self, body: bytes) -> None:
        assert refused(body) == invalid(messages.NOT_AN_OBJECT)

    def test_of_duplicate_keys_the_last_counts(self) -> None:
        request = parse(b'{"user_content": 1, "user_content": "two", "model": "a", "model": "b"}', DEFAULTS)
        assert (request.dialogue, request.model) == ([user("two")], "b")

    def test_a_byte_order_mark_does_not_matter(self) -> None:
        assert parse(b'\xef\xbb\xbf{"user_content": "Why?"}', DEFAULTS) == parsed()

    @pytest.mark.parametrize("name", ["user_content", "sys_content", "model", "api_key"])
    def test_half_of_a_surrogate_pair_is_no_text(self, name: str) -> None:
        body = json.dumps({"user_content": "q", name: "a\ud800b"}).encode()
        _, reply = either(body)
        assert reply is not None
        assert (reply.status, reply.param) == (400, name)

    def test_blank_content_is_no_content(self) -> None:
        _, reply = either(b'{"user_content": " \\n "}')
        assert reply is not None
        assert (reply.status, reply.param) == (400, "user_content")

    @given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "replace"))))
    def test_any_bytes_are_taken_or_refused_with_a_400(self, body: bytes) -> None:
        request, reply = either(body)
        assert (request is None) is (reply is not None and reply.status == 400)

    @given(
        st.dictionaries(
            st.sampled_from(
                ["user_content", "sys_content", "model", "api_key", "max_tokens", "continuous", "continuous_dialogue"]
            ),
            st.recursive(
                st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(ROLES)),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["role", "content"]), inner)
                ),
                max_leaves=5,
            ),
        )
    )
    def test_any_values_too(self, fields: dict[str, object]) -> None:
        request, reply = either(json.dumps(fields).encode())
        if request is None:
            assert reply is not None
            assert reply.status == 400
            return
        assert request.dialogue[-1] == user(str(fields["user_content"]))
        assert 1 <= request.max_tokens <= 3500
        sent = json.loads(upstream_body(request, DEFAULTS, is_openai=False))
        assert {turn["role"] for turn in sent["messages"]} <= set(ROLES)

    def test_a_request_does_not_show_its_key(self) -> None:
        assert "sk-secret" not in repr(parsed(api_key="sk-secret"))


class TestUpstreamBody:
    @pytest.mark.parametrize(
        ("token_field", "is_openai", "field"),
        [
            ("auto", True, "max_completion_tokens"),
            ("auto", False, "max_tokens"),
            ("max_tokens", True, "max_tokens"),
            ("max_completion_tokens", False, "max_completion_tokens"),
        ],
    )
    def test_exact_bytes(self, token_field: str, is_openai: bool, field: str) -> None:
        defaults = Defaults("m", 100, 3500, token_field, {"old": "new"})
        request = ChatRequest([user("你好\n")], "old", 7, "sk-secret")
        assert upstream_body(request, defaults, is_openai=is_openai) == (
            f'{{"model":"new","messages":[{{"role":"user","content":"你好\\n"}}],"{field}":7}}'.encode()
        )

    def test_the_default_model_has_an_alias_and_others_stay(self) -> None:
        assert json.loads(upstream_body(parsed(), DEFAULTS, is_openai=True))["model"] == "gpt-4.1-mini"
        assert json.loads(upstream_body(parsed(model="o3"), DEFAULTS, is_openai=True))["model"] == "o3"


def completion(message: object, finish_reason: object = "stop", **more: object) -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}], **more}).encode()


class TestReadAnswer:
    @pytest.mark.parametrize(
        ("body", "answer"),
        [
            (completion({"content": "Hi"}), ChatAnswer("Hi", "stop")),
            (completion({"role": "assistant", "content": "你", "refusal": None}, usage={}), ChatAnswer("你", "stop")),
            (completion({"content": None, "refusal": "No."}), ChatAnswer("No.", "stop")),
            (completion({"content": "", "refusal": "No."}), ChatAnswer("No.", "stop")),
            (completion({"content": "Hi", "refusal": "No."}), ChatAnswer("Hi", "stop")),
            (completion({"content": None}, "length"), ChatAnswer("", "length")),
            (completion({}, "content_filter"), ChatAnswer("", "content_filter")),
            (completion({"content": None, "tool_calls": [{}]}, "tool_calls"), ChatAnswer("", "tool_calls")),
            (completion({"content": "Hi"}, None), ChatAnswer("Hi", None)),
            (completion({"content": "Hi"}, 1), ChatAnswer("Hi", None)),
            (
                b'{"choices": [{"message": {"content": "Hi"}}, {"message": {"content": "Ho"}}]}',
                ChatAnswer("Hi", None),
            ),
        ],
    )
    def test_answers(self, body: bytes, answer: ChatAnswer) -> None:
        assert read_answer(body) == answer

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"null",
            b"[]",
            b"1",
            b'"choices"',
            b"{}",
            b'{"choices": null}',
            b'{"choices": []}',
            b'{"choices": {}}',
            b'{"choices": "x"}',
            b'{"choices": [null]}',
            b'{"choices": [[]]}',
            b'{"choices": [{}]}',
            b'{"choices": [{"message": null}]}',
            b'{"choices": [{"message": []}]}',
            b'{"choices": [{"message": "Hi"}]}',
            b'{"choices": [{"delta": {"content": "Hi"}}]}',
            completion({"content": ["Hi"]}),
            completion({"content": {"text": "Hi"}}),
            completion({"content": 1}),
            b"[" * 100_000,
            b'{"choices": [{"message": {"content": "cut o',
            b"\xff\xfe",
        ],
    )
    def test_what_is_no_answer(self, body: bytes) -> None:
        assert read_answer(body) is None


def error(code: object = None, message: object = None) -> bytes:
    return json.dumps({"error": {"message": message, "type": "t", "param": None, "code": code}}).encode()


# fmt: off
FAILURES: list[tuple[int, bytes, int, str, str, Message]] = [
    # (upstream's status, its body, our status, type, code, message)
    (400, error("context_length_exceeded", "m"), 400, "invalid_request_error", "context_length_exceeded",
     messages.UPSTREAM_BAD_REQUEST),
    (400, error(), 400, "invalid_request_error", "invalid_request", messages.UPSTREAM_BAD_REQUEST),
    (400, error("model_not_found"), 400, "invalid_request_error", "model_not_found", messages.UNKNOWN_MODEL),
    (404, error("model_not_found"), 400, "invalid_request_error", "model_not_found", messages.UNKNOWN_MODEL),
    (404, b"not found", 400, "invalid_request_error", "invalid_request", messages.UPSTREAM_BAD_REQUEST),
    (422, error("x"), 400, "invalid_request_error", "x", messages.UPSTREAM_BAD_REQUEST),
    (422, error("model_not_found"), 400, "invalid_request_error", "model_not_found", messages.UPSTREAM_BAD_REQUEST),
    (401, error("invalid_api_key"), 401, "invalid_request_error", "invalid_api_key", messages.UPSTREAM_REFUSED_KEY),
    (401, b"", 401, "invalid_request_error", "invalid_api_key", messages.UPSTREAM_REFUSED_KEY),
    (403, error("unsupported_country_region_territory"), 403, "permission_error",
     "unsupported_country_region_territory", messages.UPSTREAM_FORBIDDEN),
    (403, b"", 403, "permission_error", "forbidden", messages.UPSTREAM_FORBIDDEN),
    (429, error("rate_limit_exceeded"), 429, "rate_limit_error", "upstream_rate_limit",
     messages.UPSTREAM_RATE_LIMIT),
    (429, b"", 429, "rate_limit_error", "upstream_rate_limit", messages.UPSTREAM_RATE_LIMIT),
    (429, error("insufficient_quota"), 429, "rate_limit_error", "insufficient_quota", messages.UPSTREAM_QUOTA),
    (408, b"", 504, "server_error", "upstream_timeout", messages.UPSTREAM_TIMEOUT),
    (504, b"", 504, "server_error", "upstream_timeout", messages.UPSTREAM_TIMEOUT),
    *((status, error("server_error"), 502, "server_error", "upstream_error", messages.UPSTREAM_FAILED)
      for status in (200, 204, 301, 302, 304, 307, 402, 405, 409, 413, 415, 418, 451, 500, 501, 502, 503, 520, 529)),
]
# fmt: on


class TestFailure:
    @pytest.mark.parametrize(("status", "body", "ours", "type_", "code", "message"), FAILURES)
    def test_statuses(self, status: int, body: bytes, ours: int, type_: str, code: str, message: Message) -> None:
        reply = failure(status, Headers(), body, "gpt-x")
        assert (reply.status, reply.type, reply.code) == (ours, type_, code)
        assert [sentence.message for sentence in reply.sentences] == [message]

    @given(
        status=st.integers(100, 599), body=st.one_of(st.binary(max_size=40), st.builds(error, st.text(), st.text()))
    )
    def test_every_status_has_one_of_the_contract(self, status: int, body: bytes) -> None:
        assert failure(status, Headers(), body, "m").status in (400, 401, 403, 429, 502, 504)

    def test_the_model_is_named_in_short(self) -> None:
        reply = failure(404, Headers(), error("model_not_found"), "m" * 1000)
        assert reply.sentences[0].params == {"model": "m" * 200}
        assert reply.param == "model"

    @pytest.mark.parametrize("status", [400, 403])
    def test_the_reason_is_repeated_in_short(self, status: int) -> None:
        reply = failure(status, Headers(), error("c", "r" * 1000), "m")
        assert reply.sentences[0].params == {"reason": "r" * 200}

    def test_a_refused_key_is_never_repeated(self) -> None:
        body = error("invalid_api_key", "Incorrect API key provided: sk-secret.")
        assert "secret" not in repr(failure(401, Headers(), body, "m"))

    @pytest.mark.parametrize(
        ("status", "code", "kept"),
        [(429, "x", True), (429, "insufficient_quota", True), (503, "x", True), (500, "x", True), (400, "x", False)],
    )
    def test_when_to_come_back_is_passed_on(self, status: int, code: str, kept: bool) -> None:
        retry = [("Retry-After", "20"), ("retry-after-ms", "19999"), ("X-Should-Retry", "true")]
        headers = headers_of(("Server", "x"), *retry, ("Content-Length", "3"))
        reply = failure(status, headers, error(code), "m")
        assert list(Headers(list(reply.headers)).pairs()) == (retry if kept else [])

    @pytest.mark.parametrize(
        "body",
        [
            b"null", b"[]", b"1", b'"x"', b"{}", b'{"error": null}', b'{"error": "text"}', b'{"error": []}',
            b'{"error": {"code": 1, "message": {}}}', b"[" * 100_000, b'{"error": ' + b"9" * 5000 + b"}", b"\xff",
        ],
    )  # fmt: skip
    def test_an_error_in_no_known_shape(self, body: bytes) -> None:
        reply = failure(400, Headers(), body, "m")
        assert reply.code == "invalid_request"
        assert reply.sentences[0].params == {"reason": ""}
