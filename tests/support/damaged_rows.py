"""Threads of real runs, and ways to damage every row of one: what a row may hold that no LangGraph
wrote.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from operator import add
from typing import Annotated, Any, TypedDict

import psycopg
from hypothesis import strategies as st
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, interrupt

from aiodurable.durable import Durable
from tests.support.hostile_values import BLOBS, STORED

TABLES = ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "aiodurable_runs")
_ORDER = {
    "checkpoints": "checkpoint_ns, checkpoint_id DESC",
    "checkpoint_writes": "checkpoint_ns, checkpoint_id DESC, task_id, idx",
    "checkpoint_blobs": "checkpoint_ns, channel, version DESC",
    "aiodurable_runs": "fencing_token DESC NULLS LAST, seq DESC",
}


class State(TypedDict):
    xs: Annotated[list[str], add]


async def work(state: State) -> State:
    return {"xs": ["worked"]}


async def fail(state: State) -> State:
    raise RuntimeError("broken")


async def ask(state: State) -> State:
    return {"xs": [interrupt("sure?")]}


def spread(state: State) -> Sequence[Send]:
    return [Send("work", state), Send("fail", state), Send("ask", state)]


def _sequence(*nodes: Any) -> StateGraph[State, None, State, State]:
    return StateGraph(State).add_sequence(nodes).add_edge(START, nodes[0].__name__)


def _sending() -> StateGraph[State, None, State, State]:
    graph = StateGraph(State).add_node(work).add_node(fail).add_node(ask)
    return graph.add_conditional_edges(START, spread, ["work", "fail", "ask"])


def _calling() -> StateGraph[State, None, State, State]:
    outer = StateGraph(State).add_node("inside", _sequence(work, fail).compile())
    return outer.add_edge(START, "inside").add_edge("inside", END)


GRAPHS: dict[str, Any] = {
    "finishes": _sequence(work),
    "fails": _sequence(work, fail),
    "asks": _sequence(work, ask),
    "sends": _sending(),
    "calls": _calling(),
    "stops": _sequence(work, ask).compile(interrupt_before=["ask"]),
}
PLAIN = "plain LangGraph"
KINDS = (*GRAPHS, PLAIN)
"""The threads, by their ids."""


async def make(dsn: str) -> None:
    """A thread of each kind."""
    async with Durable(dsn, graphs=GRAPHS) as durable:
        for kind in GRAPHS:
            async with durable.run(kind, kind) as run:
                with suppress(RuntimeError):
                    await run.ainvoke({"xs": ["begun"]})
    async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
        graph = GRAPHS["finishes"].compile(checkpointer=saver)
        place: Any = {"configurable": {"thread_id": PLAIN}}
        await graph.ainvoke({"xs": ["begun"]}, place)
        await graph.aupdate_state(place, {"xs": ["changed"]}, START)


def keep(connection: psycopg.Connection[Any]) -> None:
    """Keep what the rows are now, for `damaged`."""
    for table in TABLES:
        connection.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}".encode())
    for kind in KINDS:
        _restore(connection, kind)


def _restore(connection: psycopg.Connection[Any], thread_id: str) -> None:
    with connection.transaction():
        for table in TABLES:
            connection.execute(f"DELETE FROM {table} WHERE thread_id = %s".encode(), (thread_id,))
            connection.execute(
                f"INSERT INTO {table} SELECT * FROM kept_{table} WHERE thread_id = %s".encode(),
                (thread_id,),
            )


@dataclass(frozen=True)
class Damage:
    """One statement about one row: the `offset`-th of a thread in a table, the newest first.

    Attributes:
        change: what follows `SET`, or nothing: the row goes.
        value: the parameters of the change.
    """

    table: str
    offset: int
    change: str
    value: tuple[Any, ...]

    def on(self, connection: psycopg.Connection[Any], thread_id: str) -> bool:
        """Do it; False: there is no such row, or the database refuses."""
        row = (
            f"(SELECT ctid FROM {self.table} WHERE thread_id = %s ORDER BY {_ORDER[self.table]}"
            " OFFSET %s LIMIT 1)"
        )
        what = (
            f"UPDATE {self.table} SET {self.change}" if self.change else f"DELETE FROM {self.table}"
        )
        try:
            done = connection.execute(
                f"{what} WHERE ctid = {row}".encode(), (*self.value, thread_id, self.offset)
            )
        except psycopg.errors.UndefinedColumn:  # the tables have changed, and the damage has not
            raise
        except psycopg.DatabaseError:
            return False
        return done.rowcount == 1


@contextmanager
def damaged(
    connection: psycopg.Connection[Any], thread_id: str, damages: Sequence[Damage]
) -> Iterator[None]:
    """The thread with this damage, then as it was."""
    for damage in damages:
        damage.on(connection, thread_id)
    try:
        yield
    finally:
        _restore(connection, thread_id)


def _deep(times: int) -> str:
    return "[" * times + "]" * times


_ODD = [
    *(
        "null",
        "true",
        "0",
        "-1",
        "1",
        "3",
        "4",
        "0.5",
        "1e400",
        f"1{'0' * 5000}",
        "2147483648",
        "-2147483649",
    ),
    *(
        '""',
        '"x"',
        '"4"',
        '"4.0"',
        '"now"',
        '"infinity"',
        '"-infinity"',
        '"2026-02-30T00:00:00+00:00"',
    ),
    *('"2026-11-28T10:00:00Z"', '"20000-01-01T00:00:00+00:00"', '"0001-01-01T00:00:00+14:00"'),
    *('"9999-12-31T23:59:59-14:00"', '"2026-11-28T25:00:00"', '"2026-11-28"', r'"\u001b[2J"'),
    *(
        "[]",
        "{}",
        "[[]]",
        '["__start__"]',
        '["branch:to:work", 1, null, {}]',
        '{"": 5}',
        '{"__start__": {}}',
    ),
    *(
        '{"__pregel_tasks": {"a": 1}}',
        '{"branch:to:work": null, "join:a+b:c": [1], "x": 1}',
        '[{"at": "x"}]',
    ),
    *('{"i": {"at": "x", "token": "y"}}', '{"i": {"at": "infinity", "token": 1e30}}', '{"i": 5}'),
    *(_deep(500), _deep(2000), f'{{"a": {_deep(5000)}}}'),
]
_JSON = st.sampled_from(_ODD) | st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["", "__start__", "branch:to:work", "xs", "v"]), inner, max_size=4
        )
    ),
    max_leaves=8,
).map(json.dumps)
_KEYS = {
    ("checkpoints", "checkpoint"): [
        *(
            "v",
            "ts",
            "id",
            "channel_values",
            "channel_versions",
            "versions_seen",
            "updated_channels",
        ),
        *(
            "channel_versions,__pregel_tasks",
            "channel_versions,xs",
            "versions_seen,work",
            "channel_values,xs",
        ),
    ],
    ("checkpoints", "metadata"): [
        *(
            "step",
            "source",
            "parents",
            "parents,",
            "aiodurable_run_id",
            "aiodurable_graph_name",
            "aiodurable_worker",
        ),
        *("run_id", "counters_since_delta_snapshot", "thread_id"),
    ],
    ("aiodurable_runs", "answered"): ["i", "i,at", "i,token"],
}
_TEXT = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
) | st.sampled_from(
    [
        *(
            "",
            "zzz",
            "x|y:z",
            "join:a+b:c",
            "branch:to:work",
            "__start__",
            "__end__",
            "__pregel_tasks",
            "__error__",
        ),
        *(
            "__interrupt__",
            "__resume__",
            "__error_source_node__",
            "~__pregel_pull, work",
            "~__pregel_push, 0, 0",
        ),
        *(
            f"~__pregel_push, {'9' * 5000}, 0",
            "~__pregel_push, \u0663, 0",
            "~__pregel_push, ~__pregel_pull, work, 1, 1",
        ),
        *(
            "00000000-0000-0000-0000-000000000000",
            "inside:x",
            "\x1b[2J",
            "empty",
            "msgpack",
            "json",
            "pickle",
            "x" * 2000,
        ),
    ]
)
_TEXTS = {
    "checkpoints": ("checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type"),
    "checkpoint_writes": (
        "checkpoint_ns",
        "checkpoint_id",
        "task_id",
        "task_path",
        "channel",
        "type",
    ),
    "checkpoint_blobs": ("checkpoint_ns", "channel", "version", "type"),
    "aiodurable_runs": (
        "graph",
        "attempted_by",
        "error",
        "status_reason",
        "base_checkpoint_id",
        "checkpoint_id",
        "traceback",
        "input_type",
    ),
}
_STATUSES = (
    "queued",
    "running",
    "complete",
    "failed",
    "interrupted",
    "paused",
    "rejected",
    "quarantined",
)
_TIMES = (
    "infinity",
    "-infinity",
    "0050-01-01 BC",
    "294276-12-31",
    "0001-01-01 00:00+14",
    "2026-01-01 00:00+00",
)
_LIMITS = (0, 1, -1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
_MOMENTS = ("created_at", "started_at", "finished_at", "failed_at", "cancel_requested_at")


def _in_json() -> st.SearchStrategy[Damage]:
    def change(where: tuple[str, str], key: str, value: str | None, offset: int) -> Damage:
        table, column = where
        path = "{" + ",".join(f'"{part}"' for part in key.split(",")) + "}"
        if value is None:
            return Damage(table, offset, f"{column} = {column} #- %s", (path,))
        return Damage(
            table, offset, f"{column} = jsonb_set({column}, %s, %s::text::jsonb)", (path, value)
        )

    def of(where: tuple[str, str]) -> st.SearchStrategy[Damage]:
        return st.builds(
            change,
            st.just(where),
            st.sampled_from(_KEYS[where]),
            st.none() | _JSON,
            st.integers(0, 2),
        )

    return st.sampled_from(sorted(_KEYS)).flatmap(of)


def _whole_json() -> st.SearchStrategy[Damage]:
    one = st.builds(
        lambda where, value, offset: Damage(
            where[0], offset, f"{where[1]} = %s::text::jsonb", (value,)
        ),
        st.sampled_from(sorted(_KEYS)),
        _JSON,
        st.integers(0, 2),
    )
    change = "earlier_attempts = %s::text[]::jsonb[]"
    several = st.lists(_JSON, max_size=3).map(
        lambda values: Damage("aiodurable_runs", 0, change, (values,))
    )
    return one | several


def _texts() -> st.SearchStrategy[Damage]:
    where = st.sampled_from(
        [(table, column) for table, columns in _TEXTS.items() for column in columns]
    )
    return st.builds(
        lambda where, value, offset: Damage(where[0], offset, f"{where[1]} = %s", (value,)),
        where,
        st.none() | _TEXT,
        st.integers(0, 5),
    )


def _values() -> st.SearchStrategy[Damage]:
    def change(table: str, stored: tuple[str, bytes], offset: int, column: str) -> Damage:
        names = ("type", "blob") if table != "aiodurable_runs" else (f"{column}_type", column)
        return Damage(table, offset, f"{names[0]} = %s, {names[1]} = %s", stored)

    return st.builds(
        change,
        st.sampled_from(TABLES[1:]),
        STORED | st.tuples(st.just("msgpack"), BLOBS),
        st.integers(0, 7),
        st.sampled_from(["input", "context", "config", "answers"]),
    )


def _ledger() -> st.SearchStrategy[Damage]:
    def of(
        column: str, values: st.SearchStrategy[Any], cast: str = ""
    ) -> st.SearchStrategy[Damage]:
        return values.map(
            lambda value: Damage("aiodurable_runs", 0, f"{column} = %s{cast}", (value,))
        )

    return st.one_of(
        of("status", st.sampled_from(_STATUSES)),
        *(of(column, st.none() | st.sampled_from(_TIMES), "::timestamptz") for column in _MOMENTS),
        *(
            of(column, st.sampled_from(_LIMITS))
            for column in ("attempts", "fencing_token", "seq", "lock_key")
        ),
        of("consumed", st.booleans()),
        of("questions_closed", st.none() | st.lists(st.none() | _TEXT, max_size=2), "::text[]"),
    )


def _gone() -> st.SearchStrategy[Damage]:
    return st.builds(Damage, st.sampled_from(TABLES), st.integers(0, 5), st.just(""), st.just(()))


DAMAGES = st.lists(
    st.one_of(_in_json(), _in_json(), _whole_json(), _texts(), _values(), _ledger(), _gone()),
    min_size=1,
    max_size=4,
)
