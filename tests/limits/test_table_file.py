"""The file of the shared store: it grows with what it holds, in every process, and never beyond its memory."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import monotonic

import lmdb
import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Claim, Rule, Window
from proxy.limits import table_file
from proxy.limits.instance import open_instance
from proxy.limits.shared import SharedStore
from proxy.limits.snapshot import Snapshot
from proxy.limits.store import StoreError
from proxy.limits.table_file import AGAIN_S, FIRST_BYTES, TableFile
from tests.limits.forked import Child, run_apart
from tests.support.clock import FakeClock

MIB = 1024 * 1024
MAX_BYTES = 6 * MIB
ASKED = Rule("limit", (Window("day", 5, 86_400),), GCRA, burst=5, max_subjects=1_000_000)


@pytest.fixture
def path() -> Iterator[Path]:
    instance = open_instance()
    yield instance.path
    instance.close()


def opened(path: Path, clock: FakeClock | None = None) -> SharedStore:
    return SharedStore(path, clock or monotonic, max_bytes=MAX_BYTES)


def admit(store: SharedStore, first: int, last: int) -> int:
    """How many of these subjects were admitted, each one's first request."""
    return sum(store.acquire((Claim(ASKED, f"subject {n}"),)).allowed for n in range(first, last))


def known(store: SharedStore, last: int) -> bool:
    return all(store.standing(Claim(ASKED, f"subject {n}")).is_known for n in range(0, last, 97))


def mapped(store: SharedStore) -> int:
    return int(store.env.info()["map_size"])


class Later(Child):
    """A child forked before this process opens the store, which begins when it is told to."""

    def __init__(self, work: Callable[[], object]) -> None:
        read, self._go = os.pipe()

        def wait() -> object:
            os.read(read, 1)
            return work()

        super().__init__(wait)
        os.close(read)

    def go(self) -> Later:
        os.write(self._go, b"x")
        os.close(self._go)
        return self


def is_whole(path: Path) -> bool:
    """Whether the file has memory for all of its size."""
    status = (path / "data.mdb").stat()
    return status.st_blocks * 512 >= status.st_size


