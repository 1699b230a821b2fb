"""What the mock says: a reply made of the caller's own words, cut and measured in words.

A token is a word here, with the white space before it: ``"".join(words)`` is always the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from proxy.mock import errors


class Reply(NamedTuple):
    """The words of an answer. ``cut`` tells that a token limit ended it; the counts are in words."""

    words: list[str]
    cut: bool
    prompt_tokens: int

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.words)


def reply_to(messages: Iterable[object], limit: int | None, chunks: int | None, param: str) -> Reply:
    """Answer a dialogue: repeat the last user message.

    ``limit`` is the caller's token limit, ``chunks`` the length the mock was told to answer with. A message is
    ``{"role", "content"}`` with a string or a list of parts; anything else raises `ApiError` 400.
    """
    prompt_tokens = 0
    said = ""
    for number, message in enumerate(messages):
        if not isinstance(message, dict):
            raise errors.wrong_type(f"{param}[{number}]", "an object")
        text = content_text(message.get("content"), f"{param}[{number}].content")
        prompt_tokens += len(split(text))
        if message.get("role") == "user":
            said = text
    words = split(f"You said: {said}")
    if chunks is not None:
        words = [words[0], *(f" {words[n % len(words)].strip()}" for n in range(1, chunks))]
    cut = limit is not None and len(words) > limit
    return Reply(words[:limit] if cut else words, cut, prompt_tokens)


def content_text(content: object, param: str) -> str:
    """The text of a message's content: a string, or the text parts of a list. Null is empty."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise errors.wrong_type(param, "a string or an array of parts")
    texts: list[str] = []
    for number, part in enumerate(content):
        if not isinstance(part, dict):
            raise errors.wrong_type(f"{param}[{number}]", "an object")
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
    return " ".join(texts)


def split(text: str) -> list[str]:
    """The words of a text, each with the white space before it; white space at the end is a word of its own."""
    return re.findall(r"\s*\S+|\s+$", text)
