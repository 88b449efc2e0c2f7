"""People act in a real browser: with confirmation, by keyboard, and refused where they may not."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.async_api import Browser, expect

from aiodurable.dashboard.actions.all_acts import ACTS
from aiodurable.durable import Durable
from tests.browser.site import Site, looked_at, serious, served
from tests.support.waiting import wait_until


async def test_a_question_is_answered_and_a_second_answer_is_refused(
    site: Site, reports: Durable
) -> None:
    first, second = await site.tab("/questions"), await site.tab("/questions")
    card = "section:has-text('2026-12/dunes')"
    for tab in (first, second):
        await expect(tab.locator(card)).to_contain_text("Publish the report about dunes?")
        await tab.locator(card).get_by_role("link", name="Answer").click()
        await tab.get_by_label("Answer, as JSON").fill('"yes"')
    await first.get_by_role("button", name="Answer").click()
    await expect(first.locator("#flash")).to_contain_text("Answered")
    await second.get_by_role("button", name="Answer").click()
    await expect(second.locator("main")).to_contain_text("it is not open any more")

    async def complete() -> bool:
        return str((await reports.threads.get("2026-12/dunes")).status) == "complete"

    await wait_until(complete, what="the thread to be complete")
    site.complaints[:] = [one for one in site.complaints if "409" not in one]


async def test_what_fails_is_resumed_by_keyboard(site: Site, reports: Durable) -> None:
    before = (await reports.threads.get("2026-12/reefs")).attempts
    tab = await site.tab("/thread?id=2026-12/reefs")
    await tab.get_by_role("link", name="Resume").focus()
    await tab.keyboard.press("Enter")
    await expect(tab.locator("h1")).to_have_text("Resume this thread?")
    await tab.get_by_role("button", name="Resume").focus()
    await tab.keyboard.press("Enter")
    await expect(tab.locator("#flash")).to_contain_text("it ended with ValueError")
    assert (await reports.threads.get("2026-12/reefs")).attempts == before + 1


async def test_many_are_shown_first_and_retried_then(site: Site, reports: Durable) -> None:
    tab = await site.tab("/threads?q=status:failed")
    await tab.locator(".bulk").get_by_role("link", name="Retry").click()
    await expect(tab.locator("h1")).to_have_text("Retry 2 threads?")
    await expect(tab.locator(".listed")).to_contain_text("2026-12/reefs")
    assert len((await reports.runs.list(status="failed", claim_state="ready")).runs) == 0
    await tab.get_by_role("button", name="Retry 2 threads").click()
    await expect(tab.locator("#flash")).to_contain_text("Done to 2 of 2 threads")
    assert len((await reports.runs.list(status="failed", claim_state="ready")).runs) == 2
    await tab.goto(f"{site.address}/audit")
    await expect(tab.locator(".rows")).to_contain_text("threads.retry_many")


async def test_a_queue_is_paused(site: Site, reports: Durable) -> None:
    tab = await site.tab("/queues")
    await tab.get_by_role("link", name="Pause").click()
    await tab.get_by_role("button", name="Pause").click()
    await expect(tab.locator("#flash")).to_contain_text("paused")
    await expect(tab.locator("#live")).to_contain_text("paused")
    assert [queue.paused for queue in await reports.queues.list()] == [True]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"read_only": True}, "read-only"),
        ({"read_only": False, "authorize": lambda _, action, __: action == "view"}, "delete"),
    ],
)
async def test_who_may_not_act_sees_no_button_and_is_refused(
    reports: Durable, browser: Browser, options: Any, said: str
) -> None:
    async with served(reports, **options) as address, looked_at(address, browser) as site:
        tab = await site.tab("/thread?id=2026-12/reefs")
        await expect(tab.locator("h1")).to_contain_text("2026-12/reefs")
        assert await tab.locator("a[href*='/act/']").count() == 0
        await tab.goto(f"{address}/act/delete?id=2026-12/reefs")
        await expect(tab.locator("main")).to_contain_text(said)
        assert await tab.locator("form[method=post]").count() == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("width", [1280, 380])
async def test_every_page_of_an_action_fits_and_axe_finds_nothing_serious(
    site: Site, reports: Durable, width: int
) -> None:
    thread = await reports.threads.get("2026-12/moons")
    question = thread.interrupts[0].id
    query = (
        f"id=2026-12/moons&question={question}&run={thread.run_id}&queue=default&q=status:failed"
        "&schedule=reef-survey"
    )
    tab = await site.tab(width=width, bypass_csp=True)
    for name in ACTS:
        await tab.goto(f"{site.address}/act/{name}?{query}")
        await expect(tab.locator("h1")).to_be_visible()
        assert await tab.evaluate("document.documentElement.scrollWidth") <= width, name
        assert (name, await serious(tab)) == (name, [])
