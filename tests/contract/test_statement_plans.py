"""Each statement reads what it must, by the indexes its comment names, whatever Postgres knows of
the tables.

A plan for yesterday's tables, or for empty ones, is slow on the day that nobody tests: the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor, sql

from aiodurable.postgres.sql import literal, load
from tests.support.plan_budget import Budget, overruns
from tests.support.plan_statements import CROWD, PARTS, STATEMENTS, TABLES, Statement
from tests.support.postgres import Server

KNOWN = {
    "all": "every table was analysed",
    "nothing": "none ever was",
    "no row": "they were while there was nothing in them",
    "one thread": "they were when there was one thread",
    "no table": "none ever was, and plans were made while there was nothing in them, and are kept",
}
FILES = (
    *("threads", "runs", "checkpoints", "copy", "direct", "prune", "answers", "effects"),
    *("busy", "signals"),
)
READ_NO_TABLE = {
    "without_seqscan",
    "bytewise",
    "pages",
    "plan_once",
    "discard_plans",
    "by_index",
    "terminate_abandoned_backends",
    "is_active",
    "session",
    "mark_database",
    "find_mark",
    "on_disk",
    "server",
    "short_lock_timeout",
    "relaxed_commit",
    "compressed_commit",
    "knows_lz4",
}
TESTED_ELSEWHERE = {"threads_recent"}
SESSIONS = {
    "pool": ("direct", "by_index"),
    "search": ("threads", "without_seqscan"),
    "link": ("direct", "plan_once"),
}


class Session:
    """A connection like one of those that run these statements; all of them are prepared."""

    def __init__(self, dsn: str, on: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
        file, block = SESSIONS[on]
        pid = self._connection.info.backend_pid
        self._settings = literal(load(file)[block], pid, "auto", "20s").encode()
        self._names = {
            name: f"s{n}" for n, name in enumerate(STATEMENTS) if STATEMENTS[name].on == on
        }
        for name, prepared in self._names.items():
            self._connection.execute(f"PREPARE {prepared} AS {STATEMENTS[name].sql}".encode())

    def plan(self, statement: Statement, mode: str) -> dict[str, Any]:
        """What it read; what the statement did is undone."""
        [(plans,)] = self._explain(statement, mode, "FORMAT json, ANALYZE, BUFFERS")
        return plans[0]["Plan"]

    def words(self, statement: Statement) -> str:
        """Its generic plan, as a person reads it."""
        lines = self._explain(statement, "force_generic_plan", "COSTS OFF")
        return "\n".join(line for (line,) in lines)

    def plan_all(self) -> None:
        for name in self._names:
            self.words(STATEMENTS[name])

    def _explain(self, statement: Statement, mode: str, how: str) -> list[tuple[Any, ...]]:
        values = sql.SQL(", ").join(map(sql.Literal, statement.values)).as_string(self._connection)
        explain = (
            f"EXPLAIN ({how}) EXECUTE {self._names[statement.name]}"
            f" {f'({values})' if values else ''}"
        )
        with self._connection.transaction(force_rollback=True):
            self._connection.execute(self._settings)
            self._connection.execute(f"SET LOCAL plan_cache_mode = {mode}".encode())
            return self._connection.execute(explain.encode()).fetchall()

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module", params=KNOWN)
def known(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def sessions(server: Server, template: str, known: str) -> Iterator[dict[str, Session]]:
    """A crowd, and sessions of a server that knows of it what `KNOWN` says."""
    name = server.create(template)
    dsn = server.database(name)
    sessions = {on: Session(dsn, on) for on in SESSIONS}
    with psycopg.connect(dsn, autocommit=True) as connection:

        def each(command: str) -> None:
            for table in TABLES:
                connection.execute(command.format(table).encode())

        def fill(first: int, last: int) -> None:
            ClientCursor(connection).execute(CROWD.encode(), {"first": first, "last": last})

        each("ALTER TABLE {} SET (autovacuum_enabled = off)")
        if known == "one thread":
            fill(1, 1)
        if known in ("one thread", "no row"):
            each("ANALYZE {}")
        if known == "no table":
            for session in sessions.values():
                session.plan_all()
        fill(2 if known == "one thread" else 1, 3000)
        if known == "all":
            each("VACUUM ANALYZE {}")
    yield sessions
    for session in sessions.values():
        session.close()
    server.drop(name)


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_reads_what_it_must(
    sessions: dict[str, Session], known: str, name: str
) -> None:
    statement = STATEMENTS[name]
    session = sessions[statement.on]
    # Who knows less may use another index, if the plan reads no more.
    named = set(re.findall(r"\w+_(?:idx|pkey)\b", statement.comment)) if known == "all" else None
    scanned = ("checkpoints",) if statement.scans else ()
    budget = Budget.for_rows(statement.rows, named, scanned)
    for mode in ("force_custom_plan", "force_generic_plan"):
        if mode == "force_custom_plan" and (statement.on == "link" or known == "no table"):
            continue  # a link makes none; elsewhere it would not be the one that was kept
        session.plan(statement, mode)  # a session's first plan reads the catalogs, too
        plan = session.plan(statement, mode)
        if found := overruns(plan, budget, TABLES):
            pytest.fail("\n  ".join([f"{name}, {mode}, {KNOWN[known]}:", *found]))


@pytest.mark.parametrize("known", ["all"], indirect=True)
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_plan_is_no_longer_than_its_statement(sessions: dict[str, Session], name: str) -> None:
    statement = STATEMENTS[name]
    # A subquery that is merged into the one around it leaves its expressions wherever their names
    # stood, and each execution starts all of them. The thousand are for views.
    assert len(sessions[statement.on].words(statement)) < len(statement.sql) + 1000


def test_no_statement_is_left_out() -> None:
    tested = {statement.sql for statement in STATEMENTS.values()}
    rest = {
        name
        for file in FILES
        for name, statement in load(file, *PARTS.get(file, ())).items()
        if statement not in tested
    }
    assert rest == READ_NO_TABLE | TESTED_ELSEWHERE
