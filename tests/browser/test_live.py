"""A page that is open follows a run in another process, also when that process is killed."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from aiodurable.dashboard import live
from aiodurable.durable import Durable
from tests.browser.site import looked_at, served
from tests.programs.worker_process import graphs
from tests.support.waiting import LIMIT_S, within
from tests.support.workers import workers


@pytest.fixture
def filled(template: str) -> str:
    """No threads but those of the test."""
    return template


@pytest.fixture(autouse=True)
def short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a stream would rest for longer than a step, or end with its first page."""
    monkeypatch.setattr(live, "_SHARE", 1.0)


@pytest.mark.timeout(300)  # a run of half a minute, on any machine
async def test_a_page_follows_a_run_whose_worker_is_killed(
    dsn: str, log: Path, browser: Browser
) -> None:
    async with (
        Durable(dsn, graphs=graphs(str(log))) as durable,
        served(durable) as address,
        looked_at(address, browser) as site,
        workers(dsn, log) as started,
    ):
        await durable.runs.create("t", "steps", {"words": [], "marks": [], "pause": 5.0})
        tab = await site.tab("/thread?id=t")
        status = tab.locator(".standing .status")
        await expect(status).to_contain_text("queued")
        await expect(tab.locator("#live-state")).to_have_text("live")
        first = await started.start()
        await expect(status).to_contain_text("running", timeout=60_000)
        await expect(tab.locator("[data-node=collect]")).to_have_class(re.compile("node-running"))
        await expect(tab.locator("[data-node=collect]")).to_have_class(
            re.compile("node-done"), timeout=60_000
        )
        started.end(first)
        await expect(status).to_contain_text("crashed", timeout=60_000)
        await started.start()
        await expect(status).to_contain_text("complete", timeout=120_000)
        await expect(tab.locator(".attempts > li")).to_have_count(2)
        assert site.complaints == []


async def test_a_hidden_tab_closes_its_stream(reports: Durable, browser: Browser) -> None:
    async with served(reports) as address, looked_at(address, browser) as site:
        tab = await site.tab("/threads")
        await expect(tab.locator("#live-state")).to_have_text("live")
        ended = asyncio.Event()
        tab.on("requestfailed", lambda request: ended.set() if "live=1" in request.url else None)
        tab.on("requestfinished", lambda request: ended.set() if "live=1" in request.url else None)
        await tab.evaluate(
            "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
            "document.dispatchEvent(new Event('visibilitychange'))"
        )
        await within(LIMIT_S, ended.wait(), what="the stream to be closed")
        async with tab.expect_request(lambda request: "live=1" in request.url):
            await tab.evaluate(
                "Object.defineProperty(document, 'hidden', {value: false, configurable: true});"
                "document.dispatchEvent(new Event('visibilitychange'))"
            )


async def test_what_comes_while_text_is_selected_is_shown_afterwards(
    reports: Durable, browser: Browser
) -> None:
    await reports.runs.create("first", "report", {"topic": "tides"})
    async with served(reports) as address, looked_at(address, browser) as site:
        tab = await site.tab("/threads")
        state, rows = tab.locator("#live-state"), tab.locator("#live tbody tr")
        await expect(state).to_have_text("live")
        await tab.evaluate("getSelection().selectAllChildren(document.querySelector('tbody'))")
        await reports.runs.create("second", "report", {"topic": "tides"})
        await expect(state).to_have_text("paused", timeout=60_000)
        assert await rows.count() == 1
        await tab.evaluate("getSelection().removeAllRanges()")
        await expect(rows).to_have_count(2, timeout=60_000)
        await expect(state).to_have_text("live")
        assert site.complaints == []
