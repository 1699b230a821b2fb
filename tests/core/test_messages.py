"""The sentences the gateway says: each is complete, distinct and fillable."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from proxy.core import messages
from proxy.core.messages import MESSAGES, Message, Sentence

PACKAGE = Path(messages.__file__).resolve().parents[1]
NAMES = {name for name, value in vars(messages).items() if isinstance(value, Message)}


def test_all_messages_are_listed() -> None:
    assert sorted(MESSAGES) == sorted(getattr(messages, name) for name in NAMES)
    assert len({message.singular for message in MESSAGES}) == len(MESSAGES)


@pytest.mark.parametrize("message", MESSAGES)
def test_sentences_are_plain_ascii_and_end_where_they_should(message: Message) -> None:
    for text in filter(None, message):
        assert text.isascii()
        assert text == text.strip()
        assert message in (messages.SUCCESS, messages.FAILED) or text[-1] in ".}"


@pytest.mark.parametrize("message", MESSAGES)
def test_placeholders_are_simple_names(message: Message) -> None:
    for text in filter(None, message):
        assert re.findall(r"[{}]", re.sub(r"\{[a-z_]+\}", "", text)) == []


@pytest.mark.parametrize("message", MESSAGES)
def test_a_plural_counts_and_differs(message: Message) -> None:
    if message.plural:
        assert message.singular != message.plural
        assert "{count}" in message.singular
        assert "{count}" in message.plural
    else:
        assert "{count}" not in message.singular


def test_a_sentence_needs_no_parameters() -> None:
    assert Sentence(messages.SUCCESS).params == {}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_message_is_said_somewhere(name: str) -> None:
    assert name in _names_used(), f"{name} is translated four times and never said: remove it"


def _names_used() -> frozenset[str]:
    if not _USED:
        for path in PACKAGE.rglob("*.py"):
            if path.name != "messages.py":
                tree = ast.parse(path.read_bytes())
                _USED.update(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
                _USED.update(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return frozenset(_USED)


_USED: set[str] = set()
