"""The browser tests need Chromium. Without it they are skipped, but with AIODURABLE_BROWSER=1 they
fail.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from aiodurable.dashboard import background
from aiodurable.durable import Durable
from aiodurable.settings import Settings
from tests.browser.shown import GRAPHS, fill
from tests.browser.site import CHROMIUM, Site, chromium, looked_at, served
from tests.support.postgres import Server
from tests.support.waiting import LIMIT_S

_WANTED = os.environ.get("AIODURABLE_BROWSER") == "1"
_HERE = Path(__file__).parent
expect.set_options(timeout=1000 * LIMIT_S)  # by default five seconds


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here use one browser, so all run on its event loop."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


def has_chromium() -> None:
    """Skip, or fail where a browser is a must."""
    if CHROMIUM is None and not _WANTED:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    assert CHROMIUM is not None, "AIODURABLE_BROWSER=1, and there is no chromium"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests: what a page keeps in it is of one tab alone."""
    has_chromium()
    async with chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def filled(server: Server, template: str) -> Iterator[str]:
    """The name of a database that `fill` has filled, to be cloned."""

    async def fill_it(dsn: str) -> None:
        async with Durable(dsn, graphs=GRAPHS, settings=Settings()) as durable:
            await fill(durable, dsn)

    with server.clone(template) as name:
        with ThreadPoolExecutor(1) as thread:  # a loop of its own
            thread.submit(asyncio.run, fill_it(server.database(name))).result()
        yield name


@pytest.fixture
def dsn(server: Server, filled: str) -> Iterator[str]:
    """A fresh database with threads of every kind."""
    with server.clone(filled) as name:
        yield server.database(name)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is answered when what was begun has ended, on a slow machine, too."""
    monkeypatch.setattr(background, "_LOOKED_AT_S", LIMIT_S)


@pytest_asyncio.fixture(loop_scope="session")
async def reports(dsn: str) -> AsyncIterator[Durable]:
    """A `Durable` with the graphs of `shown`."""
    async with Durable(dsn, graphs=GRAPHS, settings=Settings()) as durable:
        yield durable


@pytest_asyncio.fixture(loop_scope="session")
async def site(reports: Durable, browser: Browser) -> AsyncIterator[Site]:
    """The dashboard of a filled database; the browser must have nothing to complain about."""
    async with (
        served(reports, read_only=False) as address,
        looked_at(address, browser) as site,
    ):
        yield site
        assert site.complaints == []
