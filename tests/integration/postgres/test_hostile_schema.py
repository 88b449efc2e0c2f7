"""Our statements run nothing that other roles create in a schema of the search path.

Postgres prefers the function or operator whose types fit exactly, whatever schema it is in:
`public.unnest(text[])` comes before `pg_catalog.unnest(anyarray)`. So functions are named with
their schema, and the operands of operators have the types of one that there is in pg_catalog, which
is searched first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from importlib.resources import files
from typing import TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from psycopg import sql

from aiodurable import Durable
from aiodurable.locks import PostgresLockManager
from aiodurable.postgres.sql import careful, load
from aiodurable.postgres.text_columns import over_texts
from tests.support.plan_statements import PARTS

SYNTAX = {"coalesce", "extract", "greatest", "least", "nullif", "position", "substring"}
"""Written like calls of functions, they are none, or of one in pg_catalog whatever the path is."""
TYPES = (
    *(
        "text",
        "bigint",
        "integer",
        "boolean",
        "jsonb",
        "bytea",
        "timestamptz",
        "interval",
        "numeric",
        "float8",
        "oid",
    ),
    *(
        "xid",
        "name",
        "int2",
        "regclass",
        "text[]",
        "bigint[]",
        "integer[]",
        "boolean[]",
        "jsonb[]",
        "bytea[]",
    ),
)
UNWRITTEN = {"=", "<>", "<=", ">=", "<", ">", "~~", "!~~"}
"""Operators that IN, IS DISTINCT FROM, CASE, BETWEEN, LIKE and their like call."""


def statements() -> Iterator[tuple[str, str]]:
    """Every statement that can be prepared, with all of its parts."""
    for file in sorted(
        file.name for file in files("aiodurable.postgres").joinpath("sql").iterdir()
    ):
        parts = PARTS.get(file.removesuffix(".sql"), ())
        for name, block in load(file.removesuffix(".sql"), *parts).items():
            text = re.sub(r"--.*", "", block)
            if not re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", text):
                continue
            for number in range(1, text.count("%s") + 1):
                text = text.replace("%s", f"${number}", 1)
            yield f"{file.removesuffix('.sql')}_{name}", text
            if (file, name) == ("checkpoints.sql", "commit"):
                yield f"{file.removesuffix('.sql')}_{name}_over_texts", over_texts(text)[0]
            if careful(text) != text:
                yield f"{file.removesuffix('.sql')}_{name}_careful", careful(text)


def arguments(text: str, at: int) -> int:
    """How many stand in the parentheses that open there."""
    depth, count = 0, 1
    for sign in text[at:]:
        depth += (sign in "([") - (sign in ")]")
        if depth == 0:
            return count
        count += sign == "," and depth == 1
    raise AssertionError(text)


@pytest.mark.parametrize(
    ("name", "text"), list(statements()), ids=[name for name, _ in statements()]
)
def test_every_function_is_named_with_its_schema(name: str, text: str) -> None:
    bare = re.sub(r"'[^']*'", "''", text)
    for call in re.finditer(r"(?<![\w.])([a-z_]\w*)\(", bare):
        # With several arguments unnest is syntax, for as many calls of pg_catalog's.
        if call[1] not in SYNTAX and not (
            call[1] == "unnest" and arguments(bare, call.end() - 1) > 1
        ):
            pytest.fail(f"{call[1]} in {name}")


def test_no_operator_is_that_of_a_schema_of_the_path(dsn: str) -> None:
    """Of every pair of types, and of every function of one argument, for which pg_catalog has none
    of its own.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(load("locks")["create_lease"].encode())
        wanted: dict[str, tuple[str, str]] = {}
        for name, text in statements():
            connection.execute(f"PREPARE {name} AS {text}".encode())
            [(types,)] = connection.execute(
                "SELECT array_to_string(parameter_types, ', ') FROM pg_prepared_statements WHERE"
                " name = %s",
                (name,),
            ).fetchall()
            wanted[name] = types, text
        used = {
            called
            for _, text in wanted.values()
            for called in re.findall(r"pg_catalog\.(\w+)\(", text)
        }
        bare = re.sub(r"'[^']*'", "", " ".join(text for _, text in wanted.values()))
        operators = UNWRITTEN.union(re.findall(r"[-+*/<>=~!@#%^&|?]+", bare))
        operators.discard("=>")  # it names an argument
        literals = {"types": list(TYPES), "operators": sorted(operators), "functions": sorted(used)}
        connection.execute(
            sql.SQL(HOSTILE).format(
                **{name: sql.Literal(value) for name, value in literals.items()}
            )
        )
        connection.execute("CREATE SCHEMA probe")
        failed: list[str] = []
        for name, (types, text) in wanted.items():
            try:
                connection.execute(
                    f"CREATE FUNCTION probe.{name}({types}) RETURNS void BEGIN ATOMIC {text}; END".encode()
                )
            except psycopg.Error as error:
                failed.append(f"{name}: {error.diag.message_primary}")
        found = connection.execute(USED).fetchall()
    if wrong := failed + [one for (one,) in found]:
        pytest.fail("\n".join(wrong))


