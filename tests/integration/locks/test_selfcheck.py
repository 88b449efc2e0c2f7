"""Opening refuses a connection that cannot hold session locks, and says what to change. For
poolers: test_pooler.
"""

from __future__ import annotations

import pytest

from aiodurable.errors import ConfigurationError, SessionLocksUnsupportedError
from aiodurable.locks import PostgresLockManager, selfcheck, statements
from aiodurable.postgres import sql
from tests.support.internals import replace_statement
from tests.support.postgres import Server
from tests.support.standby import standby_server


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
