"""Each action in a real browser: from its button, over the page that says what will happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from aiodurable.dashboard.local import LocalDashboard
from aiodurable.durable import Durable
from aiodurable.models import RunStatus, ThreadStatus
from tests.browser.site import Site, listening, looked_at, served
from tests.support.waiting import wait_until


async def act(
    tab: Page,
    site: Site,
    path: str,
    label: str,
    said: str,
    *,
    inside: str = "main",
    filled: Mapping[str, str] | None = None,
) -> None:
    """Press a button of a page, fill the form that opens, confirm it, and read what it says."""
    await tab.goto(f"{site.address}{path}")
    await tab.locator(inside).get_by_role("link", name=label, exact=True).first.click()
    form = tab.locator("form[method=post]")
    for field, text in (filled or {}).items():
        await form.get_by_label(field, exact=False).fill(text)
    await form.get_by_role("button", name=label).click()
    await expect(tab.locator("#flash")).to_contain_text(said)


async def test_a_thread_is_retried_forked_cancelled_and_deleted(
    site: Site, reports: Durable
) -> None:
    tab = await site.tab()
    failed, threads = "/thread?id=2026-12/reefs", reports.threads
    await act(tab, site, failed, "Retry", "Retried: a worker begins it")
    run = await reports.runs.get(str((await threads.get("2026-12/reefs")).run_id))
    assert str(run.claim_state) == "ready"
    await act(tab, site, failed, "Fork", "Forked", filled={"Id of the new thread": "copy"})
    await expect(tab.locator("h1")).to_contain_text("copy")
    assert (await threads.get("copy")).failed_node == "write"
    await act(tab, site, "/thread?id=2026-12/springs", "Cancel", "Its run was cancelled")
    await expect(tab.locator("main")).to_contain_text("superseded")
    await act(tab, site, failed, "Delete", "The thread was deleted")
    assert await steps(reports, "2026-12/reefs") == 0


async def test_a_step_of_the_timeline_is_forked(site: Site, reports: Durable) -> None:
    tab = await site.tab("/thread?id=2026-11/reefs")
    step = tab.locator(".timeline tr", has=tab.get_by_text("plan", exact=True))
    await step.get_by_role("link", name="fork").click()
    await tab.get_by_label("Id of the new thread").fill("after the plan")
    await tab.get_by_role("button", name="Fork").click()
    await expect(tab.locator("h1")).to_contain_text("after the plan")
    assert (await reports.threads.get("after the plan")).pending == ("research",)


async def test_a_run_is_retried_and_cancelled(site: Site, reports: Durable) -> None:
    tab = await site.tab()
    ((run,), _) = await reports.runs.newest(status="quarantined")
    page = f"/run?id={run.run_id}"
    await act(tab, site, page, "Retry", "A worker begins it again")
    await act(tab, site, page, "Cancel", "Cancelled")
    run = await reports.runs.get(run.run_id)
    assert (run.status, run.reason) == (RunStatus.PAUSED, "cancelled")


async def test_a_queue_is_scaled_paused_and_resumed(site: Site, reports: Durable) -> None:
    tab = await site.tab()
    filled = {"Runs at work at once": "3", "Runs that begin in a second": "1.5"}
    await act(tab, site, "/queues", "Scale", "limits of the queue were set", filled=filled)
    await act(tab, site, "/queues", "Pause", "The queue is paused")
    await act(tab, site, "/queues", "Resume", "The queue is at work again")
    (queue,) = await reports.queues.list()
    assert (queue.max_running, queue.rate, queue.paused) == (3, 1.5, False)


async def test_a_schedule_is_paused_resumed_triggered_and_backfilled(
    site: Site, reports: Durable
) -> None:
    tab, card = await site.tab(), "section:has-text('reef-survey')"
    await act(
        tab, site, "/schedules", "Pause", "The schedule is paused", inside=card,
        filled={"Why": "the reefs are closed"},
    )  # fmt: skip
    await expect(tab.locator(card)).to_contain_text("the reefs are closed")
    await act(tab, site, "/schedules", "Resume", "The schedule fires again", inside=card)
    await act(tab, site, "/schedules", "Trigger", "A run was accepted", inside=card)
    await tab.goto(f"{site.address}/schedules")
    briefing = tab.locator("section:has-text('weekday-briefing')")
    await briefing.get_by_role("link", name="Backfill").click()
    await tab.get_by_label("From (UTC)").fill("2026-11-02T00:00:00")
    await tab.get_by_label("To (UTC)").fill("2026-11-04T23:00:00")
    await tab.get_by_role("button", name="Backfill").click()
    await expect(tab.locator(".listed li")).to_have_count(3)
    await tab.get_by_role("button", name="Backfill").click()
    await expect(tab.locator("#flash")).to_contain_text("Of 3 slots, 3 were accepted")
    runs = (await reports.runs.list(schedule_id="weekday-briefing")).runs
    assert len(runs) == 1 + 3


async def steps(durable: Durable, thread_id: str) -> int:
    """How many checkpoints a thread has."""
    return len([step async for step in durable.threads.history(thread_id)])


async def test_a_prune_is_counted_and_then_done(site: Site, reports: Durable) -> None:
    tab = await site.tab("/database")
    await tab.get_by_role("link", name="Prune").click()
    await tab.get_by_label("Complete threads that were not written to").fill("0")
    await tab.get_by_role("button", name="Count them first").click()
    await expect(tab.locator(".facts")).to_contain_text("Threads")
    assert await steps(reports, "2026-11/reefs") > 1
    await tab.get_by_role("button", name="Prune").click()
    await expect(tab.locator("#flash")).to_contain_text("Pruning")

    async def pruned() -> bool:
        return await steps(reports, "2026-11/reefs") == 1

    await wait_until(pruned, what="the past of a complete thread to be removed")


@pytest.mark.parametrize(
    ("q", "label", "count", "said"),
    [
        ("status:failed", "Resume", 2, "Resuming 2 threads"),
        ("status:queued 2026-12", "Cancel", 3, "Done to 3 of 3 threads"),
        ("status:quarantined", "Delete", 1, "Done to 1 of 1 threads"),
    ],
)
async def test_all_that_match_are_shown_and_then_acted_on(
    site: Site, reports: Durable, q: str, label: str, count: int, said: str
) -> None:
    before = (await reports.threads.count()).total
    tab = await site.tab(f"/threads?q={q}")
    await tab.locator(".bulk").get_by_role("link", name=label).click()
    await expect(tab.locator("h1")).to_have_text(f"{label} {count} threads?")
    await expect(tab.locator(".listed li")).to_have_count(count)
    assert (await reports.threads.count()).total == before
    await tab.get_by_role("button", name=f"{label} {count} threads").click()
    await expect(tab.locator("main [role=status]")).to_contain_text(said)


async def test_a_question_with_a_schema_has_a_form(site: Site, reports: Durable) -> None:
    async with reports.run("form", "report") as run:
        await run.ainvoke({"topic": "auroras", "breaks": "form"})
    tab = await site.tab("/questions")
    await (
        tab.locator("section:has-text('Which length?')").get_by_role("link", name="Answer").click()
    )
    await tab.get_by_label("words").fill("twelve")
    await tab.get_by_label("style").select_option("plain")
    await tab.get_by_role("button", name="Answer").click()
    await expect(tab.locator("main")).to_contain_text("write a whole number")
    await tab.go_back()
    await tab.get_by_label("words").fill("12")
    await tab.get_by_label("style").select_option("plain")
    await tab.get_by_role("button", name="Answer").click()
    await expect(tab.locator("#flash")).to_contain_text("Answered")
    site.complaints[:] = [one for one in site.complaints if "422" not in one]


async def test_a_right_that_is_gone_when_the_form_is_sent_is_refused(
    reports: Durable, browser: Browser
) -> None:
    rights = {"view", "delete"}
    async with (
        served(
            reports, read_only=False, authorize=lambda _, action, __: action in rights
        ) as address,
        looked_at(address, browser) as site,
    ):
        tab = await site.tab("/thread?id=2026-12/reefs")
        await tab.get_by_role("link", name="Delete").click()
        rights.remove("delete")
        await tab.get_by_role("button", name="Delete").click()
        await expect(tab.locator("main")).to_contain_text("You may not delete here")
    assert (await reports.threads.get("2026-12/reefs")).status is ThreadStatus.FAILED


async def test_a_form_of_another_site_is_refused(site: Site, reports: Durable) -> None:
    tab = await site.tab("/act/delete?id=2026-12/reefs")
    token = await tab.locator("input[name=token]").input_value()
    address = f"{site.address}/act/delete?id=2026-12/reefs"

    async def other_site(route: Any) -> None:
        await route.fulfill(
            content_type="text/html",
            body=f"<form method=post action='{address}'><input name=token value='{token}'>"
            "<button>A prize</button></form>",
        )

    await tab.route("http://evil.example/**", other_site)
    await tab.goto("http://evil.example/")
    async with tab.expect_response(address) as answer:
        await tab.get_by_role("button", name="A prize").click()
    assert (await answer.value).status == 403
    assert (await reports.threads.get("2026-12/reefs")).status is ThreadStatus.FAILED
    site.complaints.clear()


async def test_the_dashboard_of_one_person_opens_with_its_token_alone(
    reports: Durable, browser: Browser
) -> None:
    local = LocalDashboard(
        reports, writable=False, states=False, host="127.0.0.1", port=8321, actor="ada"
    )
    async with listening(local.app) as address, looked_at(address, browser) as site:
        tab = await site.tab("/threads")
        await expect(tab.locator("body")).to_contain_text("it has a token")
        await tab.goto(f"{address}/login?token=guessed")
        await expect(tab.locator("body")).to_contain_text("it has a token")
        await tab.goto(f"{address}{local.login}")
        await expect(tab.locator("h1")).to_have_text("Overview")
        await tab.goto(f"{address}/act/delete?id=2026-12/reefs")
        await expect(tab.locator("main")).to_contain_text("read-only")
