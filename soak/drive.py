"""A number of requests as fast as they are answered, for measurements of CPU time."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from soak.lane import Lane

AT_ONCE = 16
LIMIT_S = 120.0


async def drive(lanes: Sequence[Lane], requests: Iterator[bytes]) -> Counter[int]:
    """Send them, 16 under way at any time, on all lanes in turn; the statuses. Raises TimeoutError."""
    statuses: Counter[int] = Counter()
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    idle = deque(lanes)
    under_way = min(AT_ONCE, len(idle))

    def go_on() -> None:
        nonlocal under_way
        request = next(requests, None)
        if request is None:
            under_way -= 1
            if not under_way and not done.done():
                done.set_result(None)
            return
        lane = idle.popleft()

        def seen(status: int, answer: bytes) -> None:
            statuses[status] += 1
            idle.append(lane)
            go_on()

        lane.send([request], [seen])

    for _ in range(under_way):
        go_on()
    async with asyncio.timeout(LIMIT_S):
        await done
    return statuses
