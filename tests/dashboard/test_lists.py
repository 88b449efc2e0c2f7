"""Lists of threads and runs: a page reads a bounded number of them, and says so."""

from __future__ import annotations

from typing import Any

import pytest

from aiodurable import Durable
from aiodurable.dashboard.views import overview, runs, threads
from aiodurable.queue import NewRun
from tests.dashboard.acting import fail, failing
from tests.dashboard.conftest import Opened


@pytest.fixture
async def durable(dsn: str) -> Any:
    async with Durable(dsn, graphs={"failing": failing()}) as opened:
        yield opened


async def test_a_search_that_found_little_says_how_much_it_read(
    opened: Opened, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "_SCANNED", 2)
    for number in range(3):
        await fail(durable, f"t{number}")
    client = opened()
    page = (await client.get("/threads", params={"q": "error:nowhere"})).text
    assert "None matches so far." in page
    assert "This page searched 2 threads" in page
    last = (await client.get("/threads", params={"q": "error:nowhere", "after": "t1"})).text
    assert "No thread matches." in last
    assert "This page searched" not in last


async def test_of_many_graphs_the_overview_shows_the_busiest(
    opened: Opened, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "_GRAPHS", 2)
    for number, graph in enumerate(("a-quiet", "busy", "busy", "most", "most", "most")):
        await fail(durable, f"t{number}", failing(name=graph))
    page = (await opened().get("/")).text
    shown = [name for name in ("a-quiet", "busy", "most") if f'<th scope="row">{name}</th>' in page]
    assert shown == ["busy", "most"]
    assert "These 2 had the most runs; 1 more had some." in page
    monkeypatch.setattr(overview, "_GRAPHS", 3)
    assert "had the most runs" not in (await opened().get("/")).text


async def test_the_newest_runs_come_first_and_a_page_says_how_much_it_read(
    opened: Opened, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    await durable.runs.create_many(
        NewRun(thread_id=f"t{n}", graph="failing", input={"word": "a"}, run_id=f"r{n}")
        for n in range(4)
    )
    client = opened()
    page = (await client.get("/runs")).text
    places = [page.index(f">r{n}<") for n in (3, 2, 1, 0)]
    assert places == sorted(places)
    assert "The newest first" in page
    monkeypatch.setattr(runs, "_SCANNED", 3)
    page = (await client.get("/runs", params={"queue": "nobody's"})).text
    assert "None matches so far." in page
    assert "This page searched 3 runs" in page
    assert "/runs?queue=nobody%27s&amp;after=r1" in page
