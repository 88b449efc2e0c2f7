"""A relation that another role made under one of our names is refused before a statement reads or
writes it.

Joe may create in a schema of the search path: in Postgres 14, and in databases upgraded from it,
every role may in `public`. What he makes runs his code as each role that uses it, and a view's code
runs where it is only read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypedDict

import psycopg
import pytest
from langgraph.graph import END, START, StateGraph
from psycopg import sql
from psycopg.conninfo import make_conninfo

from aiodurable import Durable
from aiodurable.cli.doctor.tables import tables
from aiodurable.dsn import parse_dsn
from aiodurable.errors import ConfigurationError
from aiodurable.lock_keys import MIGRATION_KEY
from aiodurable.locks import PostgresLockManager
from aiodurable.postgres import schema
from aiodurable.postgres.ownership import made_by
from aiodurable.settings import Settings
from tests.support.waiting import wait_until

JOE, OWNER, APP = (f"{name}_{os.getpid()}" for name in ("joe", "owner", "app"))
CLOSED = Settings(auto_migrate=False)
READING = Settings(lock_connections=0)

RISE = f"""
CREATE FUNCTION public.rise() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    ALTER ROLE {JOE} SUPERUSER;
    RETURN true;
EXCEPTION WHEN insufficient_privilege OR read_only_sql_transaction THEN
    RETURN true;
END $$;
CREATE FUNCTION public.rise_by_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.rise();
    RETURN NEW;
