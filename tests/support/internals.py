"""The services behind the public objects, for tests that watch or disturb them.

Private attributes of the library are read here alone, so that a rename there changes one line here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg

from aiodurable.checkpoints import DurableSaver, stored_values
from aiodurable.checkpoints.encoding import Write
from aiodurable.checkpoints.group_commit import GroupCommitter
from aiodurable.checkpoints.write_session import WriteSession
from aiodurable.durable import Durable
from aiodurable.locks import Lease, PostgresLockManager
from aiodurable.locks.acquire import Acquirer
from aiodurable.locks.lease import Trust
from aiodurable.locks.session import LockSession
from aiodurable.locks.statements import LockStatements
from aiodurable.locks.supervisor import SessionSupervisor
from aiodurable.postgres.circuit_breaker import CircuitBreaker
from aiodurable.postgres.direct import DirectConnection
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.services import Services
from aiodurable.runs.threads import Threads

if TYPE_CHECKING:
    import pytest  # benchmarks, whose extra has none, import this, too

Wrapper: TypeAlias = Callable[[Callable[..., Any]], Callable[..., Any]]


def services_of(opened: Durable | Threads) -> Services:
    """The services behind an open `Durable`, or behind its threads."""
    return opened._opened()


def supervisors_of(locks: PostgresLockManager) -> list[SessionSupervisor]:
    """What keeps the lock sessions up, by their places."""
    return locks._supervisors


def acquirer_of(locks: PostgresLockManager) -> Acquirer:
    """What acquires and releases for this manager, with its local queue and its waiters."""
    return locks._acquirer


def session_of(locks: PostgresLockManager, place: int = 0) -> LockSession:
    """The lock session at a place, which must be up."""
    session = supervisors_of(locks)[place].session
    assert session is not None
    return session


def socket_of(connection: DirectConnection) -> Any:
    """The socket of a direct connection, which must be open."""
    assert connection._connection is not None
    return connection._connection._transport.get_extra_info("socket")


def session_with(locks: PostgresLockManager, lease: Lease) -> LockSession:
    """The lock session on which the lease lives."""
    sessions = [supervisor.session for supervisor in supervisors_of(locks)]
    [session] = [one for one in sessions if one is not None and one.clock.trust is trust_of(lease)]
    return session


def connection_of(session: LockSession) -> asyncpg.Connection:
    """The connection of a lock session: what runs on it, runs behind the session's back."""
    return session.statements._connection


def query_of(statements: LockStatements, name: str) -> str:
    """The prepared statement of a lock session by its name."""
    return statements._statements[name].get_query()


def trust_of(lease: Lease) -> Trust:
    """The trust that all leases of one lock session share."""
    return lease._trust


def releases_wait(session: LockSession) -> bool:
    """Whether releases wait for the next statement of the session."""
    return bool(session.requests.releases)


def audit_due(session: LockSession) -> bool:
    """Whether the session has still to compare its leases with `pg_locks`."""
    return session.audit_due


def lock_of(lease: ThreadLease) -> Lease:
    """The lock below a thread's lease."""
    assert isinstance(lease._lock, Lease)
    return lease._lock


def committer_of(saver: DurableSaver) -> GroupCommitter:
    """What commits the saver's writes, with the queue before it."""
    return saver.writer._committer


def history_origin(session: WriteSession) -> object:
    """Where the server was when the lease's last write was proven; None: the next write proves its
    history.
    """
    return session.history._origin


def set_clock(breaker: CircuitBreaker, clock: Callable[[], float]) -> None:
    """Let a circuit go by this clock, in seconds."""
    breaker._clock = clock


def stop_watching_the_deadline(session: LockSession) -> None:
    """Nothing but an answer finds out that the session's deadline is over."""
    session.clock._timers["deadline"].cancel()


def wake(session: LockSession) -> None:
    """Let the task of a lock session run now."""
    session.work.set()


def wrap_reading_of_prune(
    patch: pytest.MonkeyPatch,
    threads: Threads,
    wrapper: Wrapper,
) -> None:
    """Put `wrapper` around the statement by which pruning reads what it may remove, before it
    removes it.
    """
    retention = services_of(threads).threads.retention
    patch.setattr(retention, "_prunable", wrapper(retention._prunable))


def wrap_each_try(patch: pytest.MonkeyPatch, wrapper: Wrapper) -> None:
    """Put `wrapper` around the statement by which a waiter tries to get its lock."""
    patch.setattr(Acquirer, "_try", wrapper(Acquirer._try))


def reconnect_after(
    patch: pytest.MonkeyPatch, supervisor: SessionSupervisor, event: asyncio.Event
) -> None:
    """The supervisor opens its next session once `event` is set."""
    connect = supervisor._connect

    async def later() -> LockSession:
        await event.wait()
        return await connect()

    patch.setattr(supervisor, "_connect", later)


def replace_statement(
    patch: pytest.MonkeyPatch, module: ModuleType, name: str, statement: str
) -> None:
    """Let a module of the library send another statement than the block `name` of its SQL."""
    patch.setattr(module, "_SQL", {**module._SQL, name: statement})


def commit_by(
    patch: pytest.MonkeyPatch,
    committer: GroupCommitter,
    commit: Callable[[DirectConnection, Sequence[Write]], Awaitable[list[Write]]],
) -> None:
    """Let `commit` stand for the statement that commits a batch; it returns what is locked."""
    patch.setattr(committer, "_commit", commit)


def forget_classes() -> None:
    """Forget the classes that stored values were resolved to, as a new process has not resolved
    any.
    """
    stored_values._resolve.cache_clear()
    stored_values._signature.cache_clear()
