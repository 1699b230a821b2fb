"""What keys and paths are called where limits count them."""

from __future__ import annotations

import hashlib
import sys

import pytest

from proxy.stages import subject_names
from proxy.stages.subject_names import KEY_DIGITS, key_id, path_of


def test_a_key_is_named_by_its_hash_alone() -> None:
    assert key_id("sk-a") == hashlib.sha256(b"sk-a").hexdigest()[:KEY_DIGITS]
    # Two keys alike in their first characters are two keys; what is no text in UTF-8 is a key all the same.
    assert len({key_id("sk-" + "a" * 20 + end) for end in "xyz"}) == 3
    assert len(key_id("\udcff" * 10_000)) == KEY_DIGITS


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/chat/completions",
        b"/v1/chat/completions/",
        b"/v1/chat/completions//",
        b"/v1//chat///completions",
        b"/v1/chat/completions?x=/v1/y",
        b"/v1/chat/completions?",
        b"/v1/chat%2Fcompletions",
        b"/v1/%63hat/completion%73",
        b"/v1/chat/completions;x=1",
        b"/v1;a/chat;b=c/completions",
        b"/V1/Chat/COMPLETIONS",
        b"/v1/chat/completions%2f%3Bx",
    ],
)
def test_a_place_is_one_path_however_it_is_written(target: bytes) -> None:
    assert path_of(target) == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", "/"),
        (b"//", "/"),
        (b"/?x", "/"),
        (b"/v1/models/gpt-4", "/v1/models/gpt-4"),
        (b"/v1/a%0d%0ab", "/v1/a\r\nb"),
        (b"/v1/%E9", "/v1/\xe9"),
        (b"/v1/%zz", "/v1/%zz"),
    ],
)
def test_others_are_what_they_are(target: bytes, path: str) -> None:
    assert path_of(target) == path


def test_long_paths_are_cut_and_not_remembered() -> None:
    long = b"/v1/" + b"a" * 10_000
    assert path_of(long) == path_of(long + b"b") == "/v1/" + "a" * 508
    before = subject_names._path.cache_info().currsize
    for number in range(5):
        path_of(b"/v1/%d/" % number + b"b" * 600)
        path_of(b"/v1/models?" + b"q" * number * 1000)
    assert subject_names._path.cache_info().currsize <= before + 1
    assert sys.getsizeof(path_of(long)) < 1000
