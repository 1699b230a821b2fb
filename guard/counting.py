"""Python functions, counted exactly: calls, bytecode instructions, and calls into C, by function."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_HERE = str(Path(__file__).resolve().parent)
_ROOT = str(Path(__file__).resolve().parents[1])


class FunctionCounter:
    """Counts what this thread does between `start` and `stop`, whatever is in this package excepted."""

    def __init__(self) -> None:
        self._calls: Counter[CodeType] = Counter()
        self._steps: Counter[CodeType] = Counter()
        self._into_c: Counter[tuple[CodeType, str]] = Counter()

    def start(self) -> None:
        """Begin anew."""
        for counter in (self._calls, self._steps, self._into_c):
            counter.clear()
        # Pythons 3.12 and 3.13 report instructions only if some frame asked for them before tracing began.
        sys.settrace(_ask_for_steps)
        _nothing()
        sys.setprofile(self._on_profile)
        sys.settrace(self._on_call)

    def stop(self) -> dict[str, dict[str, float]]:
        """End; ``{function: {"calls": n, "steps": n, "C name": n ...}}``, functions named ``file:qualified.name``."""
        sys.settrace(None)
        sys.setprofile(None)
        found: dict[str, Counter[str]] = {}
        for calls, name in ((self._calls, "calls"), (self._steps, "steps")):
            for code, number in calls.items():
                found.setdefault(name_of(code), Counter())[name] += number
        for (code, name), number in self._into_c.items():
            found.setdefault(name_of(code), Counter())[f"C {name}"] += number
        return {name: dict(counts) for name, counts in found.items()}

    def _on_call(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if code.co_filename.startswith(_HERE):
            return None
        self._calls[code] += 1
        frame.f_trace_lines = False
        frame.f_trace_opcodes = True
        return self._on_step

    def _on_step(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "opcode":
            self._steps[frame.f_code] += 1
        return self._on_step

    def _on_profile(self, frame: FrameType, event: str, arg: Any) -> None:
        if event == "c_call" and not frame.f_code.co_filename.startswith(_HERE):
            module = getattr(arg, "__module__", None)
            name = getattr(arg, "__qualname__", None) or repr(type(arg))
            self._into_c[frame.f_code, f"{module}.{name}" if module and module != "builtins" else name] += 1


def _ask_for_steps(frame: FrameType, event: str, arg: object) -> Any:
    frame.f_trace_opcodes = True
    return None


def _nothing() -> None:
    """A frame to ask in."""


def name_of(code: CodeType) -> str:
    """``proxy/wire/server.py:ServerConnection._consume``: the same on every machine."""
    path = code.co_filename
    for parent in (f"{_ROOT}/", "/site-packages/", f"/python{sys.version_info.major}.{sys.version_info.minor}/"):
        _, found, rest = path.rpartition(parent)
        if found:
            path = rest
            break
    return f"{path}:{code.co_qualname}"
