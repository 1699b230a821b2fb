"""Where the limits of this gateway count: the store the settings name, and what it needs before and beside it."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.limits.guarded import GuardedStore
from proxy.limits.memory import MemoryStore
from proxy.limits.store import Clock, LimitStore, StoreError
from proxy.settings.stores import is_remote, store_of
from proxy.stages.limit import LimitConfig
from proxy.stages.limit_rules import LimitRule

if TYPE_CHECKING:
    from proxy.limits.address import StoreAddress
    from proxy.limits.instance import HeldDirectory
    from proxy.limits.shared import SharedStore
    from proxy.limits.snapshot import Saver, Snapshot
    from proxy.settings.model import Settings

log = logging.getLogger("sluice")

HELD_S = 6.0
"""For how long to ask for a directory that another gateway has."""
SWEEP_AGAIN_S = 1.0
"""When to sweep again after it has failed."""


class SharedPlace:
    """The directory in which the workers of one gateway share their limits, made before the first of them.

    ``saved`` is where they survive a restart, if anywhere. Opens no table. Raises OSError that says what to do.
    """

    def __init__(self, max_bytes: int, saved: str | None, workers: int = 1) -> None:
        from proxy.limits.instance import open_instance, room_for

        try:
            self._instance = open_instance()
        except OSError as error:
            raise OSError(error.errno, str(error), "limits.store") from None
        self.path = self._instance.path
        self.workers = workers
        self.saved: Path | None = None
        self._held = None
        try:
            self.max_bytes = room_for(self.path, max_bytes)
            if saved is not None:
                self._held = _hold(Path(saved))
                self.saved = self._held.path
        except (OSError, ValueError) as error:
            self.close()
            where = "limits.max_bytes" if isinstance(error, ValueError) else "limits.dir"
            raise OSError(getattr(error, "errno", None) or errno.ENOSPC, str(error), where) from None
        if self._instance.warning:
            log.warning("%s", self._instance.warning)

    def descriptors(self) -> set[int]:
        """The open files a worker keeps, so that nobody takes the place away while it lives."""
        return {self._instance.descriptor} | (set() if self._held is None else {self._held.descriptor})

    def close(self) -> None:
        """Remove the directory; what was saved stays. In a forked child: nothing."""
        if self._held is not None:
            self._held.close()
        self._instance.close()

    def __repr__(self) -> str:
        return f"<SharedPlace {self.path}>"


def _hold(path: Path) -> HeldDirectory:
    """Take the directory; the workers of a gateway that was killed may have it for a few seconds more."""
    from proxy.limits.instance import hold_directory

    end = time.monotonic() + HELD_S
    while True:
        try:
            return hold_directory(path)
        except BlockingIOError:
            if time.monotonic() > end:
                raise
            # Nothing else is to be done yet: no loop runs.
            time.sleep(0.1)


def needs_place(settings: Settings) -> bool:
    """Whether workers share something on this machine: the store itself, or what counts while a server is away."""
    store = store_of(settings)
    return store.kind == "shared" or (is_remote(store) and settings.workers != 1 and _may_count_here(settings))


def open_place(settings: Settings, workers: int = 1) -> SharedPlace | None:
    """The place the settings ask for, if any, for so many workers. Raises OSError."""
    if not needs_place(settings):
        return None
    limits = settings.limits
    return SharedPlace(limits.max_bytes, limits.dir if store_of(settings).kind == "shared" else None, workers)


def open_store(settings: Settings, clock: Clock, here: SharedStore | None = None, *, workers: int = 1) -> LimitStore:
    """The store of one of so many workers; ``here`` is what their machine shares, where there is such a thing.

    Raises ValueError for a store that needs a place, without one.
    """
    store = store_of(settings)
    if store.kind == "shared":
        if here is None:
            raise ValueError("limits.store: shared needs `sluice serve`; count in memory here, or in Redis")
        return GuardedStore(here, MemoryStore(clock), processes=workers, clock=clock)
    if is_remote(store):
        return _remote(settings, store, MemoryStore(clock) if here is None else here, clock)
    return MemoryStore(clock)


def _remote(settings: Settings, address: StoreAddress, here: LimitStore, clock: Clock) -> LimitStore:
    # Only who counts there pays for the library.
    from proxy.limits.outage import OutageStore
    from proxy.limits.redis import RedisStore

    limits = settings.limits
    store = RedisStore(
        address,
        namespace=limits.namespace,
        timeout_s=limits.timeout_s,
        ca_file=limits.ca_file,
        # Elsewhere it would only give the counters other names as soon as a limit is added.
        spread=address.kind == "cluster" and _have_one_subject(settings),
    )
    return OutageStore(store, here, hosts=limits.hosts, clock=clock)


class SharedLimits:
    """What one worker has of a shared place: the store, and for one of them the duty to sweep and to save it.

    Raises OSError if the table cannot be opened.
    """

    def __init__(self, place: SharedPlace, clock: Clock, *, is_keeper: bool) -> None:
        from proxy.limits.shared import SharedStore
        from proxy.limits.snapshot import Saver, Snapshot

        saved: Snapshot | None = None
        if place.saved is not None:
            saved = Snapshot(place.saved, clock, wall_clock)
        try:
            self.store: SharedStore = SharedStore(
                place.path, clock, max_bytes=place.max_bytes, fill=None if saved is None else saved.fill
            )
        except StoreError as error:
            raise OSError(errno.EIO, str(error), "limits.store") from None
        self._is_keeper = is_keeper
        self._saver: Saver | None = None if saved is None else Saver(saved, lambda: self.store.env, clock)
        self._sweeping: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do what the keeper does, from now on."""
        if self._is_keeper:
            self._sweep(loop)
            if self._saver is not None:
                self._saver.start()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            again_s = self.store.sweep()
        except StoreError as error:
            log.error("%s", error)
            again_s = SWEEP_AGAIN_S
        self._sweeping = loop.call_later(again_s, self._sweep, loop)

    async def close(self) -> None:
        """Sweep no more, and save what has changed; the store itself is closed by whoever uses it."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._saver is not None:
            # Every worker does, so that the last one to end saves what the last requests were charged; in a thread,
            # because a slow disk must not keep it from beating. The table may not grow under that thread.
            with suppress(StoreError):
                self.store.keep_up()
            await asyncio.to_thread(self._saver.close)


def wall_clock() -> float:
    """Seconds since 1970; what has passed over a reboot, which no other clock tells."""
    return time.time_ns() / 1e9


def _rules(settings: Settings) -> list[LimitRule]:
    """Every rule that counts anything, of all stages."""
    stages = [settings.stages[name] for name in settings.chain]
    configs = [config for config in stages if isinstance(config, LimitConfig)]
    return [rule for config in configs for rule in (config, *config.limits.values()) if rule.has_numbers]


def _may_count_here(settings: Settings) -> bool:
    return any(rule.on_store_error == "local" for rule in _rules(settings))


def _have_one_subject(settings: Settings) -> bool:
    """Whether all claims of any request name the same subject, so that a cluster may spread them by it."""
    kinds = {(rule.parts, rule.ipv6_prefix) for rule in _rules(settings)}
    # A key's own bucket and that of its address are two.
    return len(kinds) == 1 and not any("credential" in parts for parts, _ in kinds)
