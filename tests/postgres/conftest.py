"""What the rooms' tests share beyond a database: the server's view of their locks, whole graphs,
a server of their own, a place for times."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg
import pytest

from own_server import OwnServer, own_server
from scenario_graphs import BREAKS
from server_locks import ServerLocks
from timetable import PROPERTY, Timetable


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    """A Postgres of this test alone; not started yet."""
    async with own_server() as server:
        yield server


@pytest.fixture
def server_locks(dsn: str, admin: psycopg.Connection[Any]) -> ServerLocks:
    """The server's own view of the leases in the test's database."""
    return ServerLocks(dsn, admin)


@pytest.fixture
def timetable(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Timetable]:
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
