"""Twenty runs are at work when the primary dies and its standby takes over, with or without the
newest commits.

`python3 dev.py test --long -k failover` does it twenty times each way.
"""

from __future__ import annotations

import asyncio
import operator
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

import asyncpg
import pytest
from langgraph.graph import START, StateGraph

from aiodurable import Durable, ThreadStatus
from aiodurable.dsn import parse_dsn
from aiodurable.errors import AiodurableError, HistoryLostError
from aiodurable.postgres.schema import migrate
from tests.support.failover_pair import Pair, missing, pair, seed
from tests.support.waiting import within

STEPS = 10
RUNS = 20
LAG_S = 0.5
ONCE = [f"only_{number}" for number in range(STEPS)]
"""Channels that one step writes and no later one: where that step is lost, they are empty."""


class State(TypedDict):
    """A list that every step adds to, and for each step one that no later step writes."""

    xs: Annotated[list[int], operator.add]


State.__annotations__ |= dict.fromkeys(ONCE, list[int])
RIGHT: dict[str, Any] = {
    "xs": [-1, *range(STEPS)],
    **{name: [number] for number, name in enumerate(ONCE)},
}
INPUT = {"xs": [-1]}


def ten_steps() -> StateGraph[Any, Any, Any, Any]:
    builder = StateGraph(State)

    def node(number: int) -> Any:
        async def step(state: State) -> dict[str, Any]:
            await asyncio.sleep(random.uniform(0.02, 0.3))
            return {"xs": [number], f"only_{number}": [number]}

        return step

    builder.add_sequence([(f"step{number}", node(number)) for number in range(STEPS)])
    builder.add_edge(START, "step0")
    return builder


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    if why := missing():
        pytest.skip(why)
    with seed() as folder:
        yield folder


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("synchronous", [True, False], ids=["synchronous", "asynchronous"])
async def test_no_failover_leaves_holes_and_every_caller_hears_of_what_was_lost(
    folder: Path, synchronous: bool, long: bool
) -> None:
    outcomes: Counter[str] = Counter()
    for _ in range(20 if long else 1):
        with pair(folder, synchronous=synchronous) as servers:
            outcomes += await one_failover(servers)
    print(
        "the callers had:", ", ".join(f"{name} {count}" for name, count in outcomes.most_common())
    )
    if synchronous:
        assert not outcomes[HistoryLostError.__name__]
    else:
        assert outcomes[HistoryLostError.__name__], (
            "the standby has not lost anything: nothing was tried"
        )


async def one_failover(servers: Pair) -> Counter[str]:
    """Returns how the callers' runs ended."""
    await migrate(parse_dsn(servers.dsn))
    async with Durable(servers.dsn, graphs={"ten": ten_steps()}) as durable:
        have: set[int] = set()

        async def call(number: int) -> Any:
            async with durable.run(f"t{number}", "ten") as run:
                result = await run.ainvoke(INPUT)
                have.add(number)
                return result

        callers = [asyncio.create_task(call(number)) for number in range(RUNS)]
        await asyncio.sleep(random.uniform(0.5, 1.0))
        await asyncio.to_thread(servers.cut)
        await asyncio.sleep(LAG_S)
        servers.primary.die()
        # Who had his result before the primary died cannot hear that it was lost with it. Its last
        # answers may be in our sockets still; there are no others before the standby is promoted.
        for _ in range(100):
            await asyncio.sleep(0)
        before = have.copy()
        await asyncio.to_thread(servers.promote)
        results = await within(
            120,
            asyncio.gather(*callers, return_exceptions=True),
            what="every caller to hear how its run ended",
        )
        await check(servers.standby.dsn, complete=False)
        for number, result in enumerate(results):
            assert isinstance(result, AiodurableError) or result == RIGHT, (number, repr(result))
            status = await durable.threads.status(f"t{number}")
            if not isinstance(result, AiodurableError) and number not in before:
                assert status.status is ThreadStatus.COMPLETE, (number, status)
            await finish(durable, f"t{number}", status.status)
    await check(servers.standby.dsn, complete=True)
    return Counter(
        type(result).__name__ if isinstance(result, Exception) else "result" for result in results
    )


async def finish(durable: Durable, thread_id: str, status: ThreadStatus) -> None:
    """The next call brings the thread to the right end, from wherever it stands."""
    async with durable.run(thread_id, "ten", on_busy="wait", timeout=60) as run:
        result = await run.ainvoke(INPUT if status is ThreadStatus.NEW else None)
        assert result == RIGHT, (thread_id, status, result)
        assert (await run.aget_state()).values == RIGHT, (thread_id, status)


DANGLING = """
SELECT c.thread_id, c.checkpoint_id FROM checkpoints c
WHERE c.parent_checkpoint_id IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM checkpoints p
    WHERE p.thread_id = c.thread_id AND p.checkpoint_ns = c.checkpoint_ns AND p.checkpoint_id = c.parent_checkpoint_id)
"""
WITHOUT_A_BLOB = """
SELECT c.thread_id, c.checkpoint_id, v.key
FROM checkpoints c CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') v
WHERE v.key = ANY ($1) AND NOT EXISTS (
    SELECT 1 FROM checkpoint_blobs b
    WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns AND b.channel = v.key AND b.version = v.value)
"""


async def check(dsn: str, *, complete: bool) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetch(DANGLING) == []
        assert await connection.fetch(WITHOUT_A_BLOB, ["xs", *ONCE]) == []
        if complete:
            assert (
                await connection.fetchval("SELECT count(DISTINCT thread_id) FROM checkpoints")
                == RUNS
            )
    finally:
        await connection.close()
