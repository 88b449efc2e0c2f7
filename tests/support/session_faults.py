"""What happens on a lock session's own connection behind its back."""

from __future__ import annotations

from aiodurable.locks.session import LockSession
from tests.support.internals import connection_of


async def take_away(session: LockSession, *keys: int) -> None:
    """The server has these locks no longer."""
    await connection_of(session).fetch(
        "SELECT pg_advisory_unlock(k) FROM unnest($1::bigint[]) k", keys
    )


async def slip_in(session: LockSession, key: int) -> None:
    """The server has one that nobody asked for."""
    await connection_of(session).fetch("SELECT pg_advisory_lock($1)", key)
