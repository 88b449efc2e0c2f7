"""A process that accepts runs of a campaign: `campaign_creator.py DSN LOG SEED RUNS SHARE`.

There are two, for even and odd numbers. Each tries again where Postgres is away, with the run_ids
that it has chosen: what was accepted before its answer was lost is accepted once.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable, NewRun, PostgresUnavailableError
from tests.programs.worker_process import graphs
from tests.support import loops

CANCELLED_SHARE = 0.05
SHARES = 2
MOST_ATTEMPTS = 10
"""A step that needs Postgres fails while it restarts."""


@dataclass(frozen=True)
class Planned:
    """One run of a campaign; three of them share a thread, unless it is cancelled.

    Attributes:
        number: which one.
        run_id, thread_id: of the run.
        cancel_after_s: when it is cancelled, after it was accepted; None: never.
    """

    number: int
    run_id: str
    thread_id: str
    cancel_after_s: float | None


def plan(seed: int, runs: int) -> list[Planned]:
    """All runs of a campaign, the same for the same seed."""
    chance = random.Random(seed)
    planned = list[Planned]()
    for n in range(runs):
        cancelled = chance.random() < CANCELLED_SHARE
        after_s = chance.choice([chance.uniform(0, 0.05), chance.uniform(0, 2)])
        thread_id = f"cancelled-{n}" if cancelled else f"t{n // 6}-{n % SHARES}"
        planned.append(Planned(n, f"run-{n}", thread_id, after_s if cancelled else None))
    return planned


async def create(durable: Durable, share: list[Planned]) -> None:
    """Accept these runs, one at a time and several at once in rotation."""
    left = iter(share)
    async with asyncio.TaskGroup() as cancels:
        while some := list(islice(left, 10)):
            for one in some[:5]:
                await _insist(
                    lambda one=one: durable.runs.create(
                        *(one.thread_id, "steps", _input(one)),
                        run_id=one.run_id,
                        priority=_priority(one),
                        max_attempts=MOST_ATTEMPTS,
                    )
                )
            await _insist(lambda some=some[5:]: durable.runs.create_many(_many(some)))
            for one in some:
                if one.cancel_after_s is not None:
                    cancels.create_task(_cancel(durable, one))


def _many(some: list[Planned]) -> Iterator[NewRun]:
    for one in some:
        yield NewRun(
            thread_id=one.thread_id,
            graph="steps",
            input=_input(one),
            run_id=one.run_id,
            priority=_priority(one),
            max_attempts=MOST_ATTEMPTS,
        )


def _input(one: Planned) -> dict[str, Any]:
    return {"words": [f"<{one.number}>"], "pause": 0.01}


def _priority(one: Planned) -> int:
    """What is cancelled goes first, so that some of it is at work by then."""
    return 0 if one.cancel_after_s is None else 1


async def _cancel(durable: Durable, one: Planned) -> None:
    assert one.cancel_after_s is not None
    await asyncio.sleep(one.cancel_after_s)
    await _insist(lambda: durable.runs.cancel(one.run_id))


async def _insist(call: Callable[[], Awaitable[Any]]) -> None:
    """Call until Postgres answers."""
    while True:
        try:
            await call()
        except PostgresUnavailableError:
            await asyncio.sleep(0.2)
        else:
            return


async def main(dsn: str, log: str, seed: str, runs: str, share: str) -> None:
    async with AsyncExitStack() as stack:
        durable = Durable(dsn, graphs=graphs(log))
        await _insist(lambda: stack.enter_async_context(durable))
        await create(durable, plan(int(seed), int(runs))[int(share) :: SHARES])


if __name__ == "__main__":
    loops.run(main(*sys.argv[1:]))
