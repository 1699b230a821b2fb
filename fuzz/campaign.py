"""Every target in a process of its own, a few at a time, watched from outside."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fuzz.session import Current
from fuzz.target import ROOT

GUIDED, BLIND = "guided", "blind"
"""With coverage (atheris), and without."""
_SILENT_S = 30.0
"""A session that has noted nothing for so long hangs where no signal reaches it."""
_POLL_S = 0.2


@dataclass
class Result:
    """What came of one target. Times in seconds; a finding has rule, message, input, file and times."""

    target: str
    about: str = ""
    engine: str = ""
    inputs: int = 0
    seconds: float = 0.0
    rss_growth_bytes: int = 0
    findings: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Inputs per second."""
        return self.inputs / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Plan:
    """How long, how many, and where to."""

    seconds: float
    runs: int
    seed: int
    folder: Path
    engines: tuple[str, ...] = (BLIND,)
    """Each target is tried with each of these, and each has its part of ``seconds`` and ``runs``."""

    @property
    def share(self) -> Plan:
        """The part of one engine."""
        count = len(self.engines)
        return replace(self, seconds=self.seconds / count, runs=-(-self.runs // count))


class _Running:
    """One session's process."""

    def __init__(self, name: str, engine: str, plan: Plan) -> None:
        self.name, self.engine = name, engine
        folder = self._folder = plan.folder / engine
        folder.mkdir(parents=True, exist_ok=True)
        self._state = folder / f"{name}.json"
        self._state.unlink(missing_ok=True)
        argv = [sys.executable, "-m", "fuzz.session", name, f"--folder={folder}", f"--seed={plan.seed}"]
        argv += [f"--engine={engine}", f"--seconds={plan.seconds}", f"--runs={plan.runs}"]
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as said:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT
            )
        self._began = time.time()

    def is_over(self) -> bool:
        """Whether it has ended, or had to be ended."""
        if self._process.poll() is not None:
            return True
        noted = self._state.stat().st_mtime if self._state.exists() else self._began + _SILENT_S
        if time.time() - noted <= _SILENT_S:
            return False
        self.stop()
        return True

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def result(self) -> Result:
        """What it has written down, and what its end says."""
        state: dict[str, Any] = {"target": self.name, "engine": self.engine}
        if self._state.exists():
            state = json.loads(self._state.read_text())
        is_done = state.pop("is_done", False)
        result = Result(**state)
        if not is_done:
            said = self._log.read_text(errors="replace")[-1500:]
            name = self._folder / f"{self.name}-ended"
            data = Current.read(self._folder / f"{self.name}.now")
            name.write_bytes(data)
            rule = f"the process ended with status {self._process.returncode}"
            result.findings.append(
                {"rule": rule, "message": said, "input": repr(data[:400]), "file": str(name), "times": 1}
            )
        return result


def run(names: Sequence[str], plan: Plan, jobs: int) -> list[Result]:
    """Try these targets with every engine of the plan, ``jobs`` at a time; the results in that order."""
    order = [(name, engine) for name in names for engine in plan.engines]
    waiting = order[:]
    running: list[_Running] = []
    results: dict[tuple[str, str], Result] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(_Running(*waiting.pop(0), plan.share))
            time.sleep(_POLL_S)
            for session in [session for session in running if session.is_over()]:
                running.remove(session)
                result = results[session.name, session.engine] = session.result()
                said = f"{result.inputs:,} inputs, {len(result.findings)} finding(s)"
                print(f"{result.target}, {session.engine}: {said}", flush=True)
    finally:
        for session in running:
            session.stop()
    return [results[key] for key in order]