END $$;
"""
VERSIONS = "(version integer PRIMARY KEY, name text, applied_at timestamptz DEFAULT now())"
TRIGGER = (
    "CREATE TRIGGER rise BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION"
    " public.rise_by_trigger();"
)
SQUATTED = {
    "table_with_trigger": (
        f"CREATE TABLE aiodurable_migrations {VERSIONS};" + TRIGGER.format("aiodurable_migrations")
    ),
    "table_of_langgraph_with_trigger": (
        "CREATE TABLE checkpoint_migrations (v integer PRIMARY KEY);"
        + TRIGGER.format("checkpoint_migrations")
    ),
    "view": (
        f"CREATE VIEW aiodurable_migrations AS SELECT {schema.VERSION} AS version, 'x' AS name,"
        " now() AS applied_at WHERE public.rise();"
    ),
    "view_of_langgraph": (
        "CREATE VIEW checkpoint_migrations AS SELECT 1000 AS v WHERE public.rise();"
    ),
    "plain_table": "CREATE TABLE aiodurable_runs (run_id text PRIMARY KEY);",
    "plain_table_of_langgraph": "CREATE TABLE checkpoints (thread_id text);",
    "sequence": "CREATE SEQUENCE aiodurable_lock_tokens AS bigint;",
    "leases": "CREATE VIEW aiodurable_leases AS SELECT 1::bigint AS key, 1 AS pid;",
    "index": (
        "CREATE TABLE mine (thread_id text); CREATE INDEX aiodurable_runs_one_running_idx ON mine"
        " (thread_id);"
    ),
}


@contextmanager
def roles(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """Three roles that may log in; their password is their name."""
    with ExitStack() as stack:
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        for role in (JOE, OWNER, APP):
            connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'".encode())
            stack.callback(
                connection.execute, f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}".encode()
            )
        yield connection


@pytest.fixture
async def superuser(empty_dsn: str) -> AsyncIterator[psycopg.Connection[Any]]:
    with roles(empty_dsn) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        yield connection
        connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO current_user").format(name))


def by(dsn: str, role: str) -> str:
    return make_conninfo(dsn, user=role, password=role)


def as_joe(dsn: str, statements: str) -> None:
    with psycopg.connect(by(dsn, JOE), autocommit=True) as connection:
        connection.execute(statements.encode())


def rose(superuser: psycopg.Connection[Any]) -> bool:
    [(rose,)] = superuser.execute(
        "SELECT rolsuper FROM pg_roles WHERE rolname = %s", (JOE,)
    ).fetchall()
    return rose


async def migrates(dsn: str) -> None:
    await schema.migrate(parse_dsn(dsn))


async def checks(dsn: str) -> None:
    await schema.check(parse_dsn(dsn))


async def opens(dsn: str) -> None:
    async with Durable(dsn):
        pass


async def reads(dsn: str) -> None:
    async with Durable(dsn, settings=READING):
        pass


@pytest.mark.parametrize("use", [migrates, checks, opens, reads])
@pytest.mark.parametrize("squatted", SQUATTED)
async def test_what_another_role_made_under_our_name_is_refused_and_runs_no_code(
    empty_dsn: str,
    superuser: psycopg.Connection[Any],
    squatted: str,
    use: Callable[[str], Awaitable[None]],
) -> None:
    as_joe(empty_dsn, RISE + SQUATTED[squatted])
    with pytest.raises(ConfigurationError, match=f"role '{JOE}' owns it.*drop it"):
        await use(empty_dsn)
    assert not rose(superuser)


@pytest.mark.parametrize(
    "squatted",
    ["table_with_trigger", "view", "table_of_langgraph_with_trigger", "view_of_langgraph"],
)
async def test_what_is_made_while_a_migration_waits_is_refused_too(
    empty_dsn: str, superuser: psycopg.Connection[Any], squatted: str
) -> None:
    superuser.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_KEY,))
    migration = asyncio.create_task(migrates(empty_dsn))

    def waits() -> bool:
        query = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'aiodurable:schema%' AND query LIKE '%try_adv%'"
        )
        return bool(superuser.execute(query).fetchall())

    await wait_until(waits, what="a migration that waits")
    as_joe(empty_dsn, RISE + SQUATTED[squatted])
    superuser.execute("SELECT pg_advisory_unlock(%s)", (MIGRATION_KEY,))
    with pytest.raises(ConfigurationError, match=JOE):
        await migration
    assert not rose(superuser)


async def test_the_sequence_of_another_role_gives_a_lock_manager_no_tokens(
    empty_dsn: str, superuser: psycopg.Connection[Any]
) -> None:
    as_joe(
        empty_dsn, SQUATTED["sequence"] + "GRANT ALL ON SEQUENCE aiodurable_lock_tokens TO PUBLIC"
    )
    for dsn in (empty_dsn, by(empty_dsn, APP)):
        with pytest.raises(
            ConfigurationError, match=f"sequence 'public.aiodurable_lock_tokens'.*'{JOE}'"
        ):
            async with PostgresLockManager(dsn) as locks, locks.hold("name"):
                pass


async def test_a_trigger_of_another_role_on_our_table_is_refused(
    dsn: str, admin: psycopg.Connection[Any]
) -> None:
    with roles(dsn) as superuser:
        superuser.execute(
            f"GRANT CREATE ON SCHEMA public TO {JOE}; GRANT TRIGGER ON aiodurable_runs TO {JOE}".encode()
        )
        as_joe(dsn, RISE + TRIGGER.format("aiodurable_runs"))
        with pytest.raises(ConfigurationError, match=rf"'rise_by_trigger\(\)' of role '{JOE}'"):
            await opens(dsn)
        assert not rose(superuser)


async def test_a_rule_of_ours_that_calls_a_function_of_another_role_is_refused(dsn: str) -> None:
    with roles(dsn) as superuser:
        superuser.execute(f"GRANT CREATE ON SCHEMA public TO {JOE}".encode())
        as_joe(dsn, RISE)
        superuser.execute(
            "CREATE RULE rise AS ON INSERT TO aiodurable_fences DO ALSO SELECT public.rise()"
        )
        with pytest.raises(ConfigurationError, match=rf"'rise\(\)' of role '{JOE}'"):
            await checks(dsn)


async def test_a_schema_that_somebody_named_after_the_superuser_hides_no_table(
    empty_dsn: str, superuser: psycopg.Connection[Any]
) -> None:
    """`"$user"` comes first in the search path."""
    [(user,)] = superuser.execute("SELECT current_user").fetchall()
    superuser.execute(
        sql.SQL("GRANT CREATE ON DATABASE {} TO {}").format(
            sql.Identifier(superuser.info.dbname), sql.Identifier(JOE)
        )
    )
    as_joe(
        empty_dsn, f'CREATE SCHEMA "{user}"; CREATE TABLE "{user}".aiodurable_migrations {VERSIONS}'
    )
    with pytest.raises(ConfigurationError, match=JOE):
        await migrates(empty_dsn)


async def test_another_kind_of_relation_is_refused(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE VIEW aiodurable_fences AS SELECT 'x' AS thread_id, 1 AS token")
    with pytest.raises(ConfigurationError, match="view 'public.aiodurable_fences'.*something else"):
        await migrates(empty_dsn)


async def test_doctor_names_what_is_squatted(
    empty_dsn: str, superuser: psycopg.Connection[Any]
) -> None:
    as_joe(empty_dsn, SQUATTED["plain_table"])
    found = await tables(parse_dsn(empty_dsn), Settings())
    assert found.grade == "fail"
    assert JOE in found.found


# ---- the usual set-ups
# -----------------------------------------------------------------------------------------------


class State(TypedDict, total=False):
    n: int


def count(state: State) -> State:
    return {"n": state.get("n", 0) + 1}


GRAPHS: dict[str, Any] = {
    "count": (
        StateGraph(State).add_node("count", count).add_edge(START, "count").add_edge("count", END)
    )
}


async def works(dsn: str, settings: Settings = CLOSED) -> None:
    async with (
        Durable(dsn, graphs=GRAPHS, settings=settings) as durable,
        durable.run("thread", "count") as run,
    ):
        assert (await run.ainvoke({}))["n"]


def granted(superuser: psycopg.Connection[Any], role: str) -> None:
    superuser.execute(
        f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}; GRANT ALL ON ALL SEQUENCES IN SCHEMA"
        f" public TO {role}".encode()
    )


async def test_an_application_opens_what_a_superuser_migrated(
    empty_dsn: str, superuser: psycopg.Connection[Any]
) -> None:
    await migrates(empty_dsn)
    granted(superuser, APP)
    await works(by(empty_dsn, APP))


@pytest.mark.parametrize("what", ["DATABASE", "SCHEMA"])
async def test_an_application_and_a_superuser_open_what_the_owner_of_database_or_schema_migrated(
    empty_dsn: str, superuser: psycopg.Connection[Any], what: str
) -> None:
    name = "public" if what == "SCHEMA" else superuser.info.dbname
    superuser.execute(
        sql.SQL("ALTER {} {} OWNER TO {}").format(
            sql.SQL(what), sql.Identifier(name), sql.Identifier(OWNER)
        )
    )
    await migrates(by(empty_dsn, OWNER))
    granted(superuser, APP)
    await works(by(empty_dsn, APP))
    await works(empty_dsn, Settings())
    superuser.execute("ALTER SCHEMA public OWNER TO current_user")


async def test_a_member_of_the_owner_opens_what_the_owner_migrated(
    empty_dsn: str, superuser: psycopg.Connection[Any]
) -> None:
    await migrates(by(empty_dsn, OWNER))
    granted(superuser, APP)
    with pytest.raises(ConfigurationError, match="make it the owner of the schema"):
        await works(by(empty_dsn, APP))
    superuser.execute(f"GRANT {OWNER} TO {APP}".encode())
    await works(by(empty_dsn, APP), Settings())


async def test_a_role_opens_what_it_migrated_itself(
    empty_dsn: str, superuser: psycopg.Connection[Any]
) -> None:
    await works(by(empty_dsn, APP), Settings())
    await works(by(empty_dsn, APP))


def test_every_relation_that_a_migration_makes_has_its_owner_checked(dsn: str) -> None:
    names, kinds = made_by(
        [
            *schema.AsyncPostgresSaver.MIGRATIONS,
            *(step.sql for step in schema.migrations()),
            "CREATE TABLE aiodurable_migrations",
        ]
    )
    with psycopg.connect(dsn) as connection:
        found = connection.execute(
            "SELECT relname, relkind FROM pg_class WHERE relnamespace = 'public'::regnamespace AND"
            " relname !~ '_pkey$'"
        ).fetchall()
    assert {name for name, _ in found} <= set(names)
    assert all(kind in dict(zip(names, kinds, strict=True))[name] for name, kind in found)
