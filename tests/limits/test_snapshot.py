"""Saved limits: what a restart and a reboot leave of them, and files that are not what they should be."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic, sleep

import pytest

from proxy.core.gcra import GCRA
from proxy.core.rate import Algorithm, Claim, Rule, Window
from proxy.core.sliding import SLIDING
from proxy.limits import snapshot
from proxy.limits.instance import open_instance
from proxy.limits.shared import SharedStore
from proxy.limits.snapshot import DUTY, Saver, Snapshot, SnapshotError
from proxy.limits.stamp import Stamp
from proxy.limits.store import StoreError
from tests.limits.contract import BOTH, rule
from tests.support.clock import FakeClock

DAY = Window("day", 3, 86_400)
WALL = 1_800_000_000.0


class Machine:
    """A machine with a directory that survives, and tables in memory that do not."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = FakeClock(50_000.0)
        self.wall = FakeClock(WALL)
        self.boot_id = "first"
        self.max_bytes = 8 * 1024 * 1024
        self._open: list[tuple[SharedStore, object]] = []

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.directory, self.clock, self.wall, boot_id=self.boot_id)

    def start(self) -> SharedStore:
        instance = open_instance()
        store = SharedStore(instance.path, self.clock, max_bytes=self.max_bytes, fill=self.snapshot.fill)
        self._open.append((store, instance))
        return store

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.wall.advance(seconds)

    def reboot(self, up_s: float = 20.0) -> None:
        self.clock.now_s = up_s
        self.boot_id += "'"

    def close(self) -> None:
        for store, instance in self._open:
            asyncio.run(store.close())
            instance.close()  # type: ignore[attr-defined]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def allowed(store: SharedStore, asked: Rule, subject: str = "a", times: int = 1) -> list[bool]:
    return [store.acquire((Claim(asked, subject),)).allowed for _ in range(times)]


