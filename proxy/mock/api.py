"""The routes: from a request that has arrived whole to an answer, without any wire."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import parse_qsl, unquote

from tornado.httputil import HTTPHeaders

from proxy.mock import answers, errors
from proxy.mock.behaviour import Behaviour
from proxy.mock.fields import flag, inputs, known_model, model_of, token_limit
from proxy.mock.files import FileShelf, Form
from proxy.mock.ledger import Body
from proxy.mock.responses import Speaker
from proxy.mock.text import reply_to

JSON = "application/json"
EVENTS = "text/event-stream; charset=utf-8"
_ECHO = re.compile(r"/v1/echo(/.*)?")
_OBJECT = re.compile(rb"\s*\{")
_SOUNDS = {
    "mp3": "audio/mpeg",
    "opus": "audio/opus",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_REASONING = ("o1", "o3", "o4", "gpt-5")


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send. A ``body`` that is an iterator is streamed, one part at a time."""

    body: bytes | Iterator[bytes]
    content_type: str = JSON
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of_error(cls, error: errors.ApiError) -> Answer:
        """The answer that says an error."""
        return cls(error.body(), JSON, error.status, error.headers)


class Request:
    """A request that has arrived whole. ``id`` is unique and goes into the ids of what is made for it."""

    def __init__(self, method: str, target: str, headers: HTTPHeaders, body: Body, id: str) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.id = id
        self.path, _, query = target.partition("?")
        self.query: Mapping[str, str] = dict(parse_qsl(query, keep_blank_values=True))

    @cached_property
    def _parsed(self) -> object:
        content = bytes(self.body.content)
        try:
            parsed = json.loads(content)
            if b"\\u" in content:
                # Half a surrogate pair can be written in JSON, but not in an answer.
                json.dumps(parsed, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return None
        return parsed

    @property
    def model(self) -> str | None:
        """The field ``model`` of a JSON body, if there is one."""
        # An upload is not tried: it may be large, and it is no JSON.
        if _OBJECT.match(self.body.content) is None or not isinstance(self._parsed, dict):
            return None
        name = self._parsed.get("model")
        return name if isinstance(name, str) else None

    def json(self) -> dict[str, object]:
        """The JSON object of the body; raises `ApiError` 400 if it is none."""
        if not isinstance(self._parsed, dict):
            raise errors.ApiError(
                400, "We could not parse the JSON body of your request: it must be one JSON object."
            )
        return self._parsed

    def key(self) -> str:
        """The API key of the Authorization header; raises `ApiError` 401 without one."""
        scheme, _, key = self.headers.get("Authorization", "").partition(" ")
        if not key.strip() and scheme.lower() in ("", "bearer", "basic"):
            raise errors.missing_key()
        return key.strip() or scheme


class Api:
    """OpenAI's API as far as the mock has it. ``clock`` tells Unix time in seconds."""

    def __init__(self, files: FileShelf, clock: Callable[[], float]) -> None:
        self._files = files
        self._clock = clock
        self._routes: tuple[tuple[str, re.Pattern[str], Callable[..., Answer]], ...] = tuple(
            (method, re.compile(path), answer)
            for method, path, answer in (
                ("POST", r"/v1/chat/completions", self._chat),
                ("POST", r"/v1/responses", self._responses),
                ("POST", r"/v1/embeddings", self._embeddings),
                ("GET", r"/v1/models", self._models),
                ("GET", r"/v1/models/([^/]+)", self._model),
                ("POST", r"/v1/files", self._upload),
                ("GET", r"/v1/files", self._list_files),
                ("GET", r"/v1/files/([^/]+)", self._file),
                ("DELETE", r"/v1/files/([^/]+)", self._delete_file),
                ("GET", r"/v1/files/([^/]+)/content", self._file_content),
                ("POST", r"/v1/audio/speech", self._speech),
                ("POST", r"/v1/audio/transcriptions", self._transcription),
            )
        )

    def answer(self, request: Request, behaviour: Behaviour) -> Answer:
        """The answer to a request; raises `ApiError`.

        Checked in this order: the key (not for the echo and not where nothing is), an error the behaviour
        asks for, the path, the request itself.
        """
        route = self._find(request)
        if route is not None:
            key = request.key()
            if key == "sk-wrong" or key.startswith("sk-invalid"):
                raise errors.wrong_key(key)
        if behaviour.fails:
            raise errors.of_status(behaviour.status, behaviour.code, behaviour.retry_after_s)
        if route is not None:
            answer, names = route
            return answer(request, behaviour, *names)
        if is_echo(request.path):
            return _echo(request)
        raise errors.unknown_url(request.method, request.path)

    def _find(self, request: Request) -> tuple[Callable[..., Answer], list[str]] | None:
        for method, path, answer in self._routes:
            match = path.fullmatch(request.path)
            if match and method == request.method:
                return answer, [unquote(name) for name in match.groups()]
        return None

    def _now(self) -> int:
        return int(self._clock())

    def _chat(self, request: Request, behaviour: Behaviour) -> Answer:
        body = request.json()
        model = model_of(body)
        if body.get("max_tokens") is not None and model.startswith(_REASONING):
            raise errors.ApiError(
                400,
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                param="max_tokens",
                code="unsupported_parameter",
            )
        limit = token_limit(body, "max_completion_tokens") or token_limit(body, "max_tokens")
        messages = body.get("messages")
        if messages is None:
            raise errors.missing_parameter("messages")
        if not isinstance(messages, list) or not messages:
            raise errors.wrong_type("messages", "an array of at least one message")
        reply = reply_to(messages, limit, behaviour.chunks, "messages")
        if not flag(body, "stream"):
            return Answer(answers.chat(reply, model, request.id, self._now()))
        options = body.get("stream_options")
        usage = isinstance(options, dict) and flag(options, "include_usage")
        return Answer(answers.chat_stream(reply, model, request.id, self._now(), usage), EVENTS)

    def _responses(self, request: Request, behaviour: Behaviour) -> Answer:
        body = request.json()
        model = model_of(body)
        instructions = body.get("instructions")
        if instructions is not None and not isinstance(instructions, str):
            raise errors.wrong_type("instructions", "a string")
        given = body.get("input")
        if given is None:
            raise errors.missing_parameter("input")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        if not isinstance(items, list) or not items:
            raise errors.wrong_type("input", "a string or an array of at least one item")
        limit = token_limit(body, "max_output_tokens")
        system = [{"role": "system", "content": instructions}] if instructions else []
        speaker = Speaker(
            reply_to([*system, *items], limit, behaviour.chunks, "input"),
            model=model,
            id=request.id,
            created=self._now(),
            instructions=instructions,
            max_output_tokens=limit,
        )
        return Answer(speaker.stream(), EVENTS) if flag(body, "stream") else Answer(speaker.whole())

    def _embeddings(self, request: Request, behaviour: Behaviour) -> Answer:
        body = request.json()
        model = model_of(body)
        form = body.get("encoding_format", "float")
        if form not in ("float", "base64"):
            raise errors.invalid_value("encoding_format", "float or base64")
        dimensions = token_limit(body, "dimensions") or answers.DIMENSIONS
        if dimensions > 2 * answers.DIMENSIONS:
            raise errors.invalid_value("dimensions", f"at most {2 * answers.DIMENSIONS}")
        return Answer(answers.embeddings(inputs(body.get("input")), model, dimensions, form == "base64"))

    def _models(self, request: Request, behaviour: Behaviour) -> Answer:
        return Answer(answers.models())

    def _model(self, request: Request, behaviour: Behaviour, name: str) -> Answer:
        return Answer(answers.model(known_model(name)))

    def _upload(self, request: Request, behaviour: Behaviour) -> Answer:
        return Answer(self._files.upload(_form(request), request.id, self._now()))

    def _list_files(self, request: Request, behaviour: Behaviour) -> Answer:
        return Answer(self._files.list(request.query))

    def _file(self, request: Request, behaviour: Behaviour, id: str) -> Answer:
        return Answer(answers.to_json(self._files.find(id).about))

    def _delete_file(self, request: Request, behaviour: Behaviour, id: str) -> Answer:
        return Answer(self._files.delete(id))

    def _file_content(self, request: Request, behaviour: Behaviour, id: str) -> Answer:
        return Answer(self._files.find(id).content, "application/octet-stream")

    def _speech(self, request: Request, behaviour: Behaviour) -> Answer:
        body = request.json()
        model_of(body)
        for name in ("input", "voice"):
            if not body.get(name):
                raise errors.missing_parameter(name)
        if not isinstance(body["input"], str):
            raise errors.wrong_type("input", "a string")
        sound = _SOUNDS.get(str(body.get("response_format") or "mp3"))
        if sound is None:
            raise errors.invalid_value("response_format", "one of " + ", ".join(_SOUNDS))
        return Answer(answers.speech(body["input"]), sound)

    def _transcription(self, request: Request, behaviour: Behaviour) -> Answer:
        form = _form(request)
        known_model(form.required("model"))
        file = form.file()
        heard = answers.transcription(file.filename, file.body)
        kind = form.text("response_format") or "json"
        if kind not in ("json", "text"):
            raise errors.invalid_value("response_format", "json or text: the mock has no others")
        return (
            Answer(answers.to_json(heard))
            if kind == "json"
            else Answer(f"{heard.text}\n".encode(), "text/plain; charset=utf-8")
        )


def is_echo(path: str) -> bool:
    """Whether a path is the echo's: ``/v1/echo`` and all below it."""
    return _ECHO.fullmatch(path) is not None


def _echo(request: Request) -> Answer:
    """Exactly what was received, whatever it was."""
    received = {
        "method": request.method,
        "target": request.target,
        "headers": list(request.headers.get_all()),
        "body_sha256": request.body.sha256,
        "body_length": request.body.length,
    }
    return Answer(json.dumps(received, ensure_ascii=False).encode())


def _form(request: Request) -> Form:
    content_type = request.headers.get("Content-Type", "")
    return Form(content_type, bytes(request.body.content), request.headers)
