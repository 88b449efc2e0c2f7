"""What the server says about the leases and the waiters' flags of one database."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

LEASES = """
SELECT l.pid, l.classid::bigint << 32 | l.objid::bigint
FROM pg_locks l
JOIN pg_database d ON d.oid = l.database
WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' AND d.datname = %s
"""
COUNTS = """
SELECT count(*) FILTER (WHERE l.objsubid = 1 AND l.mode = 'ExclusiveLock'),
       count(*) FILTER (WHERE l.objsubid = 2 AND l.mode = 'ShareLock' AND NOT k.is_sign),
       count(*) FILTER (WHERE l.objsubid = 2 AND l.mode = 'ShareLock' AND k.is_sign)
FROM pg_locks l
JOIN pg_database d ON d.oid = l.database,
     LATERAL (SELECT l.classid = 1634299748 AND l.objid = 2002872692 AS is_sign) k
WHERE l.locktype = 'advisory' AND d.datname = %s
"""
"""Leases, waiters' flags and their signs, all of one moment."""
WAITING = """
SELECT count(*)
FROM pg_locks l
JOIN pg_stat_activity s USING (pid)
WHERE NOT l.granted AND s.datname = current_database()
"""
"""How many statements of this database wait for a lock."""


class ServerLocks:
    """Counts, by `pg_locks`, and ends the sessions behind them."""

    def __init__(self, dsn: str, admin: psycopg.Connection[Any]) -> None:
        self._admin = admin
        self._database = str(conninfo_to_dict(dsn)["dbname"])

    def _one(self, query: str, *args: Any) -> Any:
        row = self._admin.execute(query.encode(), (self._database, *args)).fetchone()
        assert row is not None
        return row[0]

    def __call__(self) -> int:
        """Leases, waiters' flags and their sign."""
        return sum(self._counts())

    def leases(self) -> int:
        """Exclusive session locks."""
        return self._counts()[0]

    def keys(self) -> set[tuple[int, int]]:
        """The same: backend and key."""
        return set(self._admin.execute(LEASES.encode(), (self._database,)).fetchall())

    def flags(self) -> int:
        """Waiters' flags alone."""
        return self._counts()[1]

    def signs(self) -> int:
        """Sessions with flags, each of which holds the sign that there are any."""
        return self._counts()[2]

    def _counts(self) -> tuple[int, int, int]:
        row = self._admin.execute(COUNTS.encode(), (self._database,)).fetchone()
        assert row is not None
        return row

    def sessions(self) -> int:
        """Lock sessions that are connected."""
        return self._one(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE"
            " 'aiodurable:lock@%%'"
        )

    def idle_s(self, pid: int) -> float:
        """Seconds since the backend's last statement; since it began, while it is under way."""
        row = self._admin.execute(
            "SELECT extract(epoch FROM clock_timestamp() - state_change)::float8"
            " FROM pg_stat_activity WHERE pid = %s",
            (pid,),
        ).fetchone()
        assert row is not None
        return row[0]

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
