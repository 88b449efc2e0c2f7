"""What happens on a lock session's own connection behind its back."""

from __future__ import annotations

from aiodurable.locks.rows import RowWire
from aiodurable.locks.session import LockSession


async def take_away(session: LockSession, *keys: int) -> None:
    """The server has these locks no longer."""
    wire = session.wire
    if isinstance(wire, RowWire):
        await wire._connection.fetch("DELETE FROM aiodurable_locks WHERE key = ANY ($1)", keys)
    else:
        await wire._connection.fetch("SELECT pg_advisory_unlock(k) FROM unnest($1::bigint[]) k", keys)


async def slip_in(session: LockSession, key: int) -> None:
    """The server has one that nobody asked for."""
    wire = session.wire
    if isinstance(wire, RowWire):
        await wire._connection.fetch("INSERT INTO aiodurable_locks (key, owner) VALUES ($1, $2)", key, wire.owner)
    else:
        await wire._connection.fetch("SELECT pg_advisory_lock($1)", key)
