"""Our wire keeps Tornado's contract: Tornado's own tests pass on it, but for those listed with their reasons."""

from __future__ import annotations

from collections import Counter

import pytest
from tornado.httpserver import HTTPServer

from tests.conformance.differences import DIFFERENCES, Difference
from tests.conformance.suite import LOOPS, MODULES, TESTS, play

DIFFERENT: dict[str, Difference] = {name: difference for difference in DIFFERENCES for name in difference.tests}

on_each_loop = pytest.mark.parametrize("loop", LOOPS)


@on_each_loop
@pytest.mark.parametrize("name", [name for name in TESTS if name not in DIFFERENT])
def test_a_test_of_tornado_passes_on_our_wire(name: str, loop: str) -> None:
    trouble = play(name, loop=loop).trouble
    if trouble:
        pytest.fail(trouble, pytrace=False)


@on_each_loop
@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_listed_fails_on_our_wire(name: str, loop: str) -> None:
    assert play(name, loop=loop).trouble, "it passes: take it off the list"


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_is_listed_passes_on_the_server_it_was_made_for(name: str) -> None:
    trouble = play(name, HTTPServer).trouble
    if trouble:
        pytest.fail(trouble, pytrace=False)


@pytest.mark.parametrize("name", DIFFERENT)
def test_it_is_the_log_where_the_list_says_so_and_more_where_not(name: str) -> None:
    passes = not play(name, ignores_logs=True).trouble
    assert passes is DIFFERENT[name].in_log_only


def test_each_is_listed_once_and_is_one_of_tornados() -> None:
    listed = Counter(name for difference in DIFFERENCES for name in difference.tests)
    assert [name for name, times in listed.items() if times > 1] == []
    assert sorted(set(listed) - set(TESTS)) == []
    assert all(difference.reason and difference.tests for difference in DIFFERENCES)


def test_the_tests_are_there_and_speak_to_our_wire() -> None:
    by_module = Counter(name.partition(".")[0] for name in TESTS)
    assert sorted(by_module) == sorted(MODULES)
    assert by_module["httpserver_test"] >= 70
    assert by_module["web_test"] >= 240
    name = "httpserver_test.KeepAliveTest.test_two_requests"
    assert play(name).connections == 1
    assert play(name, HTTPServer).connections == 0
