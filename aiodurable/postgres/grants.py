"""The rights that each kind of role needs, for `aiodurable db grants` and `aiodurable doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from aiodurable.errors import ConfigurationError
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load

__all__ = ["Kind", "Right", "needed", "statements"]

_SQL = load("doctor")


class Kind(StrEnum):
    """What a role does."""

    RUN = "run"
    READ = "read"
    PRUNE = "prune"
    MIGRATE = "migrate"


Right = tuple[str, str]
"""A table or sequence, and a privilege on it."""

_READ: Final[Mapping[str, str]] = {
    "checkpoints": "SELECT",
    "checkpoint_blobs": "SELECT",
    "checkpoint_writes": "SELECT",
    "checkpoint_migrations": "SELECT",
    "aiodurable_migrations": "SELECT",
    "aiodurable_namespace": "SELECT",
    "aiodurable_runs": "SELECT",
    "aiodurable_fences": "SELECT",
    "aiodurable_effects": "SELECT",
    "aiodurable_signals": "SELECT",
    "aiodurable_queues": "SELECT",
    "aiodurable_schedules": "SELECT",
    "aiodurable_workers": "SELECT",
    "aiodurable_status_history": "SELECT",
    "aiodurable_audit": "SELECT",
    "aiodurable_leases": "SELECT",
}
_RUN: Final[Mapping[str, str]] = {
    **_READ,
    "checkpoints": "SELECT, INSERT, UPDATE",
    "checkpoint_blobs": "SELECT, INSERT",
    "checkpoint_writes": "SELECT, INSERT, UPDATE, DELETE",
    "aiodurable_namespace": "SELECT, INSERT",
    "aiodurable_runs": "SELECT, INSERT, UPDATE",
    "aiodurable_fences": "SELECT, INSERT, UPDATE",
    "aiodurable_effects": "SELECT, INSERT, UPDATE",
    "aiodurable_queues": "SELECT, INSERT, UPDATE",
    "aiodurable_schedules": "SELECT, INSERT, UPDATE, DELETE",
    "aiodurable_signals": "SELECT, INSERT, UPDATE, DELETE",
    "aiodurable_workers": "SELECT, INSERT, UPDATE, DELETE",
    "aiodurable_status_history": "SELECT, INSERT, UPDATE, DELETE",
    "aiodurable_audit": "SELECT, INSERT, DELETE",
    "aiodurable_lock_tokens": "USAGE",
    "aiodurable_run_positions": "USAGE",
}
_PRUNE: Final[Mapping[str, str]] = {
    **_RUN,
    "checkpoints": "SELECT, INSERT, UPDATE, DELETE",
    "checkpoint_blobs": "SELECT, INSERT, DELETE",
    "aiodurable_runs": "SELECT, INSERT, UPDATE, DELETE",
    "aiodurable_fences": "SELECT, INSERT, UPDATE, DELETE",
    "aiodurable_effects": "SELECT, INSERT, UPDATE, DELETE",
}
"""What removes threads is a process that runs them: it needs what that needs, and DELETE."""

_TABLES: Final[Mapping[Kind, Mapping[str, str]]] = {
    Kind.READ: _READ,
    Kind.RUN: _RUN,
    Kind.PRUNE: _PRUNE,
    Kind.MIGRATE: {},
}


def needed(kind: Kind) -> list[Right]:
    """Privileges on tables and sequences. A role that migrates owns these, and needs only CREATE on
    their schema.
    """
    return [
        (table, right) for table, rights in _TABLES[kind].items() for right in rights.split(", ")
    ]


async def statements(database: PsycopgPool, role: str, kind: Kind) -> list[str]:
    """The GRANTs, without semicolons, names quoted by the server.

    Raises:
        ConfigurationError: the search path names no schema that exists.
    """
    tables = _TABLES[kind]
    on_schema = "USAGE, CREATE" if kind is Kind.MIGRATE else "USAGE"
    rows = await database.fetch(
        _SQL["grants"], role, on_schema, list(tables), list(tables.values())
    )
    if not rows:
        raise ConfigurationError(
            f"cannot print the GRANTs for {database.dsn.safe}: the search path names no schema that"
            " exists; create one, or ALTER ROLE … SET search_path"
        )
    return [row["statement"] for row in rows]
