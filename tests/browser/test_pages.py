"""Every page in a real browser: it loads, says nothing to the console, and works by keyboard."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import psycopg
import pytest
from playwright.async_api import Browser, expect

from aiodurable.dashboard.navigation import PAGES
from aiodurable.durable import Durable
from tests.browser.site import Site, looked_at, serious, served

THREAD = "/thread?id=2026-12/tides"
ALL = [
    "/",
    "/threads",
    "/threads?q=status:failed",
    "/threads?q=older:soon",
    "/runs?fairness_key=acme",
    THREAD,
    f"{THREAD}&open=research",
    "/thread?id=2026-12/moons",
    "/thread?id=nothing",
]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 380)])
async def test_every_page_fits_and_axe_finds_nothing_serious(
    site: Site, scheme: Any, width: int
) -> None:
    tab = await site.tab(scheme=scheme, width=width, bypass_csp=True)
    for path in [*ALL, *(link.path for link in PAGES if link.path not in ALL)]:
        await tab.goto(f"{site.address}{path}")
        await expect(tab.locator("h1").first).to_be_visible()
        wide: int = await tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, path
        assert (path, await serious(tab)) == (path, [])
    site.complaints[:] = [one for one in site.complaints if "404" not in one]


async def test_a_narrow_screen_shows_which_page_is_open_and_whole_names(site: Site) -> None:
    tab = await site.tab("/database", width=380)
    await expect(tab.locator(".side [aria-current]")).to_be_in_viewport(ratio=1)
    lines: int = await tab.locator("tbody th code").first.evaluate(
        "element => element.getClientRects().length"
    )
    assert lines == 1


async def test_no_page_breaks_its_policy(site: Site) -> None:
    for path in ALL:
        tab = await site.tab(path)
        await expect(tab.locator("h1").first).to_be_visible()
        await tab.context.close()
    site.complaints[:] = [one for one in site.complaints if "404" not in one]


async def test_a_filter_is_in_the_address_and_back_undoes_it(site: Site) -> None:
    tab = await site.tab("/threads")
    rows = tab.locator(".rows tbody tr")
    await expect(rows.first).to_be_visible()
    everything = await rows.count()
    await tab.keyboard.press("/")
    await tab.keyboard.type("status:failed")
    await tab.keyboard.press("Enter")
    await expect(rows).to_have_count(2)
    assert "q=status%3Afailed" in tab.url
    shared = await site.tab(tab.url.removeprefix(site.address))
    await expect(shared.locator(".rows tbody tr")).to_have_count(2)
    await tab.go_back()
    await expect(rows).to_have_count(everything)


async def test_a_filter_of_runs_that_is_in_use_is_shown(site: Site) -> None:
    tab = await site.tab("/runs")
    await expect(tab.get_by_label("Thread", exact=True)).to_be_hidden()
    await tab.get_by_text("More filters").click()
    await tab.get_by_label("Thread", exact=True).fill("2026-12/tides")
    await tab.get_by_role("button", name="Filter").click()
    await expect(tab.locator(".rows tbody tr")).to_have_count(1)
    await expect(tab.get_by_label("Thread", exact=True)).to_have_value("2026-12/tides")


async def test_the_graph_shows_where_a_thread_failed_and_opens_subgraphs(site: Site) -> None:
    tab = await site.tab(THREAD)
    node = tab.locator("[data-node=research]")
    await expect(node).to_have_class(re.compile("node-failed"))
    await expect(tab.locator("[data-node=plan]")).to_have_class(re.compile("node-done"))
    await expect(tab.locator(".why")).to_contain_text("no later attempt outlived")
    await node.locator("a").click()
    await expect(tab.locator("[data-node='research:rank']")).to_have_class(
        re.compile("node-failed")
    )
    await tab.locator(".graph-group a").click()
    await expect(tab.locator("[data-node=research]")).to_be_visible()


async def test_the_graph_shows_a_step_that_takes_more_than_a_minute(site: Site, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE checkpoints SET checkpoint = jsonb_set(checkpoint, '{ts}',"
            " to_jsonb((checkpoint->>'ts')::timestamptz - interval '3 hours'))"
            " WHERE thread_id = '2026-11/reefs' AND (metadata->>'step')::int < 1"
        )
    tab = await site.tab("/thread?id=2026-11/reefs")
    await expect(tab.locator("[data-node=plan]")).to_contain_text("3 h")


async def test_the_last_day_is_drawn_and_follows_the_colours(site: Site) -> None:
    tab = await site.tab("/")
    for chart in ("#threads-chart", "#ended-chart"):
        await expect(tab.locator(f"{chart} canvas")).to_be_visible()
        await expect(tab.locator(f"{chart} .u-legend")).to_contain_text("failed")
    await tab.get_by_role("button", name="Change the colours").click()
    await expect(tab.locator("#threads-chart canvas")).to_have_count(1)


async def test_states_open_when_somebody_opens_them(site: Site) -> None:
    tab = await site.tab("/thread?id=2026-11/reefs")
    state = tab.locator("#state")
    await expect(state).to_contain_text("hidden until you open one")
    assert "All about reefs" not in await tab.content()
    await tab.get_by_role("link", name="changes").first.click()
    await expect(state).to_contain_text("Published.")
    await tab.get_by_role("link", name="state", exact=True).first.click()
    await expect(state).to_contain_text("archive of reefs")


async def test_keys_open_pages_and_walk_rows(site: Site) -> None:
    tab = await site.tab("/")
    await expect(tab.locator("h1")).to_have_text("Overview")
    # at once, as hands do: they are two keys if a slow machine presses the second too late
    await asyncio.gather(tab.keyboard.press("g"), tab.keyboard.press("t"))
    await expect(tab.locator("h1")).to_have_text("Threads")
    await tab.wait_for_load_state()  # a heading is there before the script that reads the keys
    await tab.keyboard.press("j")
    await tab.keyboard.press("j")
    await tab.keyboard.press("k")
    await tab.keyboard.press("Enter")
    await expect(tab.locator("h1")).to_contain_text("2026-09/deltas")
    await tab.wait_for_load_state()
    await tab.keyboard.press("?")
    await expect(tab.locator("#help")).to_be_visible()
    await tab.keyboard.press("Escape")
    await expect(tab.locator("#help")).to_be_hidden()


async def test_keys_walk_what_was_searched_for(site: Site) -> None:
    tab = await site.tab("/threads")
    await tab.wait_for_load_state()
    await tab.keyboard.press("/")
    await tab.keyboard.type("2026-09/deltas")
    await tab.keyboard.press("Enter")
    await expect(tab.locator("#live .rows tbody tr")).to_have_count(1)
    await tab.keyboard.press("j")
    await tab.keyboard.press("Enter")
    await expect(tab.locator("h1")).to_contain_text("2026-09/deltas")


async def test_the_chosen_colours_stay(site: Site) -> None:
    tab = await site.tab("/threads")
    await tab.get_by_role("button", name="Change the colours").click()
    await tab.goto(f"{site.address}/")
    assert await tab.evaluate("document.documentElement.dataset.theme") == "dark"


async def test_times_are_in_the_zone_of_the_viewer(site: Site) -> None:
    shown: list[str] = []
    for zone in ("Asia/Tokyo", "America/New_York"):
        tab = await site.tab("/thread?id=2026-11/reefs", timezone_id=zone)
        written = tab.locator(".timeline time").first
        await expect(written).not_to_contain_text("UTC")
        shown.append(await written.inner_text())
    assert shown[0] != shown[1]


async def test_a_closed_dashboard_says_so(reports: Durable, browser: Browser) -> None:
    async with served(reports, authorize=None) as address, looked_at(address, browser) as site:
        tab = await site.tab("/")
        await expect(tab.locator("main")).to_contain_text("This dashboard is closed")
