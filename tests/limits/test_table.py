"""The layout of the shared table: keys that are told apart, and counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.rate import Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits import table
from proxy.limits.table import Space

RULE = Rule("one", (Window("minute", 3, 60),), SLIDING)
SUBJECTS = st.text(st.characters(), max_size=60)


@pytest.fixture
def env(tmp_path: Path) -> Iterator[lmdb.Environment]:
    with lmdb.open(str(tmp_path), sync=False) as env:
        yield env


@given(one=SUBJECTS, two=SUBJECTS, numbers=st.tuples(st.integers(1, 65_535), st.integers(1, 65_535)))
def test_keys_differ_as_their_subjects_and_spaces_do(one: str, two: str, numbers: tuple[int, int]) -> None:
    first, second = (Space(number, "") for number in numbers)
    assert (first.key(one) == second.key(two)) is ((one, numbers[0]) == (two, numbers[1]))
    assert table.number_of(first.key(one)) == numbers[0]
    assert first.key(one) not in (first.count_key, first.shared_key(RULE))


@given(subject=st.text(st.characters(), max_size=2000))
def test_keys_are_short_and_above_the_register(subject: str) -> None:
    assert Space(1, "").key(subject) >= table.FIRST
    assert len(Space(1, "").key(subject)) <= 3 + table.MAX_PLAIN_BYTES


def test_a_hash_is_not_a_subject() -> None:
    # Who names himself as another's hash reads has another account.
    space = Space(1, "")
    long = space.key("a" * 1000)
    assert long[:3] != space.key("b")[:3]


@pytest.mark.parametrize("subject", ["\udc80", "a\x00", "", "я" * 20])
def test_any_text_is_a_subject(subject: str) -> None:
    assert Space(1, "").key(subject)[3:] == subject.encode("utf-8", "surrogatepass")


def test_the_register(env: lmdb.Environment) -> None:
    names = ["limit/sliding", "limit/gcra/60", "x" * 5000, "ю\udc80"]
    for _ in range(2):
        with env.begin(write=True) as txn:
            assert [table.register(txn, name).number for name in names] == [1, 2, 3, 4]
    with env.begin() as txn:
        assert {space.name: space.number for space in table.spaces(txn)} == dict(
            zip(names, (1, 2, 3, 4), strict=True)
        )


def test_counts(env: lmdb.Environment) -> None:
    with env.begin(write=True) as txn:
        one, two = table.register(txn, "one"), table.register(txn, "two")
        assert one.count(txn) == 0
        one.add(txn, 3)
        one.add(txn, -1)
        two.add(txn, 1)
        assert (one.count(txn), two.count(txn)) == (2, 1)


def test_a_walk_sees_accounts_alone(env: lmdb.Environment) -> None:
    with env.begin(write=True) as txn:
        space = table.register(txn, "one")
        space.add(txn, 1)
        txn.put(table.FILLED, b"")
        txn.put(space.key("a"), b"value")
        txn.put(space.shared_key(RULE), b"shared")
        found = [(bytes(key), bytes(value)) for key, value in table.walk(txn, table.FIRST)]
    assert found == [(space.shared_key(RULE), b"shared"), (space.key("a"), b"value")]
