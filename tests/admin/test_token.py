"""The token's file: ours alone, found again, gone at the end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from proxy.admin.token import TokenFile, find_token


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(tmp_path)}


def directory(environ: dict[str, str]) -> Path:
    return Path(environ["XDG_RUNTIME_DIR"]) / f"sluice-{os.geteuid()}"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_only_we_can_read_it_and_it_is_found_until_it_is_removed(environ: dict[str, str]) -> None:
    os.umask(old := os.umask(0))
    os.umask(0)
    try:
        file = TokenFile(5001, environ)
    finally:
        os.umask(old)
    assert file.path == directory(environ) / "admin-5001.token"
    assert (mode(file.path), mode(file.path.parent)) == (0o600, 0o700)
    assert len(file.token) >= 40
    assert find_token(5001, environ) == file.token
    assert file.token not in repr(file)
    file.remove()
    file.remove()
    with pytest.raises(FileNotFoundError, match=r"admin\.token"):
        find_token(5001, environ)


def test_each_start_has_another_and_a_file_left_behind_is_replaced(environ: dict[str, str]) -> None:
    first = TokenFile(5001, environ)
    second = TokenFile(5001, environ)
    assert first.token != second.token
    first.remove()
    assert find_token(5001, environ) == second.token
    second.remove()


def test_a_file_that_is_a_link_is_not_followed(environ: dict[str, str], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory(environ).mkdir(mode=0o700)
    (directory(environ) / "admin-5001.token").symlink_to(victim)
    TokenFile(5001, environ)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("trap", ["link", "open", "file", "foreign"])
def test_a_directory_that_others_could_have_a_hand_in_is_refused(
    trap: str, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = directory(environ)
    if trap == "link":
        (tmp_path / "theirs").mkdir(mode=0o700)
        place.symlink_to(tmp_path / "theirs")
    elif trap == "file":
        place.write_text("")
    else:
        place.mkdir(mode=0o700)
    if trap == "open":
        place.chmod(0o750)
    if trap == "foreign":
        found = os.lstat(place)
        theirs = os.stat_result((*found[:4], found.st_uid + 1, *found[5:10]))
        monkeypatch.setattr("proxy.admin.token.os.lstat", lambda path: theirs)
    for attempt in (lambda: TokenFile(5001, environ), lambda: find_token(5001, environ)):
        with pytest.raises(PermissionError, match="sluice-"):
            attempt()


def test_without_a_runtime_directory_it_is_in_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.admin.token._SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    file = TokenFile(5001, {"XDG_RUNTIME_DIR": str(tmp_path / "missing"), "TMPDIR": str(tmp_path)})
    assert file.path.parent.parent == tmp_path / "shm"
    assert find_token(5001, {}) == file.token
    (tmp_path / "shm").rename(tmp_path / "gone")
    assert TokenFile(5001, {"TMPDIR": str(tmp_path)}).path.parent.parent == tmp_path
    with pytest.raises(FileNotFoundError, match="no place for the admin token"):
        TokenFile(5001, {"TMPDIR": str(tmp_path / "missing")})


def test_of_several_places_the_newest_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.admin.token._SHARED_MEMORY", tmp_path / "shm")
    (tmp_path / "shm").mkdir()
    here = {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path / "none")}
    # One of a gateway that was killed, and one of the next, which an init system started.
    files = [TokenFile(5001, here), TokenFile(5001, {})]
    assert len({file.path for file in files}) == 2
    for newest in files:
        for file in files:
            seconds = 2000 if file is newest else 1000
            os.utime(file.path, (seconds, seconds))
        assert find_token(5001, here) == newest.token
