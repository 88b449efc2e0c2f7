"""A connection that cannot hold session locks is refused at the door, with what to change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from aiodurable.errors import ConfigurationError, LockError, PoolerNotSupportedError
from aiodurable.locks import PostgresLockManager
from aiodurable.locks import wire as wires
from pgbouncer import through
from standby import standby_server


@pytest.fixture
def transaction_pooler(dsn: str) -> Iterator[str]:
    with through("transaction", dsn) as url:
        yield url


@pytest.fixture
def session_pooler(dsn: str) -> Iterator[str]:
    with through("session", dsn) as url:
        yield url


@pytest.mark.parametrize("allow_proxy", [False, True])
async def test_a_pooler_in_transaction_mode_is_refused_also_when_a_proxy_is_allowed(
    transaction_pooler: str, allow_proxy: bool
) -> None:
    locks = PostgresLockManager(transaction_pooler, allow_proxy=allow_proxy)
    with pytest.raises(PoolerNotSupportedError, match="lock_dsn") as refused:
        await locks.open()
    assert isinstance(refused.value, LockError)
    assert isinstance(refused.value, ConfigurationError)
    connection = await asyncpg.connect(transaction_pooler, statement_cache_size=0)
    try:
        # Nothing of ours stayed behind on a server connection that others get next.
        assert await connection.fetchval("SHOW idle_session_timeout") == "0"
    finally:
        await connection.close()


async def test_a_pooler_in_session_mode_is_taken_only_when_allowed_and_holds(session_pooler: str, dsn: str) -> None:
    with pytest.raises(PoolerNotSupportedError, match="allow_proxy"):
        await PostgresLockManager(session_pooler).open()
    async with PostgresLockManager(session_pooler, allow_proxy=True) as proxied, PostgresLockManager(dsn) as direct:
        async with proxied.hold("a"):
            assert await direct.try_acquire("a") is None
        waiting = asyncio.create_task(proxied.acquire("b", timeout=None))
        await (await waiting).release()


async def test_a_standby_is_refused() -> None:
    """It grants advisory locks of its own, which exclude nobody on the primary."""
    with standby_server() as standby, pytest.raises(PoolerNotSupportedError, match="standby"):
        await PostgresLockManager(standby).open()


async def test_an_engine_whose_locks_exclude_nobody_is_refused(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = wires._SQL["probe"]
    probe = real.replace("pg_catalog.pg_try_advisory_xact_lock($1::bigint)", "$1::bigint IS NOT NULL")
    assert probe != real
    monkeypatch.setattr(wires, "_SQL", {**wires._SQL, "probe": probe})
    with pytest.raises(PoolerNotSupportedError, match="exclude nobody"):
        await PostgresLockManager(dsn).open()
