"""What happens on a lock session's own connection behind its back."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiodurable.locks.session import LockSession
from tests.support.internals import connection_of
from tests.support.waiting import wait_until


@asynccontextmanager
async def stopped(session: LockSession) -> AsyncIterator[None]:
    """Its backend answers nothing while the body runs. The session has nothing under way then: a
    session that is new sends an audit, and its next statement would wait behind that.
    """
    await wait_until(lambda: session.idle, what="the session to be idle")
    os.kill(session.statements.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(session.statements.pid, signal.SIGCONT)


async def take_away(session: LockSession, *keys: int) -> None:
    """The server has these locks no longer."""
    await connection_of(session).fetch(
        "SELECT pg_advisory_unlock(k) FROM unnest($1::bigint[]) k", keys
    )


async def slip_in(session: LockSession, key: int) -> None:
    """The server has one that nobody asked for."""
    await connection_of(session).fetch("SELECT pg_advisory_lock($1)", key)
