"""Real Postgres for every test that asks: a DSN from the environment, else Docker, else embedded.

`AIODURABLE_TEST_DSN`   a superuser's DSN of a server to use
`AIODURABLE_TEST_PG`    which Postgres otherwise: a major version (`15`, `18`) or, embedded, a folder of programs
`AIODURABLE_TEST_DB`    `docker` or `embedded`: only that
`AIODURABLE_UVLOOP=1`   run the tests, and the processes that they start, on uvloop
`AIODURABLE_EAGER=1`    with `asyncio.eager_task_factory` (Python 3.12 and newer)

Each xdist worker has a server of its own (a shared one with `AIODURABLE_TEST_DSN`), each test a database of its own,
cloned from a template that has the schema.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

import loops
import order
import timetable
from aiodurable.dsn import parse_dsn

SERVER_SETTINGS = {"max_connections": "300", "max_prepared_transactions": "0"}
SHARED_MEMORY = Path("/dev/shm")
IMAGE = "postgres"
SHORT_FORM_S = 300


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {loops.KIND: loops.new_event_loop}


def pytest_report_header(config: pytest.Config) -> str:
    way = "DSN" if os.environ.get("AIODURABLE_TEST_DSN") else "Docker" if _docker_answers() else "embedded"
    version = os.environ.get("AIODURABLE_TEST_PG", "newest")
    loop = f"{loops.KIND}{', eager' if loops.EAGER else ''}"
    by = order.seed(config)
    again = "files" if by is None else f"random, again with --order {by}"
    return f"test database: {way} (Postgres {version}); event loop: {loop}; order: {again}"


@pytest.hookimpl(tryfirst=True)  # then pytest puts together what shares an expensive fixture
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (by := order.seed(config)) is not None:
        order.shuffle(items, by)
    if not config.getoption("--long"):
        _bound(items)


def pytest_configure(config: pytest.Config) -> None:
    """A shell lets what it runs in the background ignore these, and so would every process that a test starts and ends."""
    order.seed(config)  # before xdist's processes are started
    for which in (signal.SIGINT, getattr(signal, "SIGQUIT", signal.SIGINT)):
        if signal.getsignal(which) is signal.SIG_IGN:
            signal.signal(which, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--order", default="files", help="`random`, or the seed of a random order; else that of the files")
    parser.addoption("--long", action="store_true", help="search for races for minutes where CI does for seconds")


def _bound(items: list[pytest.Item]) -> None:
    """A test's own limit of more than five minutes is that of its long form."""
    for item in items:
        limit = item.get_closest_marker("timeout")
        if limit is not None and limit.args[0] > SHORT_FORM_S:
            item.add_marker(pytest.mark.timeout(SHORT_FORM_S), append=False)


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether there is time."""
    return bool(request.config.getoption("--long"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    timetable.printed(terminalreporter)


@dataclass
class Server:
    """A server for tests: `url` is a superuser's, `kind` says where it came from (`dsn`, `docker`, `embedded`)."""

    url: str
    kind: str
    _names: Iterator[str] = field(default_factory=lambda: (f"t_{_worker()}_{n}" for n in itertools.count()))

    @cached_property
    def version(self) -> int:
        with psycopg.connect(self.url) as connection:
            return connection.info.server_version

    def database(self, name: str) -> str:
        """The DSN of one of its databases: a URI, which both drivers read."""
        options = {**conninfo_to_dict(self.url), "dbname": name}
        return "postgresql://?" + urlencode(options, quote_via=quote)

    def execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement)

    def create(self, template: str = "template0", *, name: str = "") -> str:
        name = name or next(self._names)
        # Copying files beats the log where nothing is synced; before Postgres 15 there was no other way.
        choice = self.kind == "embedded" and self.version >= 150000
        copy = sql.SQL(" STRATEGY file_copy" if choice else "")
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        self.execute(create + copy)
        return name

    def drop(self, name: str) -> None:
        # FORCE: a connection that a test leaks is that test's failure, not the next one's.
        self.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of this test process; started when the first test needs it."""
    with contextlib.ExitStack() as stack:
        if dsn := os.environ.get("AIODURABLE_TEST_DSN"):
            yield Server(parse_dsn(dsn).conninfo, "dsn")
        elif _docker_answers():
            yield Server(stack.enter_context(_container()), "docker")
        else:
            yield Server(stack.enter_context(_embedded()), "embedded")


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a database with LangGraph's tables and ours, to be cloned."""
    from aiodurable.postgres.schema import migrate

    name = server.create(name=f"template_{_worker()}")
    with ThreadPoolExecutor(1) as thread:  # a loop of its own: the tests' loops stay untouched
        thread.submit(asyncio.run, migrate(parse_dsn(server.database(name)))).result()
    yield name
    server.drop(name)


@pytest.fixture
def dsn(server: Server, template: str) -> Iterator[str]:
    """A fresh database with LangGraph's tables and ours."""
    name = server.create(template)
    yield server.database(name)
    server.drop(name)


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    """A fresh database without tables."""
    name = server.create()
    yield server.database(name)
    server.drop(name)


@pytest.fixture
def admin(server: Server) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection beside the tested ones: to look at `pg_locks`, or to end their backends."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection


def _worker() -> str:
    return f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"


def _major() -> int | None:
    wanted = os.environ.get("AIODURABLE_TEST_PG", "")
    return int(wanted) if wanted.isdecimal() else None


@contextlib.contextmanager
def _embedded() -> Generator[str, None, None]:
    from aiodurable.embedded import EmbeddedPostgres, find_bindir

    wanted = os.environ.get("AIODURABLE_TEST_PG", "")
    bindir = Path(wanted) if "/" in wanted else find_bindir(_major())
    roomy = SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK)
    roomy = roomy and shutil.disk_usage(SHARED_MEMORY).free >= 1 << 30
    folder = SHARED_MEMORY if roomy else None
    with EmbeddedPostgres(bindir=bindir, folder=folder, durable=False, settings=SERVER_SETTINGS) as url:
        yield url


def _docker_answers() -> bool:
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
    except Exception:  # not installed, not running, not allowed: all mean that Docker does not answer
        if choice == "docker":
            raise
        return False
    return True


@contextlib.contextmanager
def _container() -> Generator[str, None, None]:
    # The reaper is one more container, which needs the engine's socket inside it; ours is stopped here.
    os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
    from testcontainers.community.postgres import PostgresContainer

    settings = [word for name, value in SERVER_SETTINGS.items() for word in ("-c", f"{name}={value}")]
    container = PostgresContainer(f"{IMAGE}:{_major() or 18}", driver=None)
    container.with_command(["postgres", "-c", "fsync=off", *settings])
    with container:
        yield container.get_connection_url()
