"""The Responses API: a response as one object, or as the events of its stream.

Events and their order: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseIncompleteEvent,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
    ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

from proxy.mock.answers import event, to_json
from proxy.mock.text import Reply

Event = (
    ResponseCreatedEvent
    | ResponseInProgressEvent
    | ResponseOutputItemAddedEvent
    | ResponseContentPartAddedEvent
    | ResponseTextDeltaEvent
    | ResponseTextDoneEvent
    | ResponseContentPartDoneEvent
    | ResponseOutputItemDoneEvent
    | ResponseCompletedEvent
    | ResponseIncompleteEvent
)


class Speaker:
    """One response in the making: what all its events have in common."""

    def __init__(
        self,
        reply: Reply,
        *,
        model: str,
        id: str,
        created: int,
        instructions: str | None,
        max_output_tokens: int | None,
    ) -> None:
        self._reply = reply
        self._model = model
        self._id = f"resp_{id}"
        self._item_id = f"msg_{id}"
        self._created = created
        self._instructions = instructions
        self._max_output_tokens = max_output_tokens
        self._end: Literal["incomplete", "completed"] = "incomplete" if reply.cut else "completed"

    def whole(self) -> bytes:
        """The finished response as JSON."""
        return to_json(self._finished())

    def stream(self) -> Iterator[bytes]:
        """The events of its stream; the type of each is its ``event:`` line too."""
        for one in self._events():
            yield event(one, one.type)

    def _events(self) -> Iterator[Event]:
        begun = self._response("in_progress", [])
        yield ResponseCreatedEvent(type="response.created", sequence_number=0, response=begun)
        yield ResponseInProgressEvent(type="response.in_progress", sequence_number=1, response=begun)
        yield ResponseOutputItemAddedEvent(
            type="response.output_item.added",
            sequence_number=2,
            output_index=0,
            item=ResponseOutputMessage(
                id=self._item_id, type="message", role="assistant", status="in_progress", content=[]
            ),
        )
        yield ResponseContentPartAddedEvent(
            type="response.content_part.added",
            sequence_number=3,
            item_id=self._item_id,
            output_index=0,
            content_index=0,
            part=_text(""),
        )
        for number, word in enumerate(self._reply.words, 4):
            yield ResponseTextDeltaEvent(
                type="response.output_text.delta",
                sequence_number=number,
                item_id=self._item_id,
                output_index=0,
                content_index=0,
                delta=word,
                logprobs=[],
            )
        yield from self._ending(4 + len(self._reply.words))

    def _ending(self, number: int) -> Iterator[Event]:
        yield ResponseTextDoneEvent(
            type="response.output_text.done",
            sequence_number=number,
            item_id=self._item_id,
            output_index=0,
            content_index=0,
            text=self._reply.text,
            logprobs=[],
        )
        yield ResponseContentPartDoneEvent(
            type="response.content_part.done",
            sequence_number=number + 1,
            item_id=self._item_id,
            output_index=0,
            content_index=0,
            part=_text(self._reply.text),
        )
        yield ResponseOutputItemDoneEvent(
            type="response.output_item.done", sequence_number=number + 2, output_index=0, item=self._message()
        )
        if self._reply.cut:
            yield ResponseIncompleteEvent(
                type="response.incomplete", sequence_number=number + 3, response=self._finished()
            )
        else:
            yield ResponseCompletedEvent(
                type="response.completed", sequence_number=number + 3, response=self._finished()
            )

    def _message(self) -> ResponseOutputMessage:
        return ResponseOutputMessage(
            id=self._item_id,
            type="message",
            role="assistant",
            status=self._end,
            content=[_text(self._reply.text)],
        )

    def _finished(self) -> Response:
        response = self._response(self._end, [self._message()])
        said = len(self._reply.words)
        response.usage = ResponseUsage(
            input_tokens=self._reply.prompt_tokens,
            input_tokens_details=InputTokensDetails(cached_tokens=0, cache_write_tokens=0),
            output_tokens=said,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=0),
            total_tokens=self._reply.prompt_tokens + said,
        )
        if self._reply.cut:
            response.incomplete_details = IncompleteDetails(reason="max_output_tokens")
        return response

    def _response(
        self, status: Literal["in_progress", "incomplete", "completed"], output: list[ResponseOutputMessage]
    ) -> Response:
        return Response(
            id=self._id,
            object="response",
            created_at=self._created,
            status=status,
            error=None,
            incomplete_details=None,
            instructions=self._instructions,
            max_output_tokens=self._max_output_tokens,
            metadata={},
            model=self._model,
            output=[*output],
            parallel_tool_calls=True,
            previous_response_id=None,
            temperature=1.0,
            tool_choice="auto",
            tools=[],
            top_p=1.0,
            truncation="disabled",
            usage=None,
        )


def _text(text: str) -> ResponseOutputText:
    return ResponseOutputText(type="output_text", text=text, annotations=[], logprobs=[])