class TestStarts:
    def test_nothing_saved_is_an_empty_store(self, machine: Machine) -> None:
        assert len(machine.start()) == 0

    @BOTH
    def test_a_restart_forgets_nothing(self, machine: Machine, algorithm: Algorithm) -> None:
        asked, other = rule(algorithm, DAY), rule(SLIDING, DAY, name="other")
        store = machine.start()
        allowed(store, asked, times=2)
        allowed(store, other, "я" * 500, times=2)
        machine.advance(10)
        left = [store.standing(Claim(each, who)).left for each, who in ((asked, "a"), (other, "я" * 500))]
        assert machine.snapshot.save(store.env) == 2
        machine.advance(60)
        store = machine.start()
        assert len(store) == 2
        assert [
            [window._replace(reset_s=window.reset_s + 60) for window in store.standing(Claim(each, who)).left]
            for each, who in ((asked, "a"), (other, "я" * 500))
        ] == [list(before) for before in left]
        assert allowed(store, asked, times=2) == [True, False]

    @BOTH
    def test_a_reboot_neither(self, machine: Machine, algorithm: Algorithm) -> None:
        asked = rule(algorithm, DAY)
        store = machine.start()
        allowed(store, asked, times=3)
        reset_s = store.standing(Claim(asked, "a")).left[0].reset_s
        machine.snapshot.save(store.env)
        machine.reboot()
        machine.wall.advance(600)
        store = machine.start()
        assert allowed(store, asked) == [False]
        assert store.standing(Claim(asked, "a")).left[0].reset_s == pytest.approx(reset_s - 600)
        machine.advance(reset_s - 600.5)
        assert allowed(store, asked) == [False]
        machine.advance(1)
        assert allowed(store, asked) == [True]

    @BOTH
    def test_a_wall_clock_stepped_back_lets_no_more_through(self, machine: Machine, algorithm: Algorithm) -> None:
        asked = rule(algorithm, DAY)
        store = machine.start()
        allowed(store, asked, times=3)
        reset_s = store.standing(Claim(asked, "a")).left[0].reset_s
        machine.snapshot.save(store.env)
        machine.reboot()
        machine.wall.now_s -= 7200
        store = machine.start()
        assert store.standing(Claim(asked, "a")).left[0].reset_s == pytest.approx(reset_s)

    def test_another_clock_with_the_same_boot_id(self, machine: Machine) -> None:
        # A container with a time namespace of its own.
        asked = rule(SLIDING, DAY)
        store = machine.start()
        allowed(store, asked, times=3)
        machine.snapshot.save(store.env)
        machine.clock.now_s = 5.0
        store = machine.start()
        assert store.standing(Claim(asked, "a")).left[0].reset_s == pytest.approx(86_400)

    def test_what_has_expired_since_is_left_behind(self, machine: Machine) -> None:
        store = machine.start()
        allowed(store, rule(SLIDING, Window("minute", 1, 60), name="minute"))
        allowed(store, rule(SLIDING, DAY))
        machine.snapshot.save(store.env)
        machine.reboot()
        machine.wall.advance(60)
        assert len(machine.start()) == 1

    def test_only_the_first_process_fills_the_table(self, machine: Machine) -> None:
        asked = rule(SLIDING, DAY)
        store = machine.start()
        allowed(store, asked, times=2)
        machine.snapshot.save(store.env)
        again = machine.start()
        path = again.env.path()
        assert allowed(again, asked, times=2) == [True, False]
        asyncio.run(again.close())
        later = SharedStore(Path(path), machine.clock, max_bytes=machine.max_bytes, fill=machine.snapshot.fill)
        assert allowed(later, asked) == [False]
        asyncio.run(later.close())

    def test_a_smaller_table_takes_what_fits(self, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
        asked = rule(GCRA, DAY, room=100_000)
        store = machine.start()
        for n in range(20_000):
            allowed(store, asked, f"subject {n}")
        machine.snapshot.save(store.env)
        machine.max_bytes = 1024 * 1024
        smaller = machine.start()
        left_out = 20_000 - len(smaller)
        assert 0 < left_out < 15_000
        assert f"no room for {left_out} subjects" in caplog.text
        assert smaller.acquire((Claim(asked, "new"),)).overflow

    def test_many_accounts_and_large_ones(self, machine: Machine) -> None:
        asked, large = rule(GCRA, DAY, room=10_000), rule(SLIDING, Window("day", 10_000, 86_400), name="large")
        store = machine.start()
        for n in range(1500):
            allowed(store, asked, f"subject {n}")
        for n in range(10):
            allowed(store, large, f"s{n}", times=2000)
        assert machine.snapshot.save(store.env) == 1510
        store = machine.start()
        assert len(store) == 1510
        assert all(store.standing(Claim(large, f"s{n}")).left[0].remaining == 8000 for n in range(10))
        assert allowed(store, asked, "subject 7", times=3) == [True, True, False]

    def test_the_file_is_private_and_alone(self, machine: Machine) -> None:
        machine.snapshot.save(machine.start().env)
        assert {path.name: path.stat().st_mode & 0o777 for path in machine.directory.iterdir()} == {
            "limits.saved": 0o600
        }

    def test_a_disk_that_fails_half_way_fills_nothing(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = machine.start()
        allowed(store, rule(SLIDING, DAY))
        machine.snapshot.save(store.env)

        def failing(file: object, place: int) -> Iterator[tuple[bytes, bytes]]:
            yield from list(records(file, place))  # type: ignore[arg-type]
            raise OSError(5, "Input/output error")

        records = snapshot._records
        monkeypatch.setattr(snapshot, "_records", failing)
        with pytest.raises(StoreError, match=r"cannot be filled: .*Input/output"):
            machine.start()
        monkeypatch.undo()
        assert len(machine.start()) == 1


class TestUnreadable:
    @pytest.fixture
    def good(self, machine: Machine) -> bytes:
        store = machine.start()
        for n in range(20):
            allowed(store, rule(SLIDING, DAY), f"s{n}")
        machine.snapshot.save(store.env)
        return machine.snapshot.path.read_bytes()

    def refused(self, machine: Machine, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
        machine.snapshot.path.write_bytes(content)
        caplog.clear()
        store = machine.start()
        assert len(store) == 0
        assert allowed(store, rule(SLIDING, DAY)) == [True]
        assert not machine.snapshot.path.exists()
        assert (machine.directory / "limits.unreadable").read_bytes() == content
        (record,) = caplog.records
        assert record.levelno == logging.ERROR
        assert "counting anew" in record.message

    @pytest.mark.parametrize("share", [0, 0.01, 0.2, 0.5, 0.9, 0.99])
    def test_cut_short(self, machine: Machine, good: bytes, share: float, caplog: pytest.LogCaptureFixture) -> None:
        self.refused(machine, good[: int(len(good) * share)], caplog)

    def test_one_byte_less_or_more(self, machine: Machine, good: bytes, caplog: pytest.LogCaptureFixture) -> None:
        self.refused(machine, good[:-1], caplog)
        self.refused(machine, good + b"x", caplog)

    def test_any_bit_turned(self, machine: Machine, good: bytes, caplog: pytest.LogCaptureFixture) -> None:
        chance = Random(7)
        for _ in range(10):
            damaged = bytearray(good)
            damaged[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
            self.refused(machine, bytes(damaged), caplog)

    @pytest.mark.parametrize("size", [0, 10, 16, 55, 56, 57, 10_000])
    def test_garbage(self, machine: Machine, size: int, caplog: pytest.LogCaptureFixture) -> None:
        self.refused(machine, os.urandom(size), caplog)
        self.refused(machine, (b"sluice limits 1\n" + bytes(size))[: max(size, 1)], caplog)

    def test_another_version(self, machine: Machine, good: bytes, caplog: pytest.LogCaptureFixture) -> None:
        self.refused(machine, good.replace(b"limits 1\n", b"limits 2\n"), caplog)
        assert "this version" in caplog.text

    def test_the_good_one_is_read(self, machine: Machine, good: bytes) -> None:
        assert len(machine.start()) == 20


class TestSaver:
    def saver(self, machine: Machine, store: SharedStore, interval_s: float = 5) -> Saver:
        return Saver(machine.snapshot, lambda: store.env, machine.clock, interval_s)

    def test_the_end_saves_what_changed(self, machine: Machine) -> None:
        store = machine.start()
        saver = self.saver(machine, store)
        saver.start()
        allowed(store, rule(SLIDING, DAY))
        saver.close()
        assert len(machine.start()) == 1

    def test_what_did_not_change_is_not_saved_again(self, machine: Machine) -> None:
        store = machine.start()
        saver = self.saver(machine, store)
        saver.close()
        machine.snapshot.path.unlink()
        saver.close()
        assert not machine.snapshot.path.exists()
        allowed(store, rule(SLIDING, DAY))
        saver.close()
        assert machine.snapshot.path.exists()

    def test_it_saves_by_itself(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("proxy.limits.snapshot.LEAST_INTERVAL_S", 0.01)
        store = machine.start()
        allowed(store, rule(SLIDING, DAY))
        saver = Saver(machine.snapshot, lambda: store.env, monotonic, 0.01)
        saver.start()
        until = monotonic() + 5
        while not machine.snapshot.path.exists() and monotonic() < until:
            sleep(0.005)
        assert machine.snapshot.path.exists()
        saver.close()

    def test_it_saves_no_more_often_than_a_twentieth_of_the_time_allows(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = machine.start()
        saver = self.saver(machine, store, interval_s=0.1)
        waits: list[float] = []

        def wait(seconds: float) -> bool:
            waits.append(seconds)
            machine.advance(0.5 if seconds < 0.5 else 0)
            allowed(store, rule(SLIDING, DAY), f"s{len(waits)}")
            return len(waits) > 4

        monkeypatch.setattr(saver._stop, "wait", wait)
        saver._run()
        # The first wait; a pause within the first save, which so takes half a second; and what follows from that.
        assert waits[0] == 1.0
        assert waits[1] < 0.01
        assert waits[2] == DUTY * 0.5

    def test_a_disk_that_fails_is_told_once(self, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
        store = machine.start()
        machine.directory = machine.directory / "gone"
        saver = self.saver(machine, store)
        for n in range(3):
            allowed(store, rule(SLIDING, DAY), f"s{n}")
            saver.close()
        assert saver.failed == 3
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        machine.directory.mkdir()
        saver.close()
        assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]
        assert len(machine.start()) == 3

    def test_a_save_that_fails_leaves_the_old_file(self, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
        store = machine.start()
        allowed(store, rule(SLIDING, DAY))
        machine.snapshot.save(store.env)
        before = machine.snapshot.path.read_bytes()

        def full(file: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            machine.snapshot.save(store.env)
        assert machine.snapshot.path.read_bytes() == before
        assert [path.name for path in machine.directory.iterdir()] == ["limits.saved"]


def test_requests_go_on_while_it_is_saved(machine: Machine) -> None:
    # No page is kept from being used again: the table does not grow, however long saving takes.
    store = machine.start()
    asked = rule(GCRA, DAY, room=10_000)
    for n in range(2000):
        allowed(store, asked, f"subject {n}")
    pages = store.env.info()["last_pgno"]
    during: list[int] = []

    def request() -> None:
        allowed(store, asked, "subject 1", times=50)
        during.append(store.env.info()["last_pgno"])

    machine.snapshot.save(store.env, request)
    assert len(during) >= 10
    assert max(during) < pages + 20


def test_stamps() -> None:
    then = Stamp("a", 1000.0, WALL)
    assert then.shift(Stamp("a", 1500.0, WALL - 99)) == 0
    assert then.shift(Stamp("b", 50.0, WALL + 30)) == -980
    assert then.shift(Stamp("b", 5000.0, WALL + 30)) == 3970
    assert then.shift(Stamp("b", 50.0, WALL - 30)) == -950


def test_the_boot_id_is_the_machines(tmp_path: Path) -> None:
    one, two = (Snapshot(tmp_path, FakeClock(), FakeClock())._stamp().boot_id for _ in range(2))
    assert len(one) == 36
    assert one == two
    assert issubclass(SnapshotError, Exception)
