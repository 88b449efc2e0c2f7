"""How fast a lock can be from Python at all: what a pair passes on its way, layer by layer, each
with all those before it.

Every layer is reached by the same thousand tasks, over two connections, in the batches that form by
themselves. The first does nothing but wait twice, for a future that somebody else sets, of which a
batch shares the second, as releases do; the last is `locks.hold`. So the difference of two lines is
what one part costs: asyncio, asyncpg and the statement, ours. The last line leaves the garbage
collector out, which a process may do for itself, a library not.

A target of so many times a peer's pairs a second is so much time a pair; beside the peers of the
same run it shows what that leaves for ours.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from aiodurable.dsn import parse_dsn
from aiodurable.lock_keys import lock_key
from aiodurable.locks import PostgresLockManager
from aiodurable.locks.lease_timing import LeaseTiming
from aiodurable.locks.requests import ReleaseFuture
from aiodurable.locks.statements import LockStatements

from .lock_targets import TIMES
from .lockers import Measure, Pair, Place, in_tasks, ours

SESSIONS = 2
Answer = Callable[[Sequence[int], Sequence[int]], Awaitable[object]]
"""Keys to unlock, and keys to lock."""


class Pump:
    """Answers what is asked meanwhile, all at once: a lock session without leases, turns, waiters,
    deadlines.
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._acquires: list[int] = []
        self._callers: list[asyncio.Future[None]] = []
        self._releases: list[int] = []
        self._released = ReleaseFuture()
        self._work = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def lock(self, key: int) -> asyncio.Future[None]:
        caller: asyncio.Future[None] = asyncio.Future(loop=self._loop)
        self._acquires.append(key)
        self._callers.append(caller)
        self._work.set()
        return caller

    def unlock(self, key: int) -> ReleaseFuture:
        self._releases.append(key)
        self._work.set()
        return self._released

    async def serve(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            acquires, callers, self._acquires, self._callers = self._acquires, self._callers, [], []
            releases, released, self._releases, self._released = (
                self._releases,
                self._released,
                [],
                ReleaseFuture(),
            )
            await self._answer(releases, acquires)
            released.set_result({})
            for caller in callers:
                caller.set_result(None)


@asynccontextmanager
async def pumped(answers: Sequence[Answer]) -> AsyncIterator[Pair]:
    pumps = [Pump(answer) for answer in answers]
    serving = [asyncio.create_task(pump.serve()) for pump in pumps]

    async def pair(name: str) -> None:
        key = lock_key(name, "bench")
        pump = pumps[(key >> 1) % len(pumps)]
        await pump.lock(key)
        await pump.unlock(key)

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
    wires = [await LockStatements.open(dsn, timeout_s=10) for _ in range(SESSIONS)]
    for wire in wires:
        await wire.prepare(LeaseTiming(), setup=True, raises_tokens=False)
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
STATEMENT = "+ asyncpg, the statement"
ROOF = "+ its scope: locks.hold"
_LAYERS: dict[str, Opened] = {
    "two awaits": two_awaits,
    STATEMENT: with_statements,
    "+ ours: acquire, release": leases,
    ROOF: ours,
    "locks.hold, no collector": without_collector,
}
UVLOOP = " (uvloop)"
LAYERS: dict[str, Measure] = {
    f"{name}{UVLOOP if uvloop else ''}": in_tasks(opened, uvloop=uvloop)
    for uvloop in (False, True)
    for name, opened in _LAYERS.items()
}


def room(figures: Mapping[str, Mapping[str, float]]) -> list[dict[str, str | float]]:
    """What each target leaves for ours, and what ours takes: µs of CPU a pair, beyond the awaits
    and the statement, by figures of one run. The client has one core, so a target of so many pairs
    a second is so much CPU a pair."""

    def taken(layer: str) -> float:
        return figures[layer]["client_us"]

    rows: list[dict[str, str | float]] = []
    for peer, times in TIMES.items():
        if peer in figures:
            aim = times * figures[peer]["pairs_s"]
            row: dict[str, str | float] = {
                "target": f"{times:g}× {peer}",
                "pairs_s": aim,
                "us": 1e6 / aim,
            }
            for loop, name in (("", "asyncio"), (UVLOOP, "uvloop")):
                row[f"left_{name}"] = 1e6 / aim - taken(STATEMENT + loop)
                row[f"ours_{name}"] = taken(ROOF + loop) - taken(STATEMENT + loop)
            rows.append(row)
    return rows
