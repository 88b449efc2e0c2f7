"""Many threads, quickly: a few are made by real graphs, then multiplied by SQL with ids and times
of their own.

Of a hundred threads 96 are complete, one failed, one asks, two crashed; one of the complete was
resumed after an error and one answered a question, so that both stay in its past. Half of them, by
hundreds, are in the ledger; the rest only plain LangGraph has seen. Ages spread evenly over thirty
days; rows lie in the order of their time, thread ids in none, as uuids do.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, TypedDict

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from psycopg.types.json import Jsonb

from aiodurable.dsn import parse_dsn
from aiodurable.lock_keys import lock_key
from aiodurable.postgres import schema

STEPS = 8
TABLES = ("checkpoints", "checkpoint_writes", "checkpoint_blobs")
REST = {
    7: "failed",
    33: "interrupted",
    50: "crashed",
    91: "crashed",
    13: "recovered",
    61: "answered",
}
"""By the last two digits of a thread's number; all others are plainly complete."""
LEDGER = {"failed": "failed", "interrupted": "interrupted", "crashed": "running"}


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


def thread_name(number: int) -> str:
    """The id of a thread by its number; 0 is the oldest."""
    return hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()


def template(number: int) -> str:
    return REST.get(number % 100, "complete")


def recorded(number: int) -> bool:
    """Whether the ledger knows it."""
    return number // 100 % 2 == 0


UUID6 = """
CREATE OR REPLACE FUNCTION pg_temp.uuid6(at timestamptz, seq int) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT substr(h, 1, 8) || '-' || substr(h, 9, 4) || '-6' || substr(h, 13, 3) || '-' || to_hex(32768 + seq)
           || '-000000000000'
    FROM (SELECT lpad(to_hex(((extract(epoch FROM at) * 1000000)::bigint + 12219292800000000) * 10), 15, '0') AS h) x $$
"""
IDS = """
CREATE TEMP TABLE ids ON COMMIT DROP AS
SELECT o.thread_id AS old, t.thread_id, o.checkpoint_id AS old_id, t.at, t.mark,
       pg_temp.uuid6(t.at + o.k * interval '10 ms', o.k::int) AS checkpoint_id,
       CASE WHEN o.k > 1 THEN pg_temp.uuid6(t.at + (o.k - 1) * interval '10 ms', o.k::int - 1) END AS parent_id
FROM (SELECT thread_id, checkpoint_id, row_number() OVER (PARTITION BY thread_id ORDER BY checkpoint_id) AS k
      FROM template_checkpoints) o
JOIN (SELECT md5(n::text) AS thread_id, now() - (1 - n::numeric / %(total)s) * interval '30 days' AS at,
             'template-' || coalesce(%(rest)s::jsonb ->> (n %% 100)::text, 'complete') AS template,
             CASE WHEN n / 100 %% 2 = 0 THEN jsonb_build_object('aiodurable_run_id', 'run-' || n,
                                                                 'aiodurable_graph_name', 'crowd')
                  ELSE '{}' END AS mark
      FROM generate_series(%(first)s::int, %(last)s::int) n) t ON t.template = o.thread_id;
ANALYZE ids
"""
COPIES = (
    """INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
    SELECT i.thread_id, '', i.checkpoint_id, i.parent_id, c.type,
           c.checkpoint || jsonb_build_object('id', i.checkpoint_id, 'ts', i.at), c.metadata || i.mark
    FROM ids i JOIN template_checkpoints c ON c.thread_id = i.old AND c.checkpoint_id = i.old_id AND c.checkpoint_ns = ''
    ORDER BY i.at, i.checkpoint_id""",
    """INSERT INTO checkpoint_writes
    SELECT i.thread_id, '', i.checkpoint_id, w.task_id, w.idx, w.channel, w.type, w.blob, w.task_path
    FROM ids i JOIN template_checkpoint_writes w ON w.thread_id = i.old AND w.checkpoint_id = i.old_id AND w.checkpoint_ns = ''
    ORDER BY i.at, i.checkpoint_id""",
    """INSERT INTO checkpoint_blobs
    SELECT i.thread_id, '', b.channel, b.version, b.type, b.blob
    FROM (SELECT DISTINCT thread_id, old, at FROM ids) i JOIN template_checkpoint_blobs b ON b.thread_id = i.old
    ORDER BY i.at""",
)
INDEXES = """
SELECT indexrelid::regclass::text AS name, indrelid::regclass::text AS of_table, indisprimary AS is_key,
       pg_get_indexdef(indexrelid) AS made_by, pg_get_constraintdef(c.oid) AS key
FROM pg_index LEFT JOIN pg_constraint c ON c.conindid = indexrelid
WHERE indrelid IN ('checkpoints'::regclass, 'checkpoint_writes'::regclass, 'checkpoint_blobs'::regclass)
"""


