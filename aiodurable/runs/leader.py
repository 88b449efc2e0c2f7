"""Leadership: a duty that one process of many carries out, until it dies and another takes over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiodurable.locks import PostgresLockManager

__all__ = ["duty_lock", "leadership"]


def duty_lock(duty: str) -> str:
    """The name of the lock whose holder leads `duty`."""
    return f"aiodurable: {duty}"


@asynccontextmanager
async def leadership(locks: PostgresLockManager, duty: str) -> AsyncIterator[None]:
    """Wait until no other process leads `duty`, then lead it for the body.

    Raises:
        LeaseLostError: (out of the body) the lock session was lost; the body was cancelled, because
            another process may lead already.
    """
    async with locks.hold(duty_lock(duty), timeout=None):
        yield
