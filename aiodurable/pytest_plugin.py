"""Fixtures for the tests of applications: `aiodurable_dsn` and `make_durable`.

pytest loads this by itself where aiodurable is installed. It imports next to nothing until a test
wants a fixture, and works with every plugin that runs async tests: no fixture is async.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from aiodurable.durable import Durable
    from aiodurable.postgres.scratch_databases import ScratchDatabases

__all__ = ["aiodurable_databases", "aiodurable_dsn", "aiodurable_template", "make_durable"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """The server of the tests."""
    what = "DSN of a Postgres server whose role may create databases; without it an embedded one"
    parser.addini("aiodurable_dsn", f"{what}.", default="")
    parser.getgroup("aiodurable").addoption("--aiodurable-dsn", metavar="DSN", help=f"{what}.")


def pytest_configure(config: pytest.Config) -> None:
    """The marker of tests that want a database without tables."""
    config.addinivalue_line(
        "markers", "aiodurable(empty=True): aiodurable_dsn is a database without tables"
    )


@pytest.fixture(scope="session")
def aiodurable_databases(
    request: pytest.FixtureRequest,
) -> Generator[ScratchDatabases, None, None]:
    """The databases of this test process, on a server of its own unless a DSN is given."""
    from aiodurable.postgres.scratch_databases import ScratchDatabases  # noqa: PLC0415 - as below

    given = (
        request.config.getoption("--aiodurable-dsn")
        or request.config.getini("aiodurable_dsn")
        or os.environ.get("AIODURABLE_TEST_DSN")
    )
    if given:
        from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - drivers: 0.3 s that others save

        yield ScratchDatabases(parse_dsn(given).conninfo, by_file=False)
        return
    from aiodurable.embedded import EmbeddedPostgres  # noqa: PLC0415 - as above

    with EmbeddedPostgres(durable=False, settings={"max_connections": "300"}) as url:
        yield ScratchDatabases(url, by_file=True)


@pytest.fixture(scope="session")
def aiodurable_template(
    aiodurable_databases: ScratchDatabases,
) -> Generator[str, None, None]:
    """The name of a database with the tables, which each test gets a copy of."""
    import asyncio  # noqa: PLC0415 - as above
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - as above

    from aiodurable.dsn import parse_dsn  # noqa: PLC0415 - as above
    from aiodurable.postgres.schema import migrate  # noqa: PLC0415 - as above

    name = aiodurable_databases.create()
    try:
        with ThreadPoolExecutor(1) as thread:  # an event loop of its own, whatever runs the tests
            dsn = parse_dsn(aiodurable_databases.dsn(name))
            thread.submit(asyncio.run, migrate(dsn)).result()
        yield name
    finally:
        aiodurable_databases.drop(name)


@pytest.fixture
def aiodurable_dsn(
    request: pytest.FixtureRequest, aiodurable_databases: ScratchDatabases
) -> Generator[str, None, None]:
    """The DSN of a fresh database of this test, with the tables, dropped after it."""
    marker = request.node.get_closest_marker("aiodurable")
    empty = marker is not None and bool(marker.kwargs.get("empty"))
    template = "template0" if empty else request.getfixturevalue("aiodurable_template")
    name = aiodurable_databases.create(template)
    try:
        yield aiodurable_databases.dsn(name)
    finally:
        aiodurable_databases.drop(name)


@pytest.fixture
def make_durable(aiodurable_dsn: str) -> Callable[..., Durable]:
    """Makes a `Durable` on the test's database: `async with make_durable(graphs={…}) as durable`.

    Its arguments are those of `Durable`, without the DSN. Several of one test share the database.
    """
    from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph

    def make(**options: Any) -> Durable:
        return Durable(aiodurable_dsn, **options)

    return make
