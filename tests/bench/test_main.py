"""The command line: what it takes, who is left out and why, and what it writes."""

from __future__ import annotations

import json
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
    "argv", [["--rounds", "0"], ["--seconds", "-1"], ["--peers", "nobody"], ["--only", "nothing"], ["--seconds", "x"]]
)
def test_nonsense_is_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command._parser().parse_args(argv)
    assert ended.value.code == 2
    assert argv[0] in capsys.readouterr().err


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
    assert json.loads(files[0].read_text())["rows"][0]["median"]["nginx"] == 20.0
    assert files[1].read_text().startswith("<svg ")
