"""The one task that sends a lock session's statements, one after the other; lone requests apart."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import Any, Final

import asyncpg

from aiodurable.locks.capacity import beyond, full, share
from aiodurable.locks.lone import LoneRequest
from aiodurable.locks.requests import BATCH
from aiodurable.locks.session import LockSession, SessionState
from aiodurable.locks.statements import NOT_HELD
from aiodurable.postgres.errors import DRIVER_FAILURES

__all__ = ["Sender"]

_log = logging.getLogger(__name__)

AUDIT_S: Final = 30.0
"""Seconds between two audits, halved at random: `pg_locks` is read whole, which takes some
milliseconds for every 10,000 locks."""

# An attribute of an Enum class costs a call on Python 3.11.
_UP, _OVER = SessionState.UP, SessionState.OVER


class Sender:
    """Sends what a session wants to send: requests in batches, flags, audits, heartbeats."""

    def __init__(self, session: LockSession) -> None:
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._audit_timer: asyncio.TimerHandle | None = None

    async def serve(self) -> None:
        """Send until the session ends or closes."""
        session = self._session
        self._schedule_audit()
        try:
            while session.state is not _OVER:
                await session.work.wait()
                session.work.clear()
                if session.lone is not None and not await self._undo_lone(session.lone):
                    continue  # its answer sets `work` again
                if session.state is SessionState.CLOSING:
                    return
                session.sending, session.quiet = True, False
                if session.audit_due:
                    await self._audit()
                if session.flags.due:
                    await self._send_flags()
                carried = await self._send_batch()
                if session.requests.leases:
                    carried += await self._send_leases()
                session.sending = False
                if session.requests or session.flags.due:
                    session.work.set()
                else:  # the next one may be alone, too
                    alone = carried < 2 and not session.audit_due
                    session.quiet = alone and session.state is _UP
        except BaseException as error:  # nobody may trust this session any longer, or wait for it
            session.lose(type(error).__name__)
            raise
        finally:
            if self._audit_timer is not None:
                self._audit_timer.cancel()

    async def _send_batch(self) -> int:
        """Returns how many requests it carried."""
        session = self._session
        if session.state is _OVER:
            return 0
        requests, statements = session.requests, session.statements
        capacity = max(0, session.share - len(session.held))
        batch = requests.take(capacity, lambda: beyond(session.share))
        if not batch and not session.clock.heartbeat_due:
            return 0
        releases, acquires = batch.releases, batch.acquires.keys
        sent = time.monotonic()
        try:
            answer = await statements.batch(releases, acquires, len(batch.renewals.keys))
        except asyncpg.OutOfMemoryError as error:
            # Everything that the statement locked before it failed is still locked.
            await self._undo(releases + acquires, [])
            batch.fail(lambda cause=error: full(cause))
        except DRIVER_FAILURES as error:
            session.failed(error)
        else:
            if not session.is_over and session.note_answer(answer.pid, sent):
                for key in batch.settle(answer, session.granting, session.clock.answered):
                    session.release(key)
                if NOT_HELD in answer.released:
                    session.lose("a lock was not there any more when it was to be unlocked")
        requests.under_way = None
        return len(releases) + len(acquires) + len(batch.renewals.keys)

    async def _send_leases(self) -> int:
        """Lock threads and raise their tokens; after the batch, so that no release waits for it.

        Returns how many requests it carried.
        """
        session = self._session
        if session.state is _OVER:
            return 0
        requests = session.requests
        capacity = max(0, session.share - len(session.held))
        batch = requests.take_leases(capacity, lambda: beyond(session.share))
        acquires, renewals = batch.acquires, batch.renewals
        if not batch:
            return 0
        sent = time.monotonic()
        try:
            leased = await session.statements.lease(
                [*acquires.keys, *(None for _ in renewals.keys)], acquires.names + renewals.names
            )
        except asyncpg.OutOfMemoryError as error:
            await self._undo(acquires.keys, [])
            batch.fail(lambda cause=error: full(cause))
        except asyncpg.PostgresError as error:
            # Somebody makes one of these fences in a transaction that is open, or alters a table,
            # or a right is gone. What was locked before the error is still locked. The locks are
            # tried again alone; their holders raise the tokens, or get the error, elsewhere.
            _log.debug("cannot raise tokens with the locks of their threads: %s", error)
            await self._undo(acquires.keys, [])
            if not session.is_over:
                requests.lock_only(batch)
        except DRIVER_FAILURES as error:
            session.failed(error)
        else:
            if not session.is_over and session.note_answer(leased.pid, sent):
                for key in batch.settle_leases(leased, session.granting, session.clock.answered):
                    session.release(key)
        requests.under_way = None
        return len(acquires.keys) + len(renewals.keys)

    async def _send_flags(self) -> None:
        session = self._session
        down, up = session.flags.take(BATCH)
        if not (down or up) or session.state is _OVER:
            return
        sent = time.monotonic()
        try:
            pid, are_up = await session.statements.flags(down, up)
        except asyncpg.OutOfMemoryError:
            await self._undo([], down + up)
            session.flags.settle(down, [])
        except DRIVER_FAILURES as error:
            session.failed(error)
        else:
            if not session.is_over and session.note_answer(pid, sent):
                raised = [key for key, is_up in zip(up, are_up, strict=True) if is_up]
                session.flags.settle(down, raised)

    async def _audit(self) -> None:
        """Compare what the session believes to hold with `pg_locks`, and learn its share.

        Nothing else is under way.
        """
        session = self._session
        session.audit_due = False
        self._schedule_audit()
        believed = session.held.keys() | session.requests.to_unlock
        sent = time.monotonic()
        try:
            pid, keys, slots, sessions = await session.statements.audit(len(believed))
        except DRIVER_FAILURES as error:
            session.failed(error)
            return
        if session.is_over or not session.note_answer(pid, sent):
            return
        session.share = share(slots, sessions)
        if keys is None:
            return
        if missing := len(believed - set(keys)):
            session.lose(
                f"the server does not have {missing} of the {len(believed)} locks that were"
                " believed to be held"
            )
            return
        for key in set(keys) - believed:
            _log.error(
                "a lock session held a key that no lease in this process has; it is unlocked:"
                " please report this"
            )
            session.release(key)

    def _schedule_audit(self) -> None:
        if self._audit_timer is not None:
            self._audit_timer.cancel()
        wait = AUDIT_S * random.uniform(0.5, 1.0)
        self._audit_timer = self._loop.call_later(wait, self._session.audit_soon)

    async def _undo_lone(self, lone: LoneRequest[Any]) -> bool:
        """Undo a lone request that the server had no memory for. False: it has no answer yet."""
        if (refused := lone.refused) is None:
            return False
        await self._undo([lone.key], [])
        if not self._session.is_over:
            self._session.lone_answered()
            lone.fail(lambda: full(refused))
        return True

    async def _undo(self, keys: list[int], flags: list[int]) -> None:
        try:
            await self._session.statements.undo(keys, flags)
        except DRIVER_FAILURES as error:
            self._session.failed(error)
