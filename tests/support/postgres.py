"""The Postgres of the tests: a server, and fresh databases on it."""

import contextlib
import itertools
import os
import shutil
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.support.waiting import wait_until_sync

SERVER_SETTINGS = {"max_connections": "300", "max_prepared_transactions": "0"}
SHARED_MEMORY = Path("/dev/shm")
IMAGE = "postgres"


@dataclass
class Server:
    """A server for tests: `url` is a superuser's, `kind` says where it came from (`dsn`, `docker`,
    `embedded`).
    """

    url: str
    kind: str
    _names: Iterator[str] = field(
        default_factory=lambda: (f"t_{worker_name()}_{n}" for n in itertools.count())
    )

    @cached_property
    def version(self) -> int:
        with psycopg.connect(self.url) as connection:
            return connection.info.server_version

    def database(self, name: str) -> str:
        """The DSN of one of its databases: a URI, which both drivers read."""
        options = {**conninfo_to_dict(self.url), "dbname": name}
        return "postgresql://?" + urlencode(options, quote_via=quote)

    def execute(self, statement: sql.Composed) -> None:
        """On one connection: a new one for each database that is made and dropped costs as much as
        half of that. A test may have ended it.
        """
        try:
            self._admin.execute(statement)
        except psycopg.OperationalError:
            if not self._admin.closed:
                raise
            del self._admin
            self._admin.execute(statement)

    @cached_property
    def _admin(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    def close(self) -> None:
        self._admin.close()

    def create(self, template: str = "template0", *, name: str = "") -> str:
        name = name or next(self._names)
        # Copying files beats the log where nothing is synced; before Postgres 15 there was no other
        # way.
        choice = self.kind == "embedded" and self.version >= 150000
        copy = sql.SQL(" STRATEGY file_copy" if choice else "")
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
            sql.Identifier(name), sql.Identifier(template)
        )
        self.execute(create + copy)
        return name

    @contextlib.contextmanager
    def clone(self, template: str = "template0", fill: str = "") -> Generator[str, None, None]:
        """The name of a new database in which the statements of `fill` were run, for the body."""
        name = self.create(template)
        try:
            if fill:
                with psycopg.connect(self.database(name), autocommit=True) as connection:
                    connection.execute(fill.encode())
            yield name
        finally:
            self.drop(name)

    def drop(self, name: str) -> None:
        # FORCE: a connection that a test leaks is that test's failure, not the next one's.
        self.execute(
            sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        )


def worker_name() -> str:
    return f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"


def _major() -> int | None:
    wanted = os.environ.get("AIODURABLE_TEST_PG", "")
    return int(wanted) if wanted.isdecimal() else None


def choose_programs() -> None:
    """Let every server that a test starts run the programs that `AIODURABLE_TEST_PG` names."""
    from aiodurable.embedded import find_bindir

    if wanted := os.environ.get("AIODURABLE_TEST_PG"):
        bindir = Path(wanted) if "/" in wanted else find_bindir(_major())
        os.environ["AIODURABLE_PG_BINDIR"] = str(bindir)


@contextlib.contextmanager
def small_server(max_connections: int = 20, **settings: str) -> Generator[str, None, None]:
    """A server whose lock table has few slots."""
    from aiodurable.embedded import EmbeddedPostgres

    slots = {
        "max_connections": str(max_connections),
        "max_locks_per_transaction": "10",
        "max_prepared_transactions": "0",
    }
    with EmbeddedPostgres(durable=False, settings={**slots, **settings}) as url:
        yield url


def left_alone(dsn: str) -> str:
    """`dsn`, once its server lists no other client: it does so for a moment after one is gone."""
    others = "SELECT FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> %s"
    with psycopg.connect(dsn, autocommit=True) as connection:
        own = (connection.info.backend_pid,)
        wait_until_sync(lambda: not connection.execute(others, own).fetchall(), what="no client")
    return dsn


@contextlib.contextmanager
def embedded() -> Generator[str, None, None]:
    from aiodurable.embedded import EmbeddedPostgres

    roomy = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    roomy = roomy and shutil.disk_usage(SHARED_MEMORY).free >= 1 << 30
    folder = SHARED_MEMORY if roomy else None
    with EmbeddedPostgres(folder=folder, durable=False, settings=SERVER_SETTINGS) as url:
        yield url


def docker_answers() -> bool:
    choice = os.environ.get("AIODURABLE_TEST_DB")
    if choice == "embedded":
        return False
    try:
        import docker

        client = docker.from_env(timeout=2)
        try:
            client.ping()
        finally:
            client.close()
    except Exception:
        # not installed, not running, not allowed: all mean that Docker does not answer
        if choice == "docker":
            raise
        return False
    return True


@contextlib.contextmanager
def container() -> Generator[str, None, None]:
    # The reaper is one more container, which needs the engine's socket inside it; ours is stopped
    # here.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.postgres import PostgresContainer

    settings = [
        word for name, value in SERVER_SETTINGS.items() for word in ("-c", f"{name}={value}")
    ]
    started = PostgresContainer(f"{IMAGE}:{_major() or 18}", driver=None)
    started.with_command(["postgres", "-c", "fsync=off", *settings])
    with started:
        yield started.get_connection_url()