HOSTILE = """
DO $do$
DECLARE
    types text[] := {types}::text[];
    l text; r text; o text; f text;
BEGIN
    FOREACH f IN ARRAY {functions}::text[] LOOP
        FOREACH l IN ARRAY types LOOP
            IF to_regprocedure(format('pg_catalog.%I(%s)', f, l)) IS NULL THEN
                EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS boolean RETURN true', f, l);
            END IF;
        END LOOP;
    END LOOP;
    FOREACH l IN ARRAY types LOOP
        FOREACH r IN ARRAY types LOOP
            EXECUTE format('CREATE FUNCTION public.hostile(%s, %s) RETURNS boolean RETURN true', l, r);
            FOREACH o IN ARRAY {operators}::text[] LOOP
                IF to_regoperator(format('pg_catalog.%s(%s, %s)', o, l, r)) IS NULL THEN
                    EXECUTE format('CREATE OPERATOR public.%s (FUNCTION = public.hostile, LEFTARG = %s, RIGHTARG = %s)',
                                   o, l, r);
                END IF;
            END LOOP;
        END LOOP;
    END LOOP;
END $do$
"""

USED = """
SELECT DISTINCT format('%s uses %s', p.proname, pg_describe_object(d.refclassid, d.refobjid, 0))
FROM pg_depend d
JOIN pg_proc p ON p.oid = d.objid AND p.pronamespace = 'probe'::regnamespace
LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
LEFT JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
WHERE d.classid = 'pg_proc'::regclass
  AND 'public'::regnamespace IN (o.oprnamespace, f.pronamespace)
"""


class State(TypedDict):
    n: int


async def step(state: State) -> State:
    return {"n": state["n"] + 1}


JOE = """
CREATE TABLE public.run (who text);
GRANT INSERT ON public.run TO PUBLIC;
CREATE FUNCTION public.nextval(text) RETURNS bigint LANGUAGE sql
    AS $$ INSERT INTO public.run VALUES ('nextval'); SELECT 7::bigint $$;
CREATE FUNCTION public.unnest(text[]) RETURNS SETOF text LANGUAGE sql
    AS $$ INSERT INTO public.run VALUES ('unnest'); SELECT pg_catalog.unnest($1) $$;
CREATE FUNCTION public.pg_relation_size(text) RETURNS bigint LANGUAGE sql
    AS $$ INSERT INTO public.run VALUES ('pg_relation_size'); SELECT 0::bigint $$;
CREATE FUNCTION public.of_json(jsonb, jsonb) RETURNS text LANGUAGE sql
    AS $$ INSERT INTO public.run VALUES ('->>'); SELECT 'x' $$;
CREATE OPERATOR public.->> (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = public.of_json);
"""


async def test_nothing_that_a_stranger_made_is_run(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as joe:
        joe.execute(JOE)
        graph = (
            StateGraph(State).add_node("step", step).add_edge(START, "step").add_edge("step", END)
        )
        async with Durable(dsn) as durable, PostgresLockManager(dsn) as locks:
            async with durable.run("thread", graph) as run:
                await run.ainvoke({"n": 0})
            async with locks.hold("a") as lease:
                assert lease.token != 7
            assert [found.thread_id async for found in durable.threads.search()] == ["thread"]
            await durable.threads.estimate_counts()
            await durable.threads.prune(older_than=timedelta(days=1), status=())
            await durable.threads.delete("thread")
        assert joe.execute("SELECT DISTINCT who FROM public.run").fetchall() == []
