"""Many threads, quickly: a few are made by real graphs, then multiplied by SQL with ids and times of their own.

Of a hundred threads 96 are complete, one failed, one asks, two crashed; their ages spread evenly over thirty days.
"""

from __future__ import annotations

import contextlib
import operator
from typing import Annotated, Any, TypedDict

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

STEPS = 8


class State(TypedDict):
    xs: Annotated[list[str], operator.add]


def graph(last: Any) -> StateGraph[Any, Any, Any, Any]:
    """Eight steps, which leave ten checkpoints; the last one is given."""
    builder = StateGraph(State)

    async def step(state: State) -> dict[str, Any]:
        return {"xs": [f"a few words of state, for the {len(state['xs'])}th time"]}

    previous = START
    for n in range(STEPS):
        builder.add_node(f"n{n}", last if n == STEPS - 1 else step)
        builder.add_edge(previous, f"n{n}")
        previous = f"n{n}"
    return builder


async def fails(state: State) -> dict[str, Any]:
    raise ValueError(f"broken after {len(state['xs'])} steps")


async def asks(state: State) -> dict[str, Any]:
    return {"xs": [str(interrupt(f"may I, after {len(state['xs'])} steps?"))]}


async def ends(state: State) -> dict[str, Any]:
    return {"xs": [f"the end of {len(state['xs'])} steps"]}


UUID6 = """
CREATE OR REPLACE FUNCTION pg_temp.uuid6(at timestamptz, seq int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-6' || substr(h, 13, 3) || '-' || to_hex(32768 + seq)
           || '-000000000000'
    FROM (SELECT lpad(to_hex(((extract(epoch FROM at) * 1000000)::bigint + 12219292800000000) * 10), 15, '0') AS h) x $$
"""
IDS = """
CREATE TEMP TABLE ids ON COMMIT DROP AS
SELECT o.thread_id AS old, t.thread_id, o.checkpoint_id AS old_id, t.at,
       pg_temp.uuid6(t.at + o.k * interval '10 ms', o.k::int) AS checkpoint_id,
       CASE WHEN o.k > 1 THEN pg_temp.uuid6(t.at + (o.k - 1) * interval '10 ms', o.k::int - 1) END AS parent_id
FROM (SELECT thread_id, checkpoint_id, row_number() OVER (PARTITION BY thread_id ORDER BY checkpoint_id) AS k
      FROM checkpoints WHERE thread_id LIKE 'template-%%') o
JOIN (SELECT to_char(n, 'FM"thread-"00000000') AS thread_id,
             now() - (n %% %(total)s::numeric / %(total)s) * interval '30 days' AS at,
             'template-' || CASE WHEN n %% 100 = 7 THEN 'failed' WHEN n %% 100 = 33 THEN 'interrupted'
                                 WHEN n %% 100 IN (50, 90) THEN 'crashed' ELSE 'complete' END AS template
      FROM generate_series(%(first)s::int, %(last)s::int) n) t ON t.template = o.thread_id;
ANALYZE ids
"""
COPIES = (
    """INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT i.thread_id, '', i.checkpoint_id, i.parent_id, c.type,
           c.checkpoint || jsonb_build_object('id', i.checkpoint_id, 'ts', i.at), c.metadata
    FROM ids i JOIN checkpoints c ON c.thread_id = i.old AND c.checkpoint_id = i.old_id AND c.checkpoint_ns = ''""",
    """INSERT INTO checkpoint_writes
    SELECT i.thread_id, '', i.checkpoint_id, w.task_id, w.idx, w.channel, w.type, w.blob, w.task_path
    FROM ids i JOIN checkpoint_writes w ON w.thread_id = i.old AND w.checkpoint_id = i.old_id AND w.checkpoint_ns = ''""",
    """INSERT INTO checkpoint_blobs
    SELECT i.thread_id, '', b.channel, b.version, b.type, b.blob
    FROM (SELECT DISTINCT thread_id, old FROM ids) i JOIN checkpoint_blobs b ON b.thread_id = i.old""",
)


async def make(dsn: str, threads: int, *, batch: int = 5_000) -> None:
    """Fill the tables with `threads` threads of ten checkpoints each, then VACUUM ANALYZE them."""
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        for name, last in {"complete": ends, "failed": fails, "interrupted": asks, "crashed": ends}.items():
            stop = ["n7"] if name == "crashed" else None
            config: Any = {"configurable": {"thread_id": f"template-{name}"}}
            compiled = graph(last).compile(checkpointer=saver)
            with contextlib.suppress(ValueError):
                await compiled.ainvoke({"xs": []}, config, durability="sync", interrupt_before=stop)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(UUID6)
        for first in range(0, threads, batch):
            last_one = min(first + batch, threads) - 1
            async with connection.transaction():
                cursor = psycopg.AsyncClientCursor(connection)
                await cursor.execute(IDS, {"first": first, "last": last_one, "total": threads})
                for copy in COPIES:
                    await connection.execute(copy.encode())
        for table in ("checkpoints", "checkpoint_writes", "checkpoint_blobs"):
            await connection.execute(f"DELETE FROM {table} WHERE thread_id LIKE 'template-%'".encode())
            await connection.execute(f"VACUUM ANALYZE {table}".encode())
