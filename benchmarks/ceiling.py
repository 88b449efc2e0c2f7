"""How fast a lock can be from Python at all: what a pair passes on its way, layer by layer, each with all those before it.

Every layer is reached by the same thousand tasks, over two connections, in the batches that form by themselves. The first
does nothing but wait twice, for a future that somebody else sets; the last is `locks.hold`. So the difference of two lines
is what one part costs: asyncio, asyncpg and the statement, ours. The last line leaves the garbage collector out, which
a process may do for itself, a library not.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from aiodurable.dsn import parse_dsn
from aiodurable.keys import lock_key
from aiodurable.locks import PostgresLockManager
from aiodurable.locks.terms import Terms
from aiodurable.locks.wire import Wire

from .lockers import Measure, Pair, Place, in_tasks, ours

SESSIONS = 2
Ask = tuple[int, bool, "asyncio.Future[None]"]
Answer = Callable[[Sequence[int], Sequence[int]], Awaitable[object]]
"""Keys to unlock, and keys to lock."""


class Pump:
    """Answers what is asked meanwhile, all at once: a lock session without leases, turns, waiters, deadlines."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._asked: list[Ask] = []
        self._work = asyncio.Event()

    def ask(self, key: int, *, lock: bool) -> asyncio.Future[None]:
        future = asyncio.get_running_loop().create_future()
        self._asked.append((key, lock, future))
        self._work.set()
        return future

    async def serve(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            asked, self._asked = self._asked, []
            await self._answer([key for key, lock, _ in asked if not lock], [key for key, lock, _ in asked if lock])
            for _, _, future in asked:
                future.set_result(None)


@asynccontextmanager
async def pumped(answers: Sequence[Answer]) -> AsyncIterator[Pair]:
    pumps = [Pump(answer) for answer in answers]
    serving = [asyncio.create_task(pump.serve()) for pump in pumps]

    async def pair(name: str) -> None:
        key = lock_key(name, "bench")
        pump = pumps[key % len(pumps)]
        await pump.ask(key, lock=True)
        await pump.ask(key, lock=False)

    try:
        yield pair
    finally:
        for task in serving:
            task.cancel()
        await asyncio.wait(serving)


@asynccontextmanager
async def two_awaits(_place: Place) -> AsyncIterator[Pair]:
    async def nothing(_releases: Sequence[int], _acquires: Sequence[int]) -> None:
        await asyncio.sleep(0)

    async with pumped([nothing] * SESSIONS) as pair:
        yield pair


@asynccontextmanager
async def with_statements(place: Place) -> AsyncIterator[Pair]:
    dsn = parse_dsn(place.dsn)
    wires = [await Wire.open(dsn, timeout_s=10) for _ in range(SESSIONS)]
    for wire in wires:
        await wire.prepare(Terms(), setup=True)
    try:
        async with pumped([partial(wire.batch, tokens=0) for wire in wires]) as pair:
            yield pair
    finally:
        for wire in wires:
            await wire.close(10)


@asynccontextmanager
async def leases(place: Place) -> AsyncIterator[Pair]:
    async with PostgresLockManager(place.dsn) as locks:

        async def pair(name: str) -> None:
            await (await locks.acquire(name)).release()

        yield pair


@asynccontextmanager
async def without_collector(place: Place) -> AsyncIterator[Pair]:
    async with ours(place) as pair:
        gc.disable()
        try:
            yield pair
        finally:
            gc.enable()


Opened = Callable[[Place], AbstractAsyncContextManager[Pair]]
ROOF = "locks.hold"
_LAYERS: dict[str, Opened] = {
    "two awaits": two_awaits,
    "+ asyncpg, the statement": with_statements,
    "+ ours: acquire, release": leases,
    f"+ its scope: {ROOF}": ours,
    f"{ROOF}, no collector": without_collector,
}
LAYERS: dict[str, Measure] = {
    f"{name}{' (uvloop)' if uvloop else ''}": in_tasks(opened, uvloop=uvloop)
    for uvloop in (False, True)
    for name, opened in _LAYERS.items()
}
