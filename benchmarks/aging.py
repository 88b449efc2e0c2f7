"""What a turn of a chat costs in a thread that has lived long, beside the stock saver.

A graph of one node that keeps the last short messages, `durability="sync"`; and the same with the
node in a subgraph, each call of which leaves a namespace of its own. Threads of so many checkpoints
are made by short turns and copied; then a long message makes the state so large, and each further
turn stores that much again. A turn is what several of them cost beyond one: all that
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
from dataclasses import dataclass
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
NODE, SUBGRAPH = "a node", "a subgraph"
CHECKPOINTS_A_TURN: Mapping[str, int] = {NODE: 3, SUBGRAPH: 6}
HEADS: Mapping[str, str] = {
    "calls": "a turn calls",
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


class Inner(TypedDict):
    messages: list[str]


def chat(calls: str) -> StateGraph[Any, Any, Any, Any]:
    async def reply(state: Chat) -> Chat:
        return {"messages": [f"an answer to {len(state['messages'])} messages"]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Chat)
    if calls == SUBGRAPH:
        inner = StateGraph(Inner).add_node("reply", reply, input_schema=Inner)
        builder.add_node("reply", inner.add_edge(START, "reply").compile())
    else:
        builder.add_node("reply", reply)
    return builder.add_edge(START, "reply").add_edge("reply", END)


@asynccontextmanager
async def ours(dsn: str, calls: str) -> AsyncIterator[Turn]:
    async with Durable(dsn, graphs={"chat": chat(calls)}) as durable:

        async def turn(thread_id: str, text: str) -> Any:
            async with durable.run(thread_id, "chat") as run:
                return await run.ainvoke({"messages": [text]})

        yield turn


@asynccontextmanager
async def stock(dsn: str, calls: str, **settings: str) -> AsyncIterator[Turn]:
    conninfo = make_conninfo(parse_dsn(dsn).conninfo, **settings)
    async with AsyncPostgresSaver.from_conn_string(conninfo) as saver:
        graph = chat(calls).compile(checkpointer=saver)

        async def turn(thread_id: str, text: str) -> Any:
            config: Any = {"configurable": {"thread_id": thread_id}}
            return await graph.ainvoke({"messages": [text]}, config, durability="sync")

        yield turn


CONTENDERS: Mapping[str, Callable[[str, str], AbstractAsyncContextManager[Turn]]] = {
    OURS: ours,
    BASE: stock,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Threads to compare: what a turn calls, how large the state is, and how many checkpoints the
    thread has.
    """

    calls: str
    state_kb: int
    age: int

    def thread(self, name: str) -> str:
        return f"{name}, {self.calls}, {self.age} with {self.state_kb} kB"


def places(ages: Sequence[int], states_kb: Sequence[int]) -> list[Place]:
    """Subgraphs with the smallest state alone."""
    kinds = [(NODE, state_kb) for state_kb in states_kb] + [(SUBGRAPH, min(states_kb))]
    return [Place(calls, state_kb, age) for calls, state_kb in kinds for age in ages]


async def make_threads(dsn: str, wanted: Sequence[Place]) -> None:
    """One thread for each place and contender."""
    async with Durable(dsn) as durable:
        for calls, a_turn in CHECKPOINTS_A_TURN.items():
            here = [place for place in wanted if place.calls == calls]
            young, done = f"young, {calls}", 0
            async with stock(dsn, calls, options="-c synchronous_commit=off") as turn:
                for place in sorted(here, key=lambda place: place.age):
                    for number in range(done, place.age // a_turn):
                        await turn(young, f"turn {number}")
                    done = max(done, place.age // a_turn)
                    for name in CONTENDERS:
                        await durable.checkpointer.acopy_thread(young, place.thread(name))
    for name, opened in CONTENDERS.items():
        for place in wanted:
            async with opened(dsn, place.calls) as turn:
                await turn(place.thread(name), "".join(words(place.state_kb)))


async def cost(name: str, dsn: str, admin: asyncpg.Connection, place: Place) -> dict[str, float]:
    """Of one turn."""
    few, many = [await _turns(name, dsn, admin, place, turns) for turns in (1, 1 + TURNS)]
    return {figure: (many[figure] - few[figure]) / TURNS for figure in many}


async def _turns(
    name: str, dsn: str, admin: asyncpg.Connection, place: Place, turns: int
) -> dict[str, float]:
    before = await _counts(admin)
    async with wire(dsn) as counted, CONTENDERS[name](counted.dsn, place.calls) as turn:
        trips = await counted.round_trips()
        began = time.perf_counter()
        for _ in range(turns):
            await turn(place.thread(name), "and then?")
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
        wanted = places(options.checkpoints, options.state_kb)
        await make_threads(dsn, wanted)
        admin = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        stack.push_async_callback(admin.close)
        await admin.execute("VACUUM ANALYZE")
        machine = describe(await admin.fetchval("SHOW server_version"))
        rows: list[Row] = []
        for place in wanted:
            seen: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
            for _ in range(options.rounds):
                for name, found in seen.items():
                    found.append(await cost(name, dsn, admin, place))
            rows += [
                {
                    "calls": place.calls,
                    "state_kb": place.state_kb,
                    "checkpoints": place.age,
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
