"""Whether a connection can hold session locks at all: asked before anything relies on it, and by trying, not by believing."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from aiodurable.dsn import Dsn
from aiodurable.errors import ConfigurationError, PoolerNotSupportedError
from aiodurable.locks.statements import LockStatements, pooled
from aiodurable.postgres.errors import DRIVER_FAILURES, to_unavailable

__all__ = ["check"]

FLOOR: Final = 14
"""The oldest major version of Postgres: it brought `idle_session_timeout`, by which a silent session's locks end."""

PEERS: Final = 3
"""Transactions opened beside the holder: a pooler that has one idle server connection gives it to the first of them."""


async def check(wire: LockStatements, dsn: Dsn, *, allow_proxy: bool, probe: bool, timeout_s: float) -> None:
    """Refuse a connection that cannot hold session locks.

    A proxy shows by announcing another backend than the one that answers (PgBouncer makes process ids up). One in session
    mode is fit for locks, but no question tells the modes apart: with `allow_proxy` a probe does. It holds a key and lets
    transactions on other connections try for it. The same probe, with `probe`, finds an engine that speaks Postgres but
    whose advisory locks exclude nobody.

    Raises:
        ConfigurationError: Postgres is older than `FLOOR`.
        PoolerNotSupportedError: a standby, a proxy that is not allowed, or no exclusion.
        PostgresUnavailableError: the server failed meanwhile.
    """
    if wire.version < FLOOR * 10_000:
        raise ConfigurationError(
            f"could not use Postgres {wire.version // 10_000} at {dsn.safe} for locks: it never ends a session that falls "
            f"silent. Upgrade to {FLOOR} or newer"
        )
    if wire.standby:
        raise PoolerNotSupportedError(
            f"wanted the primary at {dsn.safe}, found a standby: it grants locks of its own that exclude nobody on the "
            "primary. Name the primary, or add target_session_attrs=read-write"
        )
    proxied = wire.announced != wire.pid
    if proxied and not allow_proxy:
        raise PoolerNotSupportedError(
            f"wanted a direct connection to {dsn.safe}, found a pooler or proxy (it announced backend {wire.announced}, "
            f"{wire.pid} answered): give the locks a direct connection (lock_dsn, AIODURABLE_LOCK_DSN), or pass "
            "allow_proxy=True (AIODURABLE_LOCK_ALLOW_PROXY) if the pooler is in session mode"
        )
    if proxied or probe:
        async with asyncio.timeout(timeout_s):
            excludes = await _excludes(wire, dsn, peers=PEERS if proxied else 1, timeout_s=timeout_s)
        if excludes:
            return
        if proxied:
            raise pooled(dsn)
        raise PoolerNotSupportedError(
            f"wanted advisory locks at {dsn.safe}, found that two sessions can hold the same one: this engine speaks "
            "Postgres's protocol but its advisory locks exclude nobody. Use Postgres itself"
        )


async def _excludes(wire: LockStatements, dsn: Dsn, *, peers: int, timeout_s: float) -> bool:
    key = random.getrandbits(64) - (1 << 63)
    beside: list[LockStatements] = []
    try:
        if not await wire.try_hold(key):
            return False
        for _ in range(peers):
            beside.append(await LockStatements.open(dsn, timeout_s=timeout_s))
            if await beside[-1].try_beside(key):
                return False
        return await wire.give_back(key)
    except DRIVER_FAILURES as error:
        if getattr(error, "sqlstate", None) in ("26000", "42P05"):
            return False  # a prepared statement went to one server and its execution to another
        raise to_unavailable(error, dsn) from error
    finally:
        for peer in beside:
            peer.terminate()
