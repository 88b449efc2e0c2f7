"""What the server says about the advisory locks of one database."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict


class ServerLocks:
    """Counts, by `pg_locks`; and ends the sessions behind them."""

    def __init__(self, dsn: str, admin: psycopg.Connection[Any]) -> None:
        self._admin = admin
        self._database = str(conninfo_to_dict(dsn)["dbname"])

    def _one(self, query: str, *args: Any) -> Any:
        row = self._admin.execute(query.encode(), (self._database, *args)).fetchone()
        assert row is not None
        return row[0]

    def __call__(self) -> int:
        """Advisory locks of every kind, waiters' flags included."""
        return self._one(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = %s"
        )

    def leases(self) -> int:
        """Exclusive session locks alone."""
        return self._one(
            "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = %s AND l.objsubid = 1 AND l.mode = 'ExclusiveLock'"
        )

    def keys(self) -> set[tuple[int, int]]:
        """Exclusive session locks: backend and key."""
        rows = self._admin.execute(
            "SELECT l.pid, l.classid::bigint << 32 | l.objid::bigint FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = %s AND l.objsubid = 1 AND l.mode = 'ExclusiveLock'",
            (self._database,),
        )
        return {(pid, key) for pid, key in rows}

    def flags(self) -> int:
        """Waiters' flags alone."""
        return self() - self.leases()

    def sessions(self) -> int:
        """Lock sessions that are connected."""
        return self._one(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'aiodurable:lock@%%'"
        )

    def end_sessions(self) -> int:
        """What an administrator, a failover or a proxy does."""
        return self._one(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = %s AND application_name LIKE 'aiodurable:lock@%%'"
        )

    def end_session_of(self, pid: int) -> bool:
        row = self._admin.execute("SELECT pg_terminate_backend(%s)", (pid,)).fetchone()
        assert row is not None
        return row[0]
