"""What a turn of a chat costs in a thread that has lived long, beside the stock saver.

A graph of one node that keeps the last short messages, `durability="sync"`. Threads of so many
checkpoints are made by short turns and copied; then a long message makes the state so large, and
each further turn stores that much again. A turn is what several of them cost beyond one: all that
opening takes is in both. Counts (round trips, rows of LangGraph's tables, pages of 8 KiB that the
server read or wrote in all tables, WAL) hold on a busy machine too; times do not. The server is an embedded one, or AIODURABLE_DSN.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Annotated, Any, TypedDict

import asyncpg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from psycopg.conninfo import make_conninfo

from aiodurable import Durable
from aiodurable.dsn import parse_dsn
from aiodurable.embedded import embedded_postgres

from .alone import OTHERS
from .contenders import BASE, OURS, words
from .machine import describe
from .report import Row, parser, save, table
from .wire import wire

TURNS = 10
SHORT = 1000
CHECKPOINTS_A_TURN = 3
HEADS: Mapping[str, str] = {
    "state_kb": "kB",
    "checkpoints": "checkpoints",
    "contender": "contender",
    "round_trips": "round trips",
    "rows": "rows of LangGraph's tables read",
    "pages": "pages",
    "wal_kb": "WAL kB",
    "ms": "ms",
}
COUNTS = """
    SELECT (SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) FROM pg_stat_user_tables
            WHERE relname LIKE 'checkpoint%') AS rows,
           (SELECT sum(heap_blks_read + heap_blks_hit
                       + coalesce(idx_blks_read + idx_blks_hit, 0)
                       + coalesce(toast_blks_read + toast_blks_hit, 0)
                       + coalesce(tidx_blks_read + tidx_blks_hit, 0))
            FROM pg_statio_user_tables) AS pages,
           (pg_current_wal_insert_lsn() - '0/0') / 1000 AS wal_kb
"""

Turn = Callable[[str, str], Awaitable[Any]]


def newest(kept: list[str], added: list[str]) -> list[str]:
    """All long messages and the last short ones: an old thread's state is no larger than a young
    one's.
    """
    every = kept + added
    short = [text for text in every if len(text) <= SHORT]
    return [*(text for text in every if len(text) > SHORT), *short[-TURNS:]]


class Chat(TypedDict):
    messages: Annotated[list[str], newest]


def chat() -> StateGraph[Any, Any, Any, Any]:
    async def reply(state: Chat) -> Chat:
        return {"messages": [f"an answer to {len(state['messages'])} messages"]}

    builder = StateGraph(Chat).add_node("reply", reply)
    return builder.add_edge(START, "reply").add_edge("reply", END)


@asynccontextmanager
async def ours(dsn: str) -> AsyncIterator[Turn]:
    async with Durable(dsn, graphs={"chat": chat()}) as durable:

        async def turn(thread_id: str, text: str) -> Any:
            async with durable.run(thread_id, "chat") as run:
                return await run.ainvoke({"messages": [text]})

        yield turn


@asynccontextmanager
async def stock(dsn: str, **settings: str) -> AsyncIterator[Turn]:
    conninfo = make_conninfo(parse_dsn(dsn).conninfo, **settings)
    async with AsyncPostgresSaver.from_conn_string(conninfo) as saver:
        graph = chat().compile(checkpointer=saver)

        async def turn(thread_id: str, text: str) -> Any:
            config: Any = {"configurable": {"thread_id": thread_id}}
            return await graph.ainvoke({"messages": [text]}, config, durability="sync")

        yield turn


CONTENDERS: Mapping[str, Callable[[str], AbstractAsyncContextManager[Turn]]] = {
    OURS: ours,
    BASE: stock,
}


async def make_threads(dsn: str, ages: Sequence[int], states_kb: Sequence[int]) -> None:
    """One thread for each age, state and contender."""
    async with (
        Durable(dsn) as durable,
        stock(dsn, options="-c synchronous_commit=off") as turn,
    ):
        done = 0
        for age in sorted(ages):
            for number in range(done, age // CHECKPOINTS_A_TURN):
                await turn("young", f"turn {number}")
            done = age // CHECKPOINTS_A_TURN
            for state_kb in states_kb:
                for name in CONTENDERS:
                    await durable.checkpointer.acopy_thread("young", _thread(name, age, state_kb))
    for name, opened in CONTENDERS.items():
        async with opened(dsn) as turn:
            for age in ages:
                for state_kb in states_kb:
                    await turn(_thread(name, age, state_kb), "".join(words(state_kb)))


def _thread(name: str, age: int, state_kb: int) -> str:
    return f"{name} of {age} with {state_kb} kB"


async def cost(name: str, dsn: str, admin: asyncpg.Connection, thread_id: str) -> dict[str, float]:
    """Of one turn."""
    few, many = [await _turns(name, dsn, admin, thread_id, turns) for turns in (1, 1 + TURNS)]
    return {figure: (many[figure] - few[figure]) / TURNS for figure in many}


async def _turns(
    name: str, dsn: str, admin: asyncpg.Connection, thread_id: str, turns: int
) -> dict[str, float]:
    before = await _counts(admin)
    async with wire(dsn) as counted, CONTENDERS[name](counted.dsn) as turn:
        trips = await counted.round_trips()
        began = time.perf_counter()
        for _ in range(turns):
            await turn(thread_id, "and then?")
        took = time.perf_counter() - began
        trips = await counted.round_trips() - trips
    after = await _counts(admin)
    counts = {figure: float(after[figure]) - float(before[figure]) for figure in after}
    return {"round_trips": trips, **counts, "ms": took * 1000}


async def _counts(admin: asyncpg.Connection) -> dict[str, Any]:
    """What the server counts; a backend hands its counts in when its connection ends."""
    while (await admin.fetchval(OTHERS) or 0) > 1:  # noqa: ASYNC110  # Postgres sends no event for it
        await asyncio.sleep(0.02)
    row = await admin.fetchrow(COUNTS)
    assert row is not None
    return dict(row)


async def run(options: argparse.Namespace) -> None:
    load = os.getloadavg()[0]
    async with AsyncExitStack() as stack:
        dsn = os.environ.get("AIODURABLE_DSN") or await stack.enter_async_context(
            embedded_postgres(durable=True)
        )
        await make_threads(dsn, options.checkpoints, options.state_kb)
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        await admin.execute("VACUUM ANALYZE")
        machine = describe(await admin.fetchval("SHOW server_version"))
        rows: list[Row] = []
        for state_kb in options.state_kb:
            for age in options.checkpoints:
                seen: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
                for _ in range(options.rounds):
                    for name, found in seen.items():
                        thread_id = _thread(name, age, state_kb)
                        found.append(await cost(name, dsn, admin, thread_id))
                rows += [
                    {
                        "state_kb": state_kb,
                        "checkpoints": age,
                        "contender": name,
                        "rounds": options.rounds,
                        **{
                            figure: statistics.median(one[figure] for one in found)
                            for figure in found[0]
                        },
                    }
                    for name, found in seen.items()
                ]
                if options.json:
                    save(options.json, machine, rows, load_before=load)
        print(table(rows, HEADS))


def main(argv: Sequence[str] | None = None) -> None:
    options = parser(__doc__, "aging", svg=False)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--checkpoints", type=int, nargs="+", default=[10, 1_000, 10_000])
    options.add_argument("--state-kb", type=int, nargs="+", default=[2, 2_000])
    given = options.parse_args(argv)
    if given.quick:
        given.rounds, given.checkpoints = 1, [10, 100]
    asyncio.run(run(given))


if __name__ == "__main__":
    main()
