"""Opening refuses a connection that cannot hold session locks, and says what to change. For
poolers: test_pooler.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from aiodurable.errors import ConfigurationError, SessionLocksUnsupportedError
from aiodurable.locks import PostgresLockManager, selfcheck, statements
from aiodurable.locks.statements import LockStatements
from aiodurable.postgres import sql
from tests.support.internals import replace_statement
from tests.support.postgres import Server
from tests.support.standby import standby_server
from tests.support.waiting import wait_until


async def test_a_standby_is_refused() -> None:
    """It grants advisory locks of its own, which exclude nobody on the primary."""
    with standby_server() as standby, pytest.raises(SessionLocksUnsupportedError, match="standby"):
        await PostgresLockManager(standby).open()


async def test_an_engine_whose_locks_exclude_nobody_is_refused(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sql.load("locks")["probe"]
    probe = real.replace(
        "pg_catalog.pg_try_advisory_xact_lock($1::bigint)", "$1::bigint IS NOT NULL"
    )
    assert probe != real
    replace_statement(monkeypatch, statements, "probe", probe)
    with pytest.raises(SessionLocksUnsupportedError, match="exclude nobody"):
        await PostgresLockManager(dsn).open()


async def test_a_backend_that_is_ended_during_the_probe_is_no_engine_without_exclusion(
    dsn: str, admin: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock ends with it, so that the peer gets that one, too."""
    ended = list[int]()
    probe_lock = LockStatements.probe_lock

    async def end_once(holder: LockStatements, key: int) -> bool:
        locked = await probe_lock(holder, key)
        if not ended:
            ended.append(holder.pid)
            admin.execute("SELECT pg_terminate_backend(%s)", [holder.pid])
            alive = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
            await wait_until(lambda: not admin.execute(alive, [holder.pid]).fetchall())
        return locked

    monkeypatch.setattr(LockStatements, "probe_lock", end_once)
    async with PostgresLockManager(dsn) as locks, locks.hold("a"):
        pass
    assert ended


async def test_a_postgres_that_ends_no_silent_session_is_refused(
    dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    major = server.version // 10_000
    monkeypatch.setattr(selfcheck, "OLDEST", major + 1)
    with pytest.raises(
        ConfigurationError, match=rf"Postgres {major} .* Upgrade to {major + 1} or newer"
    ):
        await PostgresLockManager(dsn).open()
    monkeypatch.setattr(selfcheck, "OLDEST", major)
    async with PostgresLockManager(dsn) as locks, locks.hold("a"):
        pass
