"""Every seed and every input that once found something, with the oracle of its target."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import targets
from fuzz.report import RAW
from fuzz.session import failure_of
from fuzz.target import REGRESSIONS, SEEDS, seed_files

FILES = [pytest.param(name, path, id=f"{name}-{path.name}") for name in targets.NAMES for path in seed_files(name)]


@pytest.mark.parametrize(("name", "path"), FILES)
def test_every_promise_holds(name: str, path: Path) -> None:
    target = targets.load(name)
    data = path.read_bytes()
    assert len(data) <= target.max_bytes, "mutations would cut it"
    error = failure_of(target, data)
    if error is not None:
        raise error


def test_every_folder_of_seeds_has_a_target_and_every_target_seeds() -> None:
    folders = {path.name for path in SEEDS.iterdir() if path != REGRESSIONS}
    assert folders == {*targets.NAMES, RAW}
    assert {path.name for path in REGRESSIONS.iterdir()} <= folders
    assert all(len(seed_files(name)) >= 5 for name in folders)
