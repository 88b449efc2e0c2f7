"""Real Postgres for every test that asks: a DSN from the environment, else Docker, else embedded.

- `AIODURABLE_TEST_DSN`: a superuser's DSN of a server to use.
- `AIODURABLE_TEST_PG`: which Postgres otherwise: a major version (`15`, `18`) or, embedded, a
  folder of programs.
- `AIODURABLE_TEST_DB`: `docker` or `embedded`: only that.
- `AIODURABLE_UVLOOP=1`: run the tests, and the processes that they start, on uvloop.
- `AIODURABLE_EAGER=1`: with `asyncio.eager_task_factory` (Python 3.12 and newer).

Each xdist worker has a server of its own (a shared one with `AIODURABLE_TEST_DSN`), each test a
database of its own, cloned from a template that has the schema.
"""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncpg
import hypothesis
import psycopg
import pytest

from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from aiodurable.settings import Settings
from tests.support import fault_times, hangs, loops, random_order
from tests.support.example_programs import Start
from tests.support.fault_times import PROPERTY, Timetable
from tests.support.forked import Process, python
from tests.support.ledger_view import Ledger
from tests.support.lock_view import ServerLocks
from tests.support.postgres import (
    Server,
    choose_programs,
    container,
    docker_answers,
    embedded,
    worker_name,
)
from tests.support.processes import Processes, started
from tests.support.restartable import OwnServer, own_server
from tests.support.scenario_graphs import BREAKS

SHORT_FORM_S = 300

hypothesis.settings.register_profile(
    "loaded",  # a loaded machine is slow, not wrong: an example may take its time
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("loaded")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {loops.KIND: loops.new_event_loop}


def pytest_report_header(config: pytest.Config) -> str:
    way = (
        "DSN"
        if os.environ.get("AIODURABLE_TEST_DSN")
        else "Docker"
        if docker_answers()
        else "embedded"
    )
    version = os.environ.get("AIODURABLE_TEST_PG", "newest")
    loop = f"{loops.KIND}{', eager' if loops.EAGER else ''}"
    by = random_order.seed(config)
    again = "files" if by is None else f"random, again with --order {by}"
    return f"test database: {way} (Postgres {version}); event loop: {loop}; order: {again}"


@pytest.hookimpl(tryfirst=True)  # then pytest puts together what shares an expensive fixture
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if " at 0x" in item.name:  # parallel processes would not agree on the tests there are
            raise pytest.UsageError(f"the name of a test has an address in it: {item.nodeid}")
    if (by := random_order.seed(config)) is not None:
        random_order.shuffle(items, by)
    if not config.getoption("--long"):
        _bound(items)


def pytest_configure(config: pytest.Config) -> None:
    """A shell lets what it runs in the background ignore these, and so would every process that a
    test starts and ends.
    """
    random_order.seed(config)  # before xdist's processes are started
    if not docker_answers():
        choose_programs()
    for which in (signal.SIGINT, getattr(signal, "SIGQUIT", signal.SIGINT)):
        if signal.getsignal(which) is signal.SIG_IGN:
            signal.signal(which, signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--order",
        default="files",
        help="`random`, or the seed of a random order; else that of the files",
    )
    parser.addoption(
        "--long", action="store_true", help="search for races for minutes where CI does for seconds"
    )


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


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None]:
    hangs.watch_again(item)
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.excinfo is not None and "Timeout" in call.excinfo.exconly():
        report.sections.append(("pending tasks", hangs.pending_tasks()))
    return report


def pytest_sessionstart(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and os.environ.get("CI"):
        session.config.pluginmanager.register(hangs.FailuresAtOnce(reporter))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    fault_times.printed(terminalreporter)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The server of this test process; started when the first test needs it."""
    with contextlib.ExitStack() as stack:
        if dsn := os.environ.get("AIODURABLE_TEST_DSN"):
            server = Server(parse_dsn(dsn).conninfo, "dsn")
        elif docker_answers():
            server = Server(stack.enter_context(container()), "docker")
        else:
            server = Server(stack.enter_context(embedded()), "embedded")
        with contextlib.closing(server):
            yield server


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a database with LangGraph's tables and ours, to be cloned."""
    from aiodurable.postgres.schema import migrate

    name = server.create(name=f"template_{worker_name()}")
    with ThreadPoolExecutor(1) as thread:  # a loop of its own: the tests' loops stay untouched
        thread.submit(asyncio.run, migrate(parse_dsn(server.database(name)))).result()
    yield name
    server.drop(name)


@pytest.fixture
def dsn(server: Server, template: str) -> Iterator[str]:
    """A fresh database with LangGraph's tables and ours, and what a module's `template` adds."""
    with server.clone(template) as name:
        yield server.database(name)


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    """A fresh database without tables."""
    with server.clone() as name:
        yield server.database(name)


@pytest.fixture
def admin(server: Server) -> Iterator[psycopg.Connection[Any]]:
    """A superuser's connection beside the tested ones: to look at `pg_locks`, or to end their
    backends.
    """
    with psycopg.connect(server.url, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    """A Postgres of this test alone; not started yet."""
    async with own_server() as server:
        yield server


@pytest.fixture
async def processes() -> AsyncIterator[Processes]:
    """Real processes that run a thread, and may be killed at one of their statements."""
    async with started() as parent:
        yield parent


@pytest.fixture
def server_locks(dsn: str, admin: psycopg.Connection[Any]) -> ServerLocks:
    """The server's own view of the leases in the test's database."""
    return ServerLocks(dsn, admin)


@pytest.fixture
def timetable(
    request: pytest.FixtureRequest, record_property: Callable[[str, object], None]
) -> Iterator[Timetable]:
    """Filled by the test, printed at the end of the run."""
    table = Timetable(request.node.name.removeprefix("test_").replace("_", " "))
    yield table
    record_property(PROPERTY, str(table))


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    """No node of a scenario is broken at the start of a test."""
    BREAKS.clear()
    yield
    BREAKS.clear()


@pytest.fixture
async def durable(dsn: str) -> AsyncIterator[Durable]:
    """An open `Durable` on a fresh database."""
    async with Durable(dsn, settings=Settings()) as opened:
        yield opened


@pytest.fixture
async def db(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own."""
    connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
    yield connection
    await connection.close()


@pytest.fixture
async def crowd(dsn: str) -> AsyncIterator[Any]:
    """A connection to a fresh database, among the rows that a module's `template` adds."""
    connection: Any = await asyncpg.connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """The file in which the graphs' nodes write their names."""
    return tmp_path / "log"


@pytest.fixture
def ledger(dsn: str) -> Ledger:
    """The ledger's rows, on a connection of their own."""
    return Ledger(dsn)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a Python program that finds no database in its environment but the given one."""
    started: list[Process] = []

    async def start(program: Path, *arguments: str, dsn: str | None = None) -> Process:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIODURABLE_", "PG"))
        }
        environment.pop("DATABASE_URL", None)
        if dsn is not None:
            environment["AIODURABLE_DSN"] = dsn
        process = await python(program, *arguments, stdout=PIPE, stderr=STDOUT, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        await process.end()
