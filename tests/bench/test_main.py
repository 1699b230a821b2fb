"""The command line: what it takes, who is left out and why, and what it writes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

import pytest

from bench import __main__ as command
from bench.install import Unavailable
from bench.peers import BASELINE, PEERS
from bench.section import TRANSPORTS, Bench, Sample


def test_everything_is_measured_unless_told_otherwise() -> None:
    args = command._parser().parse_args([])
    assert list(args.peers) == list(PEERS)
    assert list(args.only) == ["memory", "cpu", "latency", "first_byte", "start_up", "workers", "streams"]
    assert list(args.transports) == list(TRANSPORTS)
    assert not args.quick


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--rounds", "0"], "a whole number from 1 to 100 is needed, not '0'"),
        (["--rounds", "two"], "a whole number from 1 to 100 is needed, not 'two'"),
        (["--seconds", "0"], "a number of seconds from 0.1 on is needed, not '0'"),
        (["--seconds", "-1"], "not '-1'"),
        (["--seconds", "inf"], "not 'inf'"),
        (["--seconds", "nan"], "not 'nan'"),
        (["--seconds", "x"], "not 'x'"),
        (["--peers", "nobody"], "nobody"),
        (["--only", "nothing"], "nothing"),
        (["--chart", "a.svg", "--only", "memory", "latency"], "section cpu, which is not measured"),
    ],
)
def test_nonsense_is_refused_before_anything_is_done(
    argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(*_: object) -> int:
        raise AssertionError("it began")

    monkeypatch.setattr(command, "_run", measured)
    with pytest.raises(SystemExit) as ended:
        command.main(argv)
    assert ended.value.code == 2
    assert argv[0] in (error := capsys.readouterr().err)
    assert said in error


def test_who_is_not_to_be_had_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def install() -> None:
        raise Unavailable("This needs node.")

    def ensure(programs: Iterable[str]) -> None:
        assert list(programs) == ["openssl"]

    monkeypatch.setattr(command, "ensure", ensure)
    monkeypatch.setattr(PEERS["nginx"], "install", lambda: None)
    monkeypatch.setattr(PEERS["portkey"], "install", install)
    kinds, notes = command._available(["nginx", "portkey", "sluice"])
    assert kinds == [PEERS["nginx"], PEERS["sluice"]]
    assert notes == ["portkey is left out: This needs node."]


@pytest.mark.parametrize(("values", "status"), [((20.0, 50.0), 0), ((20.0, None), 1)])
def test_a_run_writes_what_it_prints(
    values: tuple[float, float | None],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def measure(bench: Bench, sections: object, transports: object) -> None:
        for kind, value in zip(bench.kinds, values, strict=True):
            bench.versions[kind.name] = "1"
            if value is None:
                bench.trouble_with("json_us", kind.name, "plain", RuntimeError("2 × status 502"))
            else:
                bench.record(Sample("json_us", kind.name, "plain", 1, value))

    monkeypatch.setattr(command, "_measure", measure)
    monkeypatch.setattr(command, "_available", lambda names: ([PEERS[name] for name in names], []))
    monkeypatch.setattr(command, "_raise_limit_of_open_files", lambda: None)
    files = tmp_path / "all.json", tmp_path / "chart.svg"
    argv = ["--peers", BASELINE, "sluice", "--json", str(files[0]), "--chart", str(files[1]), "--markdown"]
    assert command.main(argv) == status
    said = capsys.readouterr().out
    assert f"| CPU per JSON request, µs | 20.0 | {'50.0 (2.50×)' if status == 0 else 'failed'} |" in said
    assert ("note: failed: sluice, json_us, plain: 2 × status 502" in said) == (status == 1)
    written = json.loads(files[0].read_text())
    assert written["rows"][0]["median"]["nginx"] == 20.0
    assert written["command"] == shlex.join(["python", "-m", "bench", *argv])
    assert f"`{written['command']}`, {written['date']}, " in said
    assert "note: sluice: limits by gcra" in said
    last = "missed: CPU per JSON request, × nginx, stretch ≤ 2.2: 2.50"
    assert (said.splitlines()[-1] == last) == (status == 0)
    assert files[1].read_text().startswith("<svg ")