async def make(dsn: str, threads: int, *, batch: int = 10_000) -> float:
    """Fill an empty database with `threads` threads of ten checkpoints each, and migrate it as an
    adopted one.

    Returns:
        The seconds that aiodurable's own migrations took on the full tables.
    """
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        await saver.setup()
        await _templates(saver)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("SET maintenance_work_mem = '1GB'")
        await connection.execute("SET work_mem = '256MB'")
        await connection.execute("SET synchronous_commit = off")
        await connection.execute(UUID6.encode())
        for table in TABLES:
            await connection.execute(
                f"CREATE TEMP TABLE template_{table} AS SELECT * FROM {table}".encode()
            )
            await connection.execute(f"TRUNCATE {table}".encode())
        async with _without_indexes(connection):
            for first in range(0, threads, batch):
                await _multiply(connection, first, min(first + batch, threads) - 1, threads)
        for table in TABLES:
            await connection.execute(f"VACUUM ANALYZE {table}".encode())
        began = time.perf_counter()
        await schema.migrate(parse_dsn(dsn), timeout_s=3600)
        took = time.perf_counter() - began
        await _record(connection, threads)
        for table in ("aiodurable_runs", "aiodurable_fences"):
            await connection.execute(f"VACUUM ANALYZE {table}".encode())
        return took


async def _templates(saver: AsyncPostgresSaver) -> None:
    down = {"once"}

    async def recovers(state: State) -> dict[str, Any]:
        if down:
            down.clear()
            raise ValueError(f"broken after {len(state['xs'])} steps, once")
        return await ends(state)

    lasts = {"failed": fails, "interrupted": asks, "recovered": recovers, "answered": asks}
    for name in {"complete", *REST.values()}:
        config: Any = {"configurable": {"thread_id": f"template-{name}"}}
        compiled = graph(lasts.get(name, ends)).compile(checkpointer=saver)
        stop = ["n7"] if name == "crashed" else None
        with contextlib.suppress(ValueError):
            await compiled.ainvoke({"xs": []}, config, durability="sync", interrupt_before=stop)
        if name == "recovered":
            await compiled.ainvoke(None, config, durability="sync")
        if name == "answered":
            await compiled.ainvoke(Command(resume="yes"), config, durability="sync")


@contextlib.asynccontextmanager
async def _without_indexes(connection: psycopg.AsyncConnection[Any]) -> AsyncIterator[None]:
    """An index made once, over all rows, costs a tenth of one kept up row by row."""
    indexes = await (await connection.execute(INDEXES)).fetchall()
    for name, table, is_key, _, _ in indexes:
        drop = f"ALTER TABLE {table} DROP CONSTRAINT {name}" if is_key else f"DROP INDEX {name}"
        await connection.execute(drop.encode())
    yield
    for name, table, is_key, made_by, key in indexes:
        again = f"ALTER TABLE {table} ADD CONSTRAINT {name} {key}" if is_key else made_by
        await connection.execute(again.encode())


async def _multiply(
    connection: psycopg.AsyncConnection[Any], first: int, last: int, total: int
) -> None:
    rest = Jsonb({str(digits): name for digits, name in REST.items()})
    async with connection.transaction():
        cursor = psycopg.AsyncClientCursor(connection)
        await cursor.execute(IDS, {"first": first, "last": last, "total": total, "rest": rest})
        for copy in COPIES:
            await connection.execute(copy.encode())


async def _record(connection: psycopg.AsyncConnection[Any], threads: int) -> None:
    """The ledger and the fences of those that were durable runs."""
    ours = [number for number in range(threads) if recorded(number)]
    columns = (
        "run_id, thread_id, lock_key, graph, status, attempts, fencing_token, attempted_by,"
        " created_at, started_at"
    )
    async with connection.cursor() as cursor:
        async with cursor.copy("COPY aiodurable_fences (thread_id, token) FROM STDIN") as copy:
            for number in ours:
                await copy.write_row((thread_name(number), 1))
        await cursor.execute(
            "CREATE TEMP TABLE runs (n int, thread_id text, lock_key bigint, status text)"
        )
        async with cursor.copy("COPY runs FROM STDIN") as copy:
            for number in ours:
                name = thread_name(number)
                status = LEDGER.get(template(number), "complete")
                await copy.write_row((number, name, lock_key(name, "aiodurable"), status))
        await cursor.execute(
            f"""INSERT INTO aiodurable_runs ({columns}, finished_at, consumed)
            SELECT 'run-' || n, thread_id, lock_key, 'crowd', status, 1, 1, 'host:1', at, at,
                   CASE WHEN status <> 'running' THEN at END, true
            FROM runs, LATERAL (SELECT now() - (1 - n::numeric / %s) * interval '30 days' AS at) a""",
            (threads,),
        )
