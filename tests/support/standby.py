"""A real server in recovery: what a failover or a wrong host name may leave a connection with, or
where reports are read.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg

from aiodurable.embedded import start_server, stop_server
from tests.support.waiting import wait_until_sync

DEADLINE_S = 30.0


@contextlib.contextmanager
def standby_server() -> Iterator[str]:
    """The DSN of one, for the body."""
    with primary_and_standby() as (_, standby):
        yield standby


@contextlib.contextmanager
def primary_and_standby() -> Iterator[tuple[str, str]]:
    """The DSNs of a server and of one that follows it."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        Path(folder).chmod(0o755)  # as root, Postgres runs as somebody else
        first, second = Path(folder) / "first", Path(folder) / "second"
        start_server(first)
        stop_server(first)
        subprocess.run(["cp", "-a", first, second], check=True)  # with its owner
        (second / "standby.signal").touch()
        primary = start_server(first)
        stack.callback(stop_server, first)
        yield (
            primary,
            start_server(
                second, settings={"primary_conninfo": f"host={first} port=5432 user=postgres"}
            ),
        )
        stop_server(second)


def caught_up(primary: str, standby: str) -> None:
    """Return when the standby shows what the primary has committed by now."""
    with (
        psycopg.connect(primary, autocommit=True) as ahead,
        psycopg.connect(standby, autocommit=True) as behind,
    ):
        row = ahead.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        assert row is not None
        caught_up = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until_sync(
            lambda: behind.execute(caught_up, row).fetchone() == (True,),
            DEADLINE_S,
            what="the standby to follow",
        )
