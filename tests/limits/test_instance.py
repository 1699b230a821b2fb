"""The directories of gateways: private, one each, and only the dead ones' are removed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.limits import instance
from proxy.limits.instance import hold_directory, open_instance, room_for
from tests.limits.forked import Child, run_apart

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _any_directory_is_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance, "is_in_memory", lambda path: path.is_dir())


def home_of(root: Path) -> Path:
    return root / f"sluice-{os.getuid()}"


def mode_of(path: Path) -> int:
    return path.stat(follow_symlinks=False).st_mode & 0o777


def killed_gateway(root: Path) -> Path:
    """The directory that a killed one has left."""
    before = set(home_of(root).glob("*"))

    def die() -> None:
        made = open_instance(root)
        (made.path / "data.mdb").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)

    assert Child(die).wait() == -signal.SIGKILL
    (path,) = set(home_of(root).glob("*")) - before
    return path


class TestOpening:
    def test_it_is_private_and_goes_at_the_end(self, tmp_path: Path) -> None:
        made = open_instance(tmp_path)
        assert made.path.parent == home_of(tmp_path)
        assert [mode_of(path) for path in (made.path, made.path.parent)] == [0o700, 0o700]
        assert {path.name: mode_of(path) for path in made.path.iterdir()} == {"lock.mdb": 0o600, "owner": 0o600}
        assert made.warning == ""
        assert repr(made) == f"<Instance {made.path}>"
        made.close()
        assert not made.path.exists()
        made.close()

    def test_a_wide_umask_changes_nothing(self, tmp_path: Path) -> None:
        before = os.umask(0)
        try:
            made = open_instance(tmp_path)
        finally:
            os.umask(before)
        assert [mode_of(path) for path in (made.path, made.path.parent)] == [0o700, 0o700]
        made.close()

    def test_each_gateway_has_its_own(self, tmp_path: Path) -> None:
        one, two = open_instance(tmp_path), open_instance(tmp_path)
        assert one.path != two.path
        assert one.path.is_dir()
        one.close()
        assert two.path.is_dir()
        two.close()

    def test_a_forked_child_does_not_remove_it(self, tmp_path: Path) -> None:
        made = open_instance(tmp_path)
        assert run_apart(made.close) == "None"
        assert made.path.is_dir()
        made.close()

    def test_without_memory_it_is_elsewhere_and_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(instance, "is_in_memory", lambda path: False)
        made = open_instance(tmp_path / "shm", tmp_path)
        assert made.path.parent == home_of(tmp_path)
        assert str(tmp_path / "shm") in made.warning
        assert "on a disk" in made.warning
        made.close()

    def test_what_may_not_be_written_to_is_not_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "shm").mkdir()
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "shm")
        made = open_instance(tmp_path / "shm", tmp_path)
        assert made.path.parent == home_of(tmp_path)
        made.close()

    def test_a_full_disk_leaves_nothing_behind(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(file: int, start: int, size: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match=r"No space left on device; make it larger .*shm_size"):
            open_instance(tmp_path)
        assert list(home_of(tmp_path).iterdir()) == []


class TestLeftovers:
    def test_those_of_killed_gateways_are_removed(self, tmp_path: Path) -> None:
        dead = [killed_gateway(tmp_path)]
        assert dead[0].is_dir()
        made = open_instance(tmp_path)
        assert not dead[0].exists()
        assert list(home_of(tmp_path).iterdir()) == [made.path]
        made.close()

    def test_those_of_living_ones_are_not(self, tmp_path: Path) -> None:
        read, write = os.pipe()

        def live() -> None:
            made = open_instance(tmp_path)
            os.write(write, made.path.name.encode())
            signal.pause()

        other = Child(live)
        name = os.read(read, 100).decode()
        open_instance(tmp_path).close()
        assert (home_of(tmp_path) / name).is_dir()
        other.kill()
        open_instance(tmp_path).close()
        assert not (home_of(tmp_path) / name).exists()
        os.close(read)
        os.close(write)

    def test_workers_of_a_killed_supervisor_keep_it_alive(self, tmp_path: Path) -> None:
        read, write = os.pipe()

        def supervise() -> None:
            made = open_instance(tmp_path)
            worker = Child(signal.pause)
            os.write(write, f"{worker.pid} {made.path.name}".encode())
            signal.pause()

        supervisor = Child(supervise)
        pid, name = os.read(read, 100).decode().split()
        supervisor.kill()
        open_instance(tmp_path).close()
        assert (home_of(tmp_path) / name).is_dir()
        os.kill(int(pid), signal.SIGKILL)
        for _ in range(1000):
            open_instance(tmp_path).close()
            if not (home_of(tmp_path) / name).exists():
                break
        assert not (home_of(tmp_path) / name).exists()
        os.close(read)
        os.close(write)

    def test_one_killed_while_it_was_made(self, tmp_path: Path) -> None:
        home_of(tmp_path).mkdir(0o700)
        (home_of(tmp_path) / "limits-0123").mkdir()
        open_instance(tmp_path).close()
        assert list(home_of(tmp_path).iterdir()) == []

    def test_what_is_not_ours_stays(self, tmp_path: Path) -> None:
        outside = tmp_path / "precious"
        outside.mkdir()
        (outside / "file").touch()
        home = home_of(tmp_path)
        home.mkdir(0o700)
        (home / "limits-link").symlink_to(outside)
        (home / "limits-file").touch()
        (home / "other").mkdir()
        owned_by_link = home / "limits-owner"
        owned_by_link.mkdir()
        (owned_by_link / "owner").symlink_to(outside / "file")
        open_instance(tmp_path).close()
        assert {path.name for path in home.iterdir()} == {"limits-link", "limits-file", "other", "limits-owner"}
        assert (outside / "file").exists()

    def test_links_inside_are_removed_and_not_followed(self, tmp_path: Path) -> None:
        outside = tmp_path / "precious"
        outside.mkdir()
        (outside / "file").touch()
        dead = killed_gateway(tmp_path)
        (dead / "link").symlink_to(outside)
        open_instance(tmp_path).close()
        assert not dead.exists()
        assert (outside / "file").exists()

    def test_a_home_that_others_may_enter_is_closed_to_them(self, tmp_path: Path) -> None:
        home_of(tmp_path).mkdir()
        home_of(tmp_path).chmod(0o777)
        open_instance(tmp_path).close()
        assert mode_of(home_of(tmp_path)) == 0o700

    def test_a_home_that_is_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        home_of(tmp_path).symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="no link"):
            open_instance(tmp_path)
        assert list((tmp_path / "elsewhere").iterdir()) == []

    def test_a_home_of_another_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mine = os.getuid()
        (tmp_path / f"sluice-{mine + 1}").mkdir()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        with pytest.raises(PermissionError, match=f"belongs to another user \\(uid {mine}\\)"):
            open_instance(tmp_path)


class Free(NamedTuple):
    """What a file system says of itself."""

    f_blocks: int
    f_bavail: int
    f_frsize: int = 4096


class TestRoom:
    def room(self, monkeypatch: pytest.MonkeyPatch, free: int, wanted: int, blocks: int = 1) -> int:
        monkeypatch.setattr(os, "statvfs", lambda path: Free(blocks, free // 4096))
        return room_for(Path("/dev/shm"), wanted)

    def test_by_itself_it_takes_half_of_what_is_free(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.room(monkeypatch, 64 * MIB, 0) == 32 * MIB

    def test_but_256_mib_at_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.room(monkeypatch, 64 * 1024 * MIB, 0) == 256 * MIB
        assert self.room(monkeypatch, 0, 0, blocks=0) == 256 * MIB, "a tmpfs without a limit"

    def test_what_is_asked_for_is_given_in_whole_pages(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.room(monkeypatch, 64 * MIB, 40 * MIB + 5) == 40 * MIB

    @pytest.mark.parametrize(("free", "wanted"), [(64 * MIB, 65 * MIB), (MIB, 0), (64 * MIB, 1000)])
    def test_too_little_says_what_to_do(self, monkeypatch: pytest.MonkeyPatch, free: int, wanted: int) -> None:
        with pytest.raises(ValueError, match=r"MiB free: make it larger .*shm_size: 512m.*or ask for less"):
            self.room(monkeypatch, free, wanted)

    def test_a_real_file_system(self, tmp_path: Path) -> None:
        assert room_for(tmp_path, 2 * MIB) == 2 * MIB


class TestDirectoryForSavedLimits:
    def test_it_is_made_and_private(self, tmp_path: Path) -> None:
        held = hold_directory(tmp_path / "a" / "b")
        assert mode_of(held.path) == 0o700
        held.close()

    def test_it_is_closed_to_others(self, tmp_path: Path) -> None:
        (tmp_path / "wide").mkdir()
        (tmp_path / "wide").chmod(0o755)
        hold_directory(tmp_path / "wide").close()
        assert mode_of(tmp_path / "wide") == 0o700

    def test_a_second_gateway_is_refused(self, tmp_path: Path) -> None:
        held = hold_directory(tmp_path / "a")
        with pytest.raises(BlockingIOError, match="another running gateway saves its limits in"):
            hold_directory(tmp_path / "a")
        held.close()
        held.close()
        hold_directory(tmp_path / "a").close()

    def test_a_killed_one_holds_nothing(self, tmp_path: Path) -> None:
        def die() -> None:
            hold_directory(tmp_path / "a")
            os.kill(os.getpid(), signal.SIGKILL)

        Child(die).wait()
        hold_directory(tmp_path / "a").close()

    def test_a_worker_lets_nobody_in(self, tmp_path: Path) -> None:
        held = hold_directory(tmp_path / "a")
        assert run_apart(held.close) == "None"
        with pytest.raises(BlockingIOError):
            hold_directory(tmp_path / "a")
        held.close()

    def test_what_a_killed_one_did_not_finish_is_removed(self, tmp_path: Path) -> None:
        (tmp_path / "limits.saved.123.new").touch()
        (tmp_path / "limits.saved").touch()
        hold_directory(tmp_path).close()
        assert {path.name for path in tmp_path.iterdir()} == {"limits.saved", "lock"}

    def test_that_of_another_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        mine = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: mine + 1)
        with pytest.raises(PermissionError, match="belongs to another user"):
            hold_directory(tmp_path)


class TestMemory:
    @pytest.fixture(autouse=True)
    def _real(self, monkeypatch: pytest.MonkeyPatch, _any_directory_is_memory: None) -> None:
        monkeypatch.undo()

    def test_a_tmpfs_is_memory_and_a_process_file_system_is_not(self) -> None:
        assert instance.is_in_memory(Path("/dev/shm"))
        assert not instance.is_in_memory(Path("/proc"))
        assert not instance.is_in_memory(Path("/nowhere"))

    def test_by_default_it_is_in_memory(self) -> None:
        made = open_instance()
        assert made.path.parent == home_of(Path("/dev/shm"))
        assert made.warning == ""
        made.close()
