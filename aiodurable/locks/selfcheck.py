"""Checks by trying whether a connection can hold session locks, before anything relies on it."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError, SessionLocksUnsupportedError
from aiodurable.locks.statements import LockStatements, pooled
from aiodurable.postgres.errors import DRIVER_FAILURES, to_unavailable

__all__ = ["check"]

OLDEST: Final = 14
"""The oldest supported major version of Postgres: it brought `idle_session_timeout`, which frees
the locks of a silent session."""

PEERS: Final = 3
"""Transactions opened beside the holder: a pooler that has one idle server connection gives it to
the first of them."""


async def check(
    statements: LockStatements, dsn: Dsn, *, allow_proxy: bool, probe: bool, timeout_s: float
) -> None:
    """Refuse a connection that cannot hold session locks.

    A proxy announces another backend than the one that answers (PgBouncer makes process ids up). A
    pooler in session mode can hold locks, but nothing it says tells the modes apart; with
    `allow_proxy` a probe does: it locks a key and has transactions on other connections try it.
    With `probe` the same probe finds an engine that speaks Postgres but whose advisory locks
    exclude nobody.

    Raises:
        ConfigurationError: Postgres is older than `OLDEST`.
        SessionLocksUnsupportedError: a standby, a proxy that is not allowed, or no exclusion.
        PostgresUnavailableError: the server failed meanwhile.
    """
    if statements.version < OLDEST * 10_000:
        raise ConfigurationError(
            f"cannot use Postgres {statements.version // 10_000} at {dsn.safe} for locks: it never"
            f" ends a session that falls silent. Upgrade to {OLDEST} or newer"
        )
    if statements.standby:
        raise SessionLocksUnsupportedError(
            f"cannot use {dsn.safe} for locks: it is a standby, whose locks exclude nobody on the"
            " primary. Name the primary, or add target_session_attrs=read-write"
        )
    proxied = statements.announced != statements.pid
    if proxied and not allow_proxy:
        raise SessionLocksUnsupportedError(
            f"cannot hold locks through {dsn.safe}: it is a pooler or proxy (it announced backend"
            f" {statements.announced}, {statements.pid} answered). Give the locks a direct"
            " connection (lock_dsn, AIODURABLE_LOCK_DSN), or pass allow_proxy=True"
            " (AIODURABLE_LOCK_ALLOW_PROXY) if the pooler is in session mode"
        )
    if proxied or probe:
        async with asyncio.timeout(timeout_s):
            excludes = await _excludes(
                statements, dsn, peers=PEERS if proxied else 1, timeout_s=timeout_s
            )
        if excludes:
            return
        if proxied:
            raise pooled(dsn)
        raise SessionLocksUnsupportedError(
            f"cannot use the advisory locks of {dsn.safe}: two sessions can hold the same one. This"
            " engine speaks Postgres's protocol, but its advisory locks exclude nobody. Use"
            " Postgres itself"
        )


async def _excludes(statements: LockStatements, dsn: Dsn, *, peers: int, timeout_s: float) -> bool:
    key = random.getrandbits(64) - (1 << 63)
    peers_open: list[LockStatements] = []
    try:
        if not await statements.probe_lock(key):
            return False
        for _ in range(peers):
            peers_open.append(await LockStatements.open(dsn, timeout_s=timeout_s))
            if await peers_open[-1].probe_from_peer(key):
                # Raises where the session has ended meanwhile, and the lock with it.
                await statements.probe_unlock(key)
                return False
        unlocked = await statements.probe_unlock(key)
        for peer in peers_open:  # an audit counts lock sessions, and would count these with them
            await peer.leave(timeout_s)
        return unlocked
    except DRIVER_FAILURES as error:
        if getattr(error, "sqlstate", None) in ("26000", "42P05"):
            return False  # one server prepared the statement, another was to execute it
        raise to_unavailable(error, dsn) from error
    finally:
        for peer in peers_open:
            peer.terminate()
