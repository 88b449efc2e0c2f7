"""Every check of the doctor finds what it is for, on servers, databases, roles and ways that are
really wrong.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import psycopg
import pytest
from click.testing import CliRunner, Result
from langgraph.checkpoint.serde._msgpack import STRICT_MSGPACK_ENABLED
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from aiodurable.cli.commands import cli
from aiodurable.cli.doctor import connectivity
from aiodurable.cli.doctor import server as server_checks
from aiodurable.cli.doctor.finding import Finding, Grade
from aiodurable.cli.doctor.runner import examine
from aiodurable.dsn import parse_dsn
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.settings import Settings
from tests.support.internals import replace_statement
from tests.support.pgbouncer import through
from tests.support.ports import free_port
from tests.support.postgres import Server
from tests.support.standby import standby_server

pytestmark = pytest.mark.usefixtures("no_database_by_accident")


async def examined(dsn: str) -> dict[str, Finding]:
    return {finding.check: finding async for finding in examine(dsn)}


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[PsycopgPool]:
    opened = PsycopgPool(parse_dsn(dsn))
    await opened.open()
    yield opened
    await opened.aclose()


def name_of(dsn: str) -> sql.Identifier:
    return sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))


def alter(admin: psycopg.Connection[Any], dsn: str, setting: str, value: str) -> None:
    admin.execute(
        sql.SQL("ALTER DATABASE {} SET {} = {}").format(
            name_of(dsn), sql.Identifier(setting), value
        )
    )


# ---- the command --------------------------------------------------------------------------------


def doctor(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["doctor", *arguments])


def test_a_database_that_is_fit_passes(dsn: str) -> None:
    result = doctor("--dsn", dsn)
    assert result.exit_code == 0, result.output
    assert "0 failed" in result.output
    assert "\x1b" not in result.output, "no colours where nobody sees them"
    assert max(map(len, result.output.splitlines())) <= 80
    graded = {
        found["check"]: found["grade"]
        for found in map(json.loads, doctor("--dsn", dsn, "--json").output.splitlines())
    }
    assert set(graded.values()) <= {"ok", "warn"}
    assert {"settings", "psycopg", "asyncpg", "locks", "silence", "clock", "schema", "rights"} <= {
        check for check, grade in graded.items() if grade == "ok"
    }


def test_a_server_that_is_away_is_a_finding_and_exit_code_1() -> None:
    result = doctor(
        "--dsn", f"postgresql://app:s3cret@127.0.0.1:{free_port()}/app?connect_timeout=2"
    )
    assert result.exit_code == 1
    assert "fail  psycopg" in result.output
    assert "fail  asyncpg" in result.output
    assert "s3cret" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("option", ["sslpassword", "options"])
def test_no_value_that_may_be_a_secret_is_shown(option: str) -> None:
    dsn = make_conninfo(
        host="127.0.0.1",
        port=str(free_port()),
        user="app",
        password="s3cret",
        **{option: "-c a=hush"},
    )
    result = doctor("--dsn", dsn, "--json")
    assert option in result.output
    assert "s3cret" not in result.output
    assert "hush" not in result.output


# ---- the configuration --------------------------------------------------------------------------


async def test_settings_that_break_each_other_are_a_failure(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_LEASE_TTL_S", "1")
    found = (await examined(dsn))["settings"]
    assert found.grade == "fail"
    assert "lease_ttl_s" in found.found


@pytest.mark.parametrize(
    ("name", "value"), [("LEASE_HEARTBEAT_S", "0.1"), ("RECOVERY_GRACE_S", "60")]
)
async def test_unwise_settings_are_a_warning_that_names_them(
    dsn: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"AIODURABLE_{name}", value)
    found = (await examined(dsn))["settings"]
    assert found.grade == "warn"
    assert name.lower() in str(found.advice)


async def test_a_dsn_that_cannot_be_read_is_a_failure_that_hides_it() -> None:
    found = await examined("postgresql://app:se%cret@host/app")
    assert found["dsn"].grade == "fail"
    assert "cret" not in str(found["dsn"])
    assert set(found) == {"settings", "ledger types", "state types", "dsn"}


async def test_a_process_that_builds_what_a_row_names(monkeypatch: pytest.MonkeyPatch) -> None:
    strict = await examined("postgresql://app:se%cret@host/app")
    assert strict["ledger types"].grade == "ok"
    assert strict["state types"].grade == ("ok" if STRICT_MSGPACK_ENABLED else "warn")
    monkeypatch.setenv("AIODURABLE_STRICT_MSGPACK", "false")
    permissive = (await examined("postgresql://app:se%cret@host/app"))["ledger types"]
    assert permissive.grade == "warn"
    assert "unset AIODURABLE_STRICT_MSGPACK" in str(permissive.advice)


async def test_an_option_that_asyncpg_ignores_is_a_warning(dsn: str) -> None:
    found = (await examined(make_conninfo(dsn, keepalives_idle="30")))["dsn"]
    assert found.grade == "warn"
    assert "keepalives_idle" in found.found


async def test_a_missing_certificate_is_a_failure_of_both_drivers(dsn: str) -> None:
    found = await examined(
        make_conninfo(dsn, sslmode="verify-full", sslrootcert="system", sslcert="/no/such.crt")
    )
    assert found["dsn"].grade == found["asyncpg"].grade == "fail"


async def test_a_direct_dsn_that_cannot_be_read_is_a_failure(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_LOCK_DSN", "nonsense")
    assert (await examined(dsn))["lock_dsn"].grade == "fail"


# ---- the ways -----------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [{"dbname": "nowhere"}, {"user": "nobody_here"}])
async def test_a_missing_database_or_role_is_a_failure_of_both_drivers(
    dsn: str, wrong: dict[str, str]
) -> None:
    found = await examined(make_conninfo(dsn, **wrong))
    assert found["psycopg"].grade == found["asyncpg"].grade == "fail"
    assert "schema" not in found, "no check of a server that cannot be reached"


async def test_a_pooler_in_transaction_mode(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with through("transaction", dsn, server_connections=5) as pooler:
        found = await examined(pooler)
        assert found.get("locks", found["asyncpg"]).grade == "fail"
        assert "AIODURABLE_LOCK_DSN" in found.get("locks", found["asyncpg"]).found
        monkeypatch.setenv("AIODURABLE_LOCK_DSN", dsn)
        found = await examined(pooler)
        assert found["locks"].grade == "ok"
        assert "transaction mode" in found["pooling"].found
        assert found["same database"].grade == "ok"
    assert all(finding.grade != "fail" for finding in found.values()), found


async def test_a_pooler_in_session_mode(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with through("session", dsn) as pooler:
        found = (await examined(pooler))["locks"]
        assert found.grade == "fail"
        assert "AIODURABLE_LOCK_ALLOW_PROXY" in str(found.advice)
        monkeypatch.setenv("AIODURABLE_LOCK_ALLOW_PROXY", "true")
        found = await examined(pooler)
        assert found["locks"].grade == found["silence"].grade == "ok"


async def test_a_direct_way_that_needs_none_beside_it(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_LOCK_DSN", dsn)
    assert "not needed" in (await examined(dsn))["pooling"].found


async def test_a_direct_dsn_to_another_database_is_a_failure(
    dsn: str, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIODURABLE_LOCK_DSN", empty_dsn)
    assert (await examined(dsn))["same database"].grade == "fail"


async def test_a_standby_is_a_failure_that_names_target_session_attrs() -> None:
    with standby_server() as standby:
        found = await examined(standby)
    assert found["primary"].grade == found["locks"].grade == "fail"
    assert "target_session_attrs" in str(found["primary"].advice)


async def test_a_server_that_keeps_silent_sessions_is_a_failure(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace_statement(monkeypatch, connectivity, "fall_silent", "SELECT $1")
    monkeypatch.setattr(connectivity, "_PATIENCE_S", 0.5)
    found = (await examined(dsn))["silence"]
    assert found.grade == "fail"


# ---- the server ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "setting", "value", "grade"),
    [
        ("primary", "default_transaction_read_only", "on", "fail"),
        ("durability", "synchronous_commit", "off", "warn"),
        ("timeouts", "statement_timeout", "5s", "warn"),
        ("timeouts", "lock_timeout", "1s", "warn"),
        ("timeouts", "idle_in_transaction_session_timeout", "1s", "warn"),
        ("timeouts", "idle_session_timeout", "20s", "warn"),
    ],
)
async def test_a_harmful_setting_of_the_server_is_a_finding_that_names_it(
    dsn: str, admin: psycopg.Connection[Any], check: str, setting: str, value: str, grade: str
) -> None:
    alter(admin, dsn, setting, value)
    found = (await examined(dsn))[check]
    assert found.grade == grade
    assert setting in found.found


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_a_database_that_cannot_hold_unicode(server: Server, encoding: str) -> None:
    name = f"encoded_{encoding.lower()}_{os.getpid()}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'")
    server.execute(create.format(sql.Identifier(name), encoding))
    found = await examined(server.database(name))
    server.drop(name)
    assert found["encoding"].grade == "fail"
    assert encoding in found["encoding"].found


async def test_too_few_connections_for_one_more_process(
    dsn: str, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT 12").format(name_of(dsn)))
    found = (await examined(dsn))["connections"]
    assert found.grade == "warn"
    assert "may have only 12" in found.found
    admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT -1").format(name_of(dsn)))
    monkeypatch.setenv("AIODURABLE_POOL_MAX_SIZE", "1000")
    assert "free" in (await examined(dsn))["connections"].found


async def test_how_large_values_are_compressed(
    dsn: str, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = (await examined(dsn))["compression"]
    if "built without" in fresh.found:
        assert fresh.grade == "warn"
    else:
        assert fresh == Finding("compression", Grade.OK, "large values are compressed with lz4")
        alter(admin, dsn, "default_toast_compression", "pglz")
        chosen = (await examined(dsn))["compression"]
        assert (chosen.grade, "AIODURABLE_COMPRESSION" in str(chosen.advice)) == ("warn", True)
        monkeypatch.setenv("AIODURABLE_COMPRESSION", "lz4")
        assert "with lz4" in (await examined(dsn))["compression"].found
    monkeypatch.setenv("AIODURABLE_COMPRESSION", "pglz")
    with psycopg.connect(dsn, autocommit=True) as owner:
        owner.execute(b"ALTER TABLE checkpoint_blobs ALTER COLUMN blob SET STORAGE EXTERNAL")
        owner.execute(b"ALTER TABLE checkpoint_writes ALTER COLUMN blob SET COMPRESSION pglz")
    found = (await examined(dsn))["compression"]
    assert found.grade == "ok"
    assert "checkpoint_blobs.blob none, checkpoint_writes.blob pglz" in found.found


async def test_a_lock_table_that_fills_up(dsn: str, database: PsycopgPool) -> None:
    facts = await server_checks.facts_of(database)
    slots = facts.number("max_locks_per_transaction") * facts.number("max_connections")
    holder = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    for share, grade in ((0.5, "warn"), (0.9, "fail")):
        await holder.fetch(
            "SELECT pg_try_advisory_lock(n) FROM generate_series(1, $1) AS n", round(slots * share)
        )
        found = server_checks.lock_table(await server_checks.facts_of(database), Settings())
        assert found.grade == grade, found
    await holder.close()


async def test_facts_that_this_server_cannot_have(database: PsycopgPool) -> None:
    """An old server, and one reached through a pooler over a network where dead peers are not
    noticed.
    """
    facts = await server_checks.facts_of(database)
    assert server_checks.version(replace(facts, version_num=130000), Settings()).grade == "fail"
    over_tcp = replace(
        facts, over_tcp=True, settings={**facts.settings, "tcp_keepalives_idle": "7200"}
    )
    assert server_checks.keepalives(over_tcp, Settings()).grade == "warn"
    looked_for = replace(over_tcp, settings={**over_tcp.settings, "tcp_keepalives_idle": "60"})
    assert server_checks.keepalives(looked_for, Settings()).grade == "ok"


@pytest.mark.parametrize("seconds", [-30, 30])
async def test_a_clock_that_is_wrong(database: PsycopgPool, seconds: int) -> None:
    def wrong() -> datetime:
        return datetime.now(UTC) + timedelta(seconds=seconds)

    found = await server_checks.clock(database, wrong)
    assert found.grade == "warn"
    assert ("ahead" if seconds > 0 else "behind") in found.found
    assert (await server_checks.clock(database)).grade == "ok"


# ---- tables and rights --------------------------------------------------------------------------


async def test_missing_tables_are_a_warning_or_a_failure_without_auto_migrate(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await examined(empty_dsn))["schema"].grade == "warn"
    monkeypatch.setenv("AIODURABLE_AUTO_MIGRATE", "false")
    found = (await examined(empty_dsn))["schema"]
    assert found.grade == "fail"
    assert "aiodurable db migrate" in found.found


async def test_tables_of_a_newer_version_are_a_failure(dsn: str, database: PsycopgPool) -> None:
    await database.execute(
        "INSERT INTO aiodurable_migrations (version, name) VALUES (999, 'later')"
    )
    assert (await examined(dsn))["schema"].grade == "fail"


@pytest.fixture
def poor(admin: psycopg.Connection[Any]) -> Iterator[str]:
    """A role that may do nothing in particular."""
    name = f"poor_{os.getpid()}"
    admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'poor'").format(sql.Identifier(name)))
    yield name
    admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


async def test_a_role_without_rights_is_a_failure_that_names_one(
    dsn: str, empty_dsn: str, poor: str
) -> None:
    found = await examined(make_conninfo(dsn, user=poor, password="poor"))
    assert found["rights"].grade == "fail"
    assert "INSERT on checkpoints" in found["rights"].found
    assert found["schema"].grade == "fail", "it may not even read"
    found = await examined(make_conninfo(empty_dsn, user=poor, password="poor"))
    assert found["rights"].grade == "fail"
    assert "may not create tables" in found["rights"].found


async def test_a_check_that_breaks_is_a_finding(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_statement(monkeypatch, server_checks, "facts", "SELECT 'hush' / 0")
    found = (await examined(dsn))["server"]
    assert found.grade == "fail"
    assert "hush" not in found.found


async def test_a_server_that_accepts_and_says_nothing_is_given_up() -> None:
    silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    os.environ["AIODURABLE_CONNECT_TIMEOUT_S"] = "0.5"
    try:
        found = await examined(f"postgresql://app@127.0.0.1:{port}/app?sslmode=disable")
    finally:
        del os.environ["AIODURABLE_CONNECT_TIMEOUT_S"]
        silent.close()
    assert found["psycopg"].grade == found["asyncpg"].grade == "fail"


@pytest.mark.parametrize("table", ["aiodurable_namespace", "aiodurable_runs"])
async def test_a_right_on_any_of_our_tables_that_is_missing(
    dsn: str, admin: psycopg.Connection[Any], table: str
) -> None:
    role = f"limited_{uuid4().hex[:12]}"
    admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'limited'".encode())
    try:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for statement in (
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {}",
                "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}",
            ):
                connection.execute(statement.format(role).encode())
            assert (await examined(make_conninfo(dsn, user=role, password="limited")))[
                "rights"
            ].grade is Grade.OK
            connection.execute(f"REVOKE SELECT ON {table} FROM {role}".encode())
            found = (await examined(make_conninfo(dsn, user=role, password="limited")))["rights"]
            connection.execute(f"DROP OWNED BY {role}".encode())
        assert found.grade is Grade.FAIL
        assert f"SELECT on {table}" in found.found
    finally:
        admin.execute(f"DROP ROLE {role}".encode())
