"""The browser tests need Chromium. Without it they are skipped, but with AIODURABLE_BROWSER=1 they
fail.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from aiodurable.durable import Durable
from aiodurable.settings import Settings
from tests.browser.shown import GRAPHS, fill
from tests.browser.site import CHROMIUM, Site, looked_at, served

_WANTED = os.environ.get("AIODURABLE_BROWSER") == "1"


@pytest.fixture(autouse=True)
def chromium() -> None:
    if CHROMIUM is None and not _WANTED:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    assert CHROMIUM is not None, "AIODURABLE_BROWSER=1, and there is no chromium"


@pytest.fixture
async def reports(dsn: str) -> AsyncIterator[Durable]:
    """A `Durable` with the graphs of `shown`."""
    async with Durable(dsn, graphs=GRAPHS, settings=Settings()) as durable:
        yield durable


@pytest.fixture
async def site(reports: Durable, dsn: str) -> AsyncIterator[Site]:
    """The dashboard of a filled database; the browser must have nothing to complain about."""
    await fill(reports, dsn)
    async with served(reports, read_only=False) as address, looked_at(address) as site:
        yield site
        assert site.complaints == []
