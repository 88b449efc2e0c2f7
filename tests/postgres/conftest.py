"""What the rooms' tests share beyond a database: a server of their own, and a place for the times of a fault."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from own_server import OwnServer, own_server
from timetable import PROPERTY, Timetable


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    """A Postgres of this test alone; not started yet."""
    async with own_server() as server:
        yield server


@pytest.fixture
def timetable(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> Iterator[Timetable]:
    """Filled by the test, printed at the end of the run."""
    table = Timetable(request.node.name.removeprefix("test_").replace("_", " "))
    yield table
    record_property(PROPERTY, str(table))