class TestGrowing:
    def test_it_grows_with_what_it_holds_up_to_its_maximum(self, path: Path) -> None:
        store = opened(path)
        sizes = [mapped(store)]
        for n in range(0, 60_000, 1000):
            assert admit(store, n, n + 1000) == 1000 or mapped(store) == MAX_BYTES
            assert is_whole(path)
            assert mapped(store) == (path / "data.mdb").stat().st_size
            if mapped(store) != sizes[-1]:
                sizes.append(mapped(store))
        assert sizes == [MIB, 2 * MIB, 4 * MIB, MAX_BYTES]
        assert store.errors == 0
        assert known(store, 10_000)
        asyncio.run(store.close())

    def test_a_small_maximum_is_the_first_size(self, path: Path) -> None:
        file = TableFile(path, monotonic, FIRST_BYTES // 2 + 100)
        assert file.env.info()["map_size"] == FIRST_BYTES // 2
        file.close()

    def test_steps_are_bounded(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TableFile.tried, "__defaults__", (MIB // 2,))
        store = opened(path)
        admit(store, 0, 12_000)
        assert mapped(store) in (MIB + MIB // 2, 2 * MIB)
        asyncio.run(store.close())

    @pytest.mark.parametrize(
        "ask",
        [
            lambda store: admit(store, 0, 1),
            lambda store: store.standing(Claim(ASKED, "subject 0")),
            lambda store: store.reset(Claim(ASKED, "subject 0")),
            lambda store: store.give_back((Claim(ASKED, "subject 0"),), store.acquire((Claim(ASKED, "subject 1"),))),
            lambda store: store.sweep(),
            lambda store: store.figures(),
            lambda store: len(store),
            lambda store: store.keep_up(),
        ],
        ids=["acquire", "standing", "reset", "give_back", "sweep", "figures", "len", "keep_up"],
    )
    def test_what_another_process_has_made_larger_is_adopted(
        self, path: Path, ask: Callable[[SharedStore], object]
    ) -> None:
        other = Later(lambda: admit(opened(path), 0, 12_000))
        store = opened(path)
        assert other.go().answer() == "12000"
        assert mapped(store) == MIB
        ask(store)
        assert mapped(store) == (path / "data.mdb").stat().st_size == 2 * MIB
        assert store.errors == 0
        asyncio.run(store.close())

    def test_a_process_that_comes_later_does_not_cut_it(self, path: Path) -> None:
        other = Later(lambda: (mapped(late := opened(path)), known(late, 12_000)))
        store = opened(path)
        admit(store, 0, 12_000)
        assert other.go().answer() == f"({2 * MIB}, True)"
        assert known(store, 12_000)
        asyncio.run(store.close())

    def test_processes_that_grow_it_at_the_same_time(self, path: Path) -> None:
        # Each has subjects of its own; together they fill several steps.
        children = [Child(partial(lambda n: admit(opened(path), n, n + 7000), n)) for n in range(0, 28_000, 7000)]
        assert [int(child.answer()) for child in children] == [7000] * 4
        store = opened(path)
        assert len(store) == 28_000
        assert known(store, 28_000)
        asyncio.run(store.close())

    def test_what_is_saved_meanwhile_is_read_once_more(self, path: Path, tmp_path: Path) -> None:
        store = opened(path)
        admit(store, 0, 6000)
        snapshot = Snapshot(tmp_path, monotonic, monotonic)

        def grow() -> None:
            if mapped(store) == MIB:
                admit(store, 6000, 12_000)

        # Between slices, where no transaction is open; and one that is.
        reading = store.env.begin()
        assert snapshot.save(store.env, grow) > 6000
        assert mapped(store) == 2 * MIB
        with pytest.raises(lmdb.Error):
            reading.get(b"a")
        asyncio.run(store.close())


class TestWithoutRoom:
    def test_a_file_system_that_is_full(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = FakeClock()
        store = opened(path, clock)
        calls = []

        def full(file: int, start: int, size: int) -> None:
            calls.append(size)
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "posix_fallocate", full)
        admitted = 0
        with pytest.raises(StoreError, match="No space left"):  # noqa: PT012
            while admitted < 12_000:
                admitted += admit(store, admitted, admitted + 1)
        assert len(store) == admitted > 5000
        # Whoever has an account with room is served; it is tried again only after a while.
        assert admit(store, 0, 100) == 100
        with pytest.raises(StoreError, match="No space left"):
            admit(store, admitted, 12_000)
        assert len(calls) == 1
        monkeypatch.undo()
        clock.advance(AGAIN_S)
        assert admit(store, admitted, 12_000) == 12_000 - admitted
        assert is_whole(path)
        asyncio.run(store.close())

    def test_a_new_file_without_its_memory_is_no_store(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(file: int, start: int, size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            with pytest.raises(StoreError, match=r"cannot be opened: .* No space left"):
                opened(path)
        # The next one finds a file of the full size without memory.
        assert not is_whole(path)
        store = opened(path)
        assert is_whole(path)
        assert admit(store, 0, 12_000) == 12_000
        asyncio.run(store.close())

    def test_killed_before_the_file_got_its_memory(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def die() -> None:
            monkeypatch.setattr(os, "posix_fallocate", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            opened(path)

        assert Child(die).wait() == -signal.SIGKILL
        assert not is_whole(path)
        store = opened(path)
        assert is_whole(path)
        asyncio.run(store.close())

    def test_killed_before_it_mapped_what_it_had_made_larger(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die() -> None:
            store = opened(path)
            monkeypatch.setattr(TableFile, "_map", die_mapping)
            admit(store, 0, 12_000)

        def die_mapping(file: TableFile, size: int) -> None:
            file._file.reserve(size)
            os.kill(os.getpid(), signal.SIGKILL)

        other = Later(die)
        store = opened(path)
        assert other.go().wait() == -signal.SIGKILL
        assert (path / "data.mdb").stat().st_size == 2 * MIB
        assert admit(store, 20_000, 32_000) == 12_000
        assert mapped(store) >= 2 * MIB
        assert known(store, 5000)
        asyncio.run(store.close())


def test_a_table_that_could_not_be_mapped_is_opened_anew(path: Path) -> None:
    def child() -> tuple[bool, bool, int]:
        store = opened(path)
        before = admit(store, 0, 5000)
        size = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
        resource.setrlimit(resource.RLIMIT_AS, (size + MIB // 2, resource.RLIM_INFINITY))
        failed = False
        try:
            admit(store, 5000, 12_000)
        except StoreError:
            failed = True
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for _ in range(2):
            with suppress(StoreError):
                admit(store, 0, 1)
        return failed, known(store, before), admit(store, 20_000, 25_000)

    assert run_apart(child) == "(True, True, 5000)"


def test_on_a_disk_nothing_is_written_through_a_map(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_file, "file_system", lambda path: "ext4")
    store = opened(path)
    assert not store.env.flags()["writemap"]
    assert mapped(store) == MAX_BYTES
    assert admit(store, 0, 12_000) == 12_000
    assert (path / "data.mdb").stat().st_size < MAX_BYTES
    asyncio.run(store.close())
