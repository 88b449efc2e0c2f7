"""Reads which process holds which lock and which processes wait, from the server. The ledger gives
the threads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from aiodurable.errors import ConfigurationError
from aiodurable.models import LockHolder
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["ReportedLock", "process_of", "reported_locks"]


@dataclass(frozen=True, slots=True)
class ReportedLock:
    """One lock that a process holds or waits for.

    Attributes:
        key: the advisory lock's 64 bits.
        thread_id: the thread whose run holds it; None for an application's own lock, and between
            runs.
        graph: the name of that run's graph.
        run_since: when that run's attempt started.
        holder: the holder's lock session; None: it was just released, and a waiter will take it.
        waiting: the lock sessions of the processes that wait for it.
    """

    key: int
    thread_id: str | None
    graph: str | None
    run_since: datetime | None
    holder: LockHolder | None
    waiting: tuple[LockHolder, ...]


async def reported_locks(
    database: PsycopgPool, keys: Sequence[int] | None = None
) -> list[ReportedLock]:
    """The leases of this database, or those of `keys`, sorted by thread and key.

    Raises:
        ConfigurationError: the server is a standby.
    """
    sql = load("holders")
    wanted = None if keys is None else list(keys)
    [tables] = await database.fetch(sql["tables"])
    if tables["standby"]:
        raise ConfigurationError(
            f"cannot read the locks at {database.dsn.safe}: it is a standby, which does not show"
            " the primary's locks; name the primary, or add target_session_attrs=read-write"
        )
    found: dict[int, dict[bool, list[LockHolder]]] = {}
    for row in await database.fetch(sql["leases"], wanted):
        sides = found.setdefault(row["key"], {True: [], False: []})
        sides[row.pop("waits")].append(LockHolder(**row))
    threads: dict[int, dict[str, Any]] = {}
    if found and tables["ledger"]:
        threads = {row["key"]: row for row in await database.fetch(sql["threads"], list(found))}
    no_run = {"thread_id": None, "graph": None, "started_at": None}
    locks = [
        ReportedLock(
            key,
            thread_id=threads.get(key, no_run)["thread_id"],
            graph=threads.get(key, no_run)["graph"],
            run_since=threads.get(key, no_run)["started_at"],
            holder=next(iter(sides[False]), None),
            waiting=tuple(sides[True]),
        )
        for key, sides in found.items()
    ]
    return sorted(locks, key=lambda lock: (lock.thread_id is None, lock.thread_id or "", lock.key))


def process_of(holder: LockHolder) -> str:
    """The process of a lock session: its `host:pid`, or its `application_name`.

    A role without the right to take leases could give itself any name, so this returns its role.
    """
    if not holder.authorized:
        return f"role {holder.role}"
    return holder.process or holder.application or f"backend {holder.pid}"
