"""`aiodurable locks list`: show who holds which lock and who waits for it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import age, one_line, quoted
from aiodurable.cli.table import Column, print_table, wide_option
from aiodurable.cli.thread_argument import ThreadId
from aiodurable.jsonable import json_text
from aiodurable.lock_keys import lock_key, own_lock_key
from aiodurable.settings import Settings
from aiodurable.thread_id import validate_thread_id

if TYPE_CHECKING:
    from aiodurable.cli.lock_report import ReportedLock
    from aiodurable.models import LockHolder

__all__ = ["locks"]


@click.group
def locks() -> None:
    """The locks that keep every thread to one writer, and your own ones."""


@locks.command("list", short_help="Show who holds which lock, and who waits.")
@click.argument("names", metavar="[THREAD]...", nargs=-1, type=ThreadId())
@dsn_option
@click.option(
    "--namespace", help="The namespace of the locks. Default: AIODURABLE_NAMESPACE or aiodurable."
)
@wide_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def list_locks(
    ctx: click.Context,
    names: tuple[str, ...],
    dsn: str | None,
    namespace: str | None,
    wide: bool,
    as_json: bool,
) -> None:
    """Show who holds the leases of this database, and which processes wait for one.

    Names of threads, or of your own locks, select these. Exit code 1: nobody holds any of them.
    The command needs no tables, takes no lock, and works through a pooler.

    Postgres does not record when a lock was taken. For a thread, `for` is the age of its run; for
    another lock it is the age of its connection, an upper bound.
    """
    namespace = Settings.from_env().namespace if namespace is None else namespace
    keys = {
        key_of(validate_thread_id(name), namespace): name
        for name in names
        for key_of in (lock_key, own_lock_key)
    }
    found = asyncio.run(_read(dsn, list(keys) if names else None))
    if as_json:
        for lock in found:
            click.echo(_json(lock, keys.get(lock.key)))
    elif found:
        _show(found, keys, wide=wide)
    else:
        click.echo("nobody holds any of these locks" if names else "nobody holds a lock")
    if names and not any(lock.holder for lock in found):
        ctx.exit(Exit.FAILED)


async def _read(dsn: str | None, keys: list[int] | None) -> list[ReportedLock]:
    from aiodurable.cli.lock_report import reported_locks  # noqa: PLC0415 - loads psycopg
    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - as above
    from aiodurable.postgres.pool import PsycopgPool  # noqa: PLC0415 - as above

    settings = Settings.from_env()
    database = PsycopgPool(
        parse_dsn(dsn, schema=settings.schema),
        min_size=0,
        max_size=1,
        connect_timeout_s=settings.connect_timeout_s,
    )
    await database.open()
    try:
        return await reported_locks(database, keys)
    finally:
        await database.aclose()


def _json(lock: ReportedLock, name: str | None) -> str:
    fields: dict[str, Any] = {
        "key": lock.key,
        "thread_id": lock.thread_id,
        "name": name or lock.thread_id,
        "graph": lock.graph,
        "run_since": lock.run_since and lock.run_since.isoformat(),
        "holder": lock.holder and _who(lock.holder),
        "waiting": [_who(waiter) for waiter in lock.waiting],
    }
    return json_text(fields)


def _who(holder: LockHolder) -> dict[str, Any]:
    from aiodurable.cli.lock_report import process_of  # noqa: PLC0415 - loads psycopg

    return {
        "process": process_of(holder),
        "role": holder.role,
        "authorized": holder.authorized,
        "application": holder.application,
        "client": holder.client,
        "backend_pid": holder.pid,
        "connected_since": holder.since and holder.since.isoformat(),
    }


def _show(found: list[ReportedLock], names: dict[int, str], *, wide: bool) -> None:
    columns = [
        Column("thread or key", folds=True),
        Column("held by", folds=True),
        Column("backend", right=True),
        Column("for", right=True),
        Column("waiting", folds=True),
    ]
    columns += [Column("graph"), Column("key")] if wide else []
    print_table(columns, [_cells(lock, names, wide=wide) for lock in found], wide=wide)


def _cells(lock: ReportedLock, names: dict[int, str], *, wide: bool) -> tuple[str, ...]:
    from aiodurable.cli.lock_report import process_of  # noqa: PLC0415 - loads psycopg

    held_by = "" if lock.holder is None else process_of(lock.holder)
    if lock.holder is not None and lock.holder.client:
        held_by += f" ({lock.holder.client})"
    cells = (
        quoted(names.get(lock.key) or lock.thread_id or str(lock.key)),
        one_line(held_by),
        "" if lock.holder is None else str(lock.holder.pid),
        _held_for(lock),
        one_line(", ".join(map(process_of, lock.waiting))),
    )
    return (*cells, quoted(lock.graph or ""), str(lock.key)) if wide else cells


def _held_for(lock: ReportedLock) -> str:
    now = datetime.now(UTC)
    if lock.run_since is not None:
        return age(now - lock.run_since)
    since = None if lock.holder is None else lock.holder.since
    return "" if since is None else f"≤ {age(now - since)}"
