"""Open single connections: what they are called at the server, and the asyncpg connections outside
any pool.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import socket
from collections.abc import Mapping
from typing import Any, Final

import asyncpg

from aiodurable.dsn import Dsn
from aiodurable.postgres.array_types import register_arrays
from aiodurable.postgres.errors import translate
from aiodurable.postgres.name_resolution import ResolvingLoop
from aiodurable.postgres.password import call_password

__all__ = ["application_name", "connect_direct", "process_name"]

_MOST: Final = 63 - len("aiodurable:completion@")
"""Characters of a process's name: with the longest role it fits into Postgres's 63 bytes."""


def process_name() -> str:
    """`host:pid`, as the tables and `pg_stat_activity` alike have it: a process is taken for dead
    where they differ. A host's name that is too long, or that Postgres would change, is cut, and
    kept apart by a digest: names of pods differ at their end.
    """
    host, tail = socket.gethostname(), f":{os.getpid()}"
    shown = re.sub(r"[^A-Za-z0-9._-]", "-", host)
    if shown != host or len(shown) > _MOST - len(tail):
        digest = "-" + hashlib.sha256(host.encode(errors="surrogateescape")).hexdigest()[:8]
        shown = shown[: _MOST - len(tail) - len(digest)] + digest
    return shown + tail


def application_name(role: str) -> str:
    """What `pg_stat_activity` shows of a connection: role, host and process."""
    return f"aiodurable:{role}@{process_name()}"


async def connect_direct(
    dsn: Dsn,
    *,
    role: str,
    server_settings: Mapping[str, str] | None = None,
    timeout_s: float = 10.0,
) -> asyncpg.Connection:
    """Open one asyncpg connection that belongs to the caller alone.

    Not from `asyncpg.Pool`, which runs `pg_advisory_unlock_all()` when a connection is returned.

    Args:
        dsn: the database.
        role: the purpose, for `application_name`.
        server_settings: parameters set at connection start.
        timeout_s: seconds until it gives up; as many for the password function before.

    Raises:
        PostgresUnavailableError: Postgres could not be reached or refused; the driver's error is
            the cause.
    """
    settings = {
        "application_name": application_name(role),
        "standard_conforming_strings": "on",
        **(server_settings or {}),
    }
    with translate(dsn):  # no variable holds the password: a crash reporter would show it
        connection: asyncpg.Connection = await asyncpg.connect(
            **_for_asyncpg(dsn, settings, timeout_s), **await _password(dsn, timeout_s)
        )
    # asyncpg looks for its own tasks in its loop: it needs the real one, not the one that resolves
    # names.
    connection._loop = asyncio.get_running_loop()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    register_arrays(connection)
    return connection


def _for_asyncpg(dsn: Dsn, settings: Mapping[str, str], timeout_s: float) -> dict[str, Any]:
    options = dsn.asyncpg
    if dsn.password is not None:
        options.pop("password", None)
    options["server_settings"] = {**options.get("server_settings", {}), **settings}
    # no limit: above 15 kB asyncpg would parse and plan each time
    options["max_cacheable_statement_size"] = 0
    return {**options, "timeout": timeout_s, "loop": ResolvingLoop(asyncio.get_running_loop())}


async def _password(dsn: Dsn, timeout_s: float) -> dict[str, Any]:
    if dsn.password is None:
        return {}
    # as a function, for asyncpg's frames show its arguments
    return {"password": (await call_password(dsn.password, timeout_s=timeout_s)).__str__}
