"""A primary and a standby that streams from it, of which the first dies and the second takes
over.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psycopg

from aiodurable.embedded import find_bindir
from aiodurable.embedded.binaries import Programs
from tests.support.ports import free_port
from tests.support.restartable import make_cluster
from tests.support.waiting import wait_until_sync

DEADLINE_S = 60.0
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",  # servers die here, the host does not
    "wal_level": "replica",
    "max_wal_senders": "4",
    "hot_standby": "on",
    "max_connections": "60",
}
ACCESS = """
local all all trust
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
"""
"""Over TCP, as servers on two hosts are reached. A cluster of ours would want a password there."""


def missing() -> str:
    """Why there can be no pair here; empty: there can."""
    bindir = find_bindir()
    return "" if (bindir / "pg_basebackup").exists() else f"there is no pg_basebackup in {bindir}"


@dataclass
class Server:
    """One of the two, on a TCP port of its own."""

    programs: Programs
    data: Path
    port: int
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def dsn(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        settings = {
            **SETTINGS,
            **self.settings,
            "port": str(self.port),
            "unix_socket_directories": str(self.data),
        }
        options = shlex.join(
            word for name, value in settings.items() for word in ("-c", f"{name}={value}")
        )
        done = self.programs.run(
            "pg_ctl", "start", "-D", self.data, "-l", self.data / "server.log", "-w", "-o", options
        )
        assert done.returncode == 0, (done.stdout, (self.data / "server.log").read_text())

    def stop(self) -> None:
        self.programs.run("pg_ctl", "stop", "-D", self.data, "-m", "immediate", "-w")

    def die(self) -> None:
        """As if its host had failed: no session gets a message, and nothing is written any more.
        Returns when the last backend has ended, until which it may still acknowledge a commit.
        """
        running = self.data / "postmaster.pid"
        os.kill(int(running.read_text().split()[0]), signal.SIGQUIT)
        wait_until_sync(lambda: not running.exists(), DEADLINE_S, what="the primary to end")

    def ask(self, query: str) -> tuple[object, ...] | None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchone() if cursor.description else None

    def wait_for(self, query: str) -> None:
        """Return when the query finds a row."""
        wait_until_sync(lambda: self.ask(query) is not None, DEADLINE_S, what=query)


@dataclass
class Pair:
    """Both, and a DSN that leads to whichever may be written to."""

    primary: Server
    standby: Server

    @property
    def dsn(self) -> str:
        ports = f"{self.primary.port},{self.standby.port}"
        where = {
            "host": "127.0.0.1,127.0.0.1",
            "port": ports,
            "user": "postgres",
            "dbname": "postgres",
        }
        return "postgresql://?" + urlencode({**where, "target_session_attrs": "read-write"})

    def cut(self) -> None:
        """The standby receives nothing more. With synchronous replication nothing commits any
        more.
        """
        self.standby.ask("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.ask("SELECT pg_reload_conf()")
        self.standby.wait_for("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM pg_stat_wal_receiver)")

    def promote(self) -> None:
        self.standby.ask("SELECT pg_promote(true, 60)")
        self.standby.wait_for("SELECT 1 WHERE NOT pg_is_in_recovery()")


@contextlib.contextmanager
def seed() -> Iterator[Path]:
    """A folder for pairs, with a cluster in `seed` that they are copied from; not running."""
    folder = Path(tempfile.mkdtemp(prefix="aiodurable-pair-"))
    folder.chmod(0o755)  # as root, Postgres runs as somebody else
    try:
        make_cluster(folder / "seed")
        (folder / "seed" / "pg_hba.conf").write_text(ACCESS)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def pair(folder: Path, *, synchronous: bool) -> Iterator[Pair]:
    """Both servers, the standby streaming."""
    programs = Programs(None)
    place = Path(tempfile.mkdtemp(dir=folder))
    programs.own(place)
    settings = {"synchronous_standby_names": "*"} if synchronous else {}
    primary = Server(programs, place / "primary", free_port(), settings)
    standby = Server(programs, place / "standby", free_port())
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, place, ignore_errors=True)
        shutil.copytree(folder / "seed", primary.data)
        if programs.user is not None:
            for path in (primary.data, *primary.data.rglob("*")):
                os.chown(path, programs.user.pw_uid, programs.user.pw_gid)
        primary.data.chmod(0o700)
        stack.callback(primary.stop)
        primary.start()
        where = ("-h", "127.0.0.1", "-p", str(primary.port), "-U", "postgres", "--no-password")
        done = programs.run(
            "pg_basebackup", *where, "-D", standby.data, "-R", "-X", "stream", "-c", "fast"
        )
        assert done.returncode == 0, done.stdout
        stack.callback(standby.stop)
        standby.start()
        state = "sync" if synchronous else "async"
        primary.wait_for(
            "SELECT 1 FROM pg_stat_replication WHERE state = 'streaming' AND sync_state ="
            f" '{state}'"
        )
        yield Pair(primary, standby)
