"""A fuzzer that finds nothing proves nothing unless it would have found something."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from fuzz import campaign, report, session, targets
from fuzz.__main__ import main
from fuzz.campaign import BLIND, Plan, Result
from fuzz.mutation import Mutator, minimised
from fuzz.raw.book import Book
from fuzz.session import Current, Session, failure_of
from fuzz.target import Errors, Finding, Hang, Target, require, rule_of


def target_of(run: Any) -> Target:
    return Target("planted", "a planted mistake", run, (b"needle",), 256)


def state_of(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "planted.json").read_text())
    return state


def no_needle(data: bytes) -> None:
    require(b"needle" not in data, "there is a needle", data)


def test_a_session_finds_confirms_and_minimises(tmp_path: Path) -> None:
    tried = Session(target_of(no_needle), tmp_path, 0, 50, BLIND)
    mutator = Mutator([b"hay hay hay"], [b"needle"], 256, Random(1))
    while tried.one(mutator.next()):
        pass
    tried.close()
    state = state_of(tmp_path)
    assert state["inputs"] == 50
    assert state["is_done"]
    (found,) = state["findings"]
    assert found["rule"] == "there is a needle"
    assert found["times"] > 1
    assert Path(found["file"]).read_bytes() == b"needle"


def test_what_happens_once_is_told_as_such(tmp_path: Path) -> None:
    calls: list[bytes] = []

    def once(data: bytes) -> None:
        calls.append(data)
        require(len(calls) > 1, "the first time")

    tried = Session(target_of(once), tmp_path, 0, 2, BLIND)
    assert tried.one(b"a")
    assert not tried.one(b"b")
    assert [found["rule"] for found in state_of(tmp_path)["findings"]] == ["the first time (not every time)"]


def test_a_hang_is_a_finding_whatever_is_caught_on_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HANG_S", 0.05)

    def hang(data: bytes) -> None:
        while True:
            try:
                time.sleep(1)
            except Exception:
                continue

    error = failure_of(target_of(hang), b"")
    assert isinstance(error, Hang)
    assert rule_of(error) == "it took longer than a second"


def test_rules_name_where_an_exception_arose() -> None:
    def run(data: bytes) -> None:
        from proxy.core.address import parse_network

        parse_network("x")

    error = failure_of(target_of(run), b"")
    assert error is not None
    assert rule_of(error) == "ValueError at proxy/core/address.py:parse_network"
    assert rule_of(KeyError("x")) == "KeyError"


def test_a_logged_traceback_is_a_failure() -> None:
    errors = Errors()
    log = logging.getLogger("planted")
    log.propagate = False
    log.addHandler(errors)
    try:
        raise ValueError("x")
    except ValueError:
        log.exception("failed")
    with pytest.raises(ValueError, match="x"):
        errors.check()
    log.error("no traceback")
    log.warning("no error")
    with pytest.raises(Finding, match="no traceback"):
        errors.check()
    errors.check()


@pytest.mark.parametrize("size", [16, 256])
def test_mutations_differ_stay_short_and_can_be_had_again(size: int) -> None:
    seeds = [b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n", b"a, b"]
    first, second = (Mutator(seeds, [b"word"], size, Random(7)) for _ in range(2))
    made = [first.next() for _ in range(500)]
    assert made == [second.next() for _ in range(500)]
    assert len(set(made)) > 150
    assert max(map(len, made)) <= size
    assert any(b"word" in data for data in made)


def test_minimised_keeps_what_fails() -> None:
    assert minimised(b"aaaa<bbbb>cccc", lambda data: b"<" in data and b">" in data) == b"<>"
    assert minimised(b"x", lambda data: False) == b"x"


def test_the_input_under_way_can_be_read_from_outside(tmp_path: Path) -> None:
    current = Current(tmp_path / "now")
    current.set(b"long input")
    current.set(b"short")
    assert Current.read(tmp_path / "now") == b"short"
    assert Current.read(tmp_path / "none") == b""


def test_a_process_that_dies_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "NAMES", ())  # the session refuses the name, and ends with status 2
    plan = Plan(0.1, 0, 1, tmp_path)
    running = campaign._Running("nothing", BLIND, plan)
    while not running.is_over():
        time.sleep(0.02)
    assert [found["rule"] for found in running.result().findings] == ["the process ended with status 2"]


def test_the_command_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    args = [
        "language",
        "proxy_protocol",
        "--runs",
        "200",
        "--engine",
        "blind",
        "--folder",
        str(tmp_path),
        "--seed",
        "3",
    ]
    assert main([*args, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "in-process: 400 inputs of the 20,000,000 of a release (0.00 %: a reduced count)" in out
    figures = json.loads(file.read_text())
    assert figures["totals"] == {"in-process": 400, "raw": 0}
    assert [row["inputs"] for row in figures["targets"]] == [200, 200]


def test_the_table_says_what_was_reached() -> None:
    found = {"rule": "r", "message": "m", "input": "b''", "file": "f", "times": 2}
    results = [
        Result("request", "", "guided", 20_000_000, 10.0),
        Result("raw", "", "sockets", 1000, 1.0, 2**20, [found]),
    ]
    shown = report.table(results)
    assert "20,000,000  2,000,000" in shown
    assert "of a release (reached)" in shown
    assert "raw: 1,000 inputs of the 1,000,000 of a release (0.10 %: a reduced count)" in shown
    assert "raw: r (2 times)" in report.findings(results)


# the account of the attack over sockets

SHA_OF_A = "ca978112ca1b"


def line(sent: str, *, path: str = "/v1/x", credential: str | None = SHA_OF_A, route: str = "api") -> bytes:
    entry = {
        "upstream_sent": sent,
        "status": 200,
        "route": route,
        "method": "POST",
        "path": path,
        "credential": credential,
    }
    return json.dumps(entry).encode()


def test_the_account_is_even() -> None:
    book = Book()
    book.arrive("POST", b"/v1/x?q", b"Bearer a")
    book.log(line("yes"))
    book.log(line("no", path="/v1/y"))
    book.log(line("yes", path="/", route="chat"))
    book.arrive("POST", b"/v1/chat/completions", b"Bearer a")
    assert book.disagreements() == []
    assert (book.arrived, book.never_arrived, dict(book.said)) == (2, 0, {"yes": 2, "no": 1})


def test_an_unknown_may_have_arrived_or_not() -> None:
    book = Book()
    book.log(line("unknown"))
    assert book.disagreements() == []
    assert book.never_arrived == 1
    book.arrive("POST", b"/v1/x", b"Bearer a")
    assert (book.disagreements(), book.never_arrived) == ([], 0)


@pytest.mark.parametrize("sent", [["no"], [], ["yes", "yes"], ["no", "no"]])
def test_the_account_is_not_even(sent: list[str]) -> None:
    book = Book()
    book.arrive("POST", b"/v1/x", b"Bearer a")
    for word in sent:
        book.log(line(word))
    assert len(book.disagreements()) == 1


def test_what_arrived_twice_is_seen() -> None:
    book = Book()
    book.log(line("unknown"))
    for _ in range(2):
        book.arrive("POST", b"/v1/x", b"Bearer a")
    assert len(book.disagreements()) == 1
