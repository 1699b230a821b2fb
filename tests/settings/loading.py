"""Loading from text, for tests that are about what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from proxy.settings import ConfigError, Loaded, load


def load_text(folder: Path, text: str, environ: Mapping[str, str] | None = None, **options: str) -> Loaded:
    """Load a file of this text. The file is called sluice.yaml; ``options`` are dotted paths with __ for dots."""
    file = folder / "sluice.yaml"
    file.write_text(text, encoding="utf-8")
    return load(file, environ or {}, {name.replace("__", "."): value for name, value in options.items()})


def complaints(folder: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with this text, line by line, without the folder's name."""
    with pytest.raises(ConfigError) as raised:
        load_text(folder, text, environ)
    return [str(problem).replace(f"{folder}/", "") for problem in raised.value.problems]


def environment_complaints(environ: Mapping[str, str], config: Mapping[str, object] | None = None) -> list[str]:
    """What is wrong with this environment, over these settings."""
    with pytest.raises(ConfigError) as raised:
        load(config or {}, environ)
    return [str(problem) for problem in raised.value.problems]
