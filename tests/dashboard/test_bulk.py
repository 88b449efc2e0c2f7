"""One action on many threads: what is confirmed is what was shown."""

from __future__ import annotations

import asyncio
import re
import threading
from html import unescape
from typing import Any

import pytest
from langgraph.graph import START, StateGraph

from aiodurable import Durable, Settings
from aiodurable.dashboard.actions import on_many_threads
from aiodurable.dashboard.actions.on_many_threads import CAP
from aiodurable.errors import RunCancelledError
from tests.dashboard.acting import ORIGIN, Words, act, fail, failing, form_of, next_page
from tests.dashboard.conftest import Opened
from tests.support.waiting import wait_until


@pytest.fixture
async def durable(dsn: str) -> Any:
    async with Durable(dsn, graphs={"failing": failing()}, settings=Settings()) as opened:
        yield opened


async def test_the_dry_run_shows_what_the_confirmation_does(
    opened: Opened, durable: Durable
) -> None:
    for number in range(23):
        await fail(durable, f"t{number:02}")
    client = opened(read_only=False)
    query = {"q": "status:failed"}
    page = await client.get("/act/delete_many", params=query)
    assert "Delete 23 threads?" in page.text
    assert page.text.count('<li class="id">') == 20
    assert "and 3 more" in page.text
    assert (await durable.threads.count(status="failed")).total == 23
    await fail(durable, "later")  # it matches, but nobody saw it
    async with durable.run("t03", "failing") as run:
        with pytest.raises(ValueError, match="broken"):
            await run.ainvoke({"word": "again"}, on_unfinished="restart")
    answer = await client.post(
        "/act/delete_many", params=query, data=form_of(page.text), headers=ORIGIN
    )
    assert answer.status_code == 200
    assert "Done to 22 of 23 threads" in answer.text
    assert "t03" in answer.text
    assert "it has gone on since it was shown" in answer.text
    left = [thread.thread_id async for thread in durable.threads.search()]
    assert left == ["later", "t03"]
    audit = (await durable.insights.audit()).records
    assert sum(record.action == "threads.delete" for record in audit) == 22
    assert audit[-1].action == "threads.delete_many"
    assert audit[-1].details == {"search": "status:failed", "threads": 23}


async def test_a_selection_that_was_not_shown_is_refused(opened: Opened, durable: Durable) -> None:
    await fail(durable, "one")
    await fail(durable, "two")
    client, other = opened(read_only=False), opened(read_only=False)
    query = {"q": "one"}
    form = form_of((await client.get("/act/delete_many", params=query)).text)
    wide = form_of((await client.get("/act/delete_many", params={"q": "status:failed"})).text)
    foreign = form_of((await other.get("/act/delete_many", params=query)).text)
    for sent in (
        {**form, "selection": wide["selection"]},
        {**form, "seal": foreign["seal"]},
        {"token": form["token"]},
    ):
        answer = await client.post("/act/delete_many", params=query, data=sent, headers=ORIGIN)
        assert answer.status_code == 422
    assert (await durable.threads.count()).total == 2


async def test_threads_that_a_person_may_not_touch_are_left_out_and_checked_again(
    opened: Opened, durable: Durable
) -> None:
    for thread_id in ("mine", "theirs", "was mine"):
        await fail(durable, thread_id)
    owned = {"mine", "was mine", None}

    def authorize(request: Any, action: str, thread: str | None) -> bool:
        return action != "retry" or thread in owned

    client = opened(read_only=False, authorize=authorize)
    page = await client.get("/act/retry_many", params={"q": "status:failed"})
    assert "Retry 2 threads?" in page.text
    assert "You may not retry 1 more that match" in page.text
    owned.discard("was mine")
    answer = await client.post(
        "/act/retry_many", params={"q": "status:failed"}, data=form_of(page.text), headers=ORIGIN
    )
    assert "you may not do this to it" in answer.text
    ready = (await durable.runs.list(status="failed", claim_state="ready")).runs
    assert [run.thread_id for run in ready] == ["mine"]


def next_ones(page: str) -> str:
    """The link to the threads after those of a page; empty: there is none."""
    found = re.search(r'href="([^"]*)">[^<]*next ones<', page)
    return unescape(found[1]) if found else ""


async def test_all_means_all_though_they_match_afterwards(opened: Opened, durable: Durable) -> None:
    """A resumption that fails leaves a failed thread: the search finds it again."""
    for number in range(5):
        await fail(durable, f"t{number}")
    client = opened(read_only=False)
    link, said = "/act/resume_many?q=status%3Afailed&cap=2", ""
    asked: list[int] = []
    while link:
        page = await client.get(link)
        asked.append(page.text.count('<li class="id">'))
        answer = await client.post(link, data=form_of(page.text), headers=ORIGIN)
        assert answer.status_code == 200
        said = answer.text
        link = next_ones(said)
    assert asked == [2, 2, 1]
    assert "More may match" not in said
    for number in range(5):
        assert (await durable.threads.get(f"t{number}")).attempts == 2


async def test_the_page_after_an_action_says_where_it_stopped_and_asks_for_the_next(
    opened: Opened, durable: Durable
) -> None:
    for number in range(3):
        await fail(durable, f"t{number}")
    client = opened(read_only=False)
    answer = await act(client, "delete_many", q="status:failed", cap="2")
    page = await next_page(client, answer)
    assert "Done to 2 of 2 threads. More may match after these." in page
    assert "Delete 1 threads?" in page
    assert not next_ones(page)


async def test_those_that_a_person_may_not_touch_do_not_hide_the_next(
    opened: Opened, durable: Durable
) -> None:
    for thread_id in ("a", "b", "mine"):
        await fail(durable, thread_id)
    client = opened(
        read_only=False,
        authorize=lambda request, action, thread: action != "retry" or thread in (None, "mine"),
    )
    query = {"q": "status:failed", "cap": "2"}
    page = await client.get("/act/retry_many", params=query)
    assert "There is nothing to do." in page.text
    assert "Retry 1 threads?" in (await client.get(next_ones(page.text))).text


async def test_a_cap_bounds_it_and_says_that_more_may_match(
    opened: Opened, durable: Durable
) -> None:
    for number in range(3):
        await fail(durable, f"t{number}")
    client = opened(read_only=False)
    page = await client.get("/act/cancel_many", params={"q": "status:failed", "cap": "2"})
    assert "Cancel 2 threads?" in page.text
    assert "More may match after these: they follow." in page.text
    for cap in ("0", str(CAP + 1), "x", "٣", "9" * 5_000, "0" * 9 + "9999"):
        bad = await client.get("/act/cancel_many", params={"q": "status:failed", "cap": cap})
        assert bad.status_code == 422


async def test_where_none_is_found_within_the_bound_the_search_goes_on(
    opened: Opened, durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await fail(durable, f"t{number}")
    monkeypatch.setattr(on_many_threads, "_SCANNED", 2)
    client = opened(read_only=False)
    page = await client.get("/act/delete_many", params={"q": "status:complete"})
    assert "There is nothing to do." in page.text
    last = await client.get(next_ones(page.text))
    assert "There is nothing to do." in last.text
    assert not next_ones(last.text)


async def test_what_was_accepted_since_is_not_deleted(opened: Opened, dsn: str) -> None:
    graphs = {"healing": failing(heal=[True])}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        async with durable.run("t", "healing") as run:
            await run.ainvoke({"word": ""})
        client = opened(of=durable, read_only=False)
        query = {"q": "status:complete"}
        form = form_of((await client.get("/act/delete_many", params=query)).text)
        accepted = await durable.runs.create("t", "healing", {"word": "next"})
        answer = await client.post("/act/delete_many", params=query, data=form, headers=ORIGIN)
        assert "it has gone on since it was shown" in answer.text
        assert (await durable.runs.get(accepted.run_id)).claim_state == "ready"


@pytest.mark.parametrize("name", ["delete", "resume"])
async def test_a_thread_that_goes_on_after_it_was_compared_is_left_alone(
    opened: Opened, durable: Durable, dsn: str, name: str
) -> None:
    await fail(durable, "t")
    acted: list[str] = []

    def actor(request: Any) -> str:
        """Its second record is that of the thread, which was compared just before."""
        acted.append("ada")
        if len(acted) == 2:
            turn = another_turn(dsn)
            elsewhere = threading.Thread(target=asyncio.run, args=(turn,), daemon=True)
            elsewhere.start()
            elsewhere.join(60)
            assert not elsewhere.is_alive(), "the other turn waits for what this loop has"
        return "ada"

    client = opened(read_only=False, actor=actor)
    answer = await act(client, f"{name}_many", q="status:failed")
    assert (await durable.threads.get("t")).status == "complete"
    assert "it has gone on since it was read" in answer.text
    refused, done, many = (await durable.insights.audit()).records
    assert (done.action, many.action) == (f"threads.{name}", f"threads.{name}_many")
    assert refused.details == {
        "bulk": True,
        "refused": "WorkflowExecutionError",
        "of_record": done.id,
    }


async def another_turn(dsn: str) -> None:
    """What another process does to the thread."""
    graphs = {"failing": failing(heal=[True])}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as durable:
        async with durable.run("t", "failing") as run:
            await run.ainvoke({"word": "another"}, on_unfinished="restart")


async def test_a_run_at_work_is_cancelled_though_it_has_gone_on(opened: Opened, dsn: str) -> None:
    gate = asyncio.Event()
    async with Durable(dsn, graphs={"two": two_nodes(gate)}, settings=Settings()) as durable:
        working = asyncio.create_task(run_two(durable))

        async def at(node: str) -> bool:
            return (await durable.threads.status("t")).pending == (node,)

        await wait_until(lambda: at("first"), what="the first node")
        client = opened(of=durable, read_only=False)
        query = {"q": "status:running"}
        form = form_of((await client.get("/act/cancel_many", params=query)).text)
        gate.set()
        await wait_until(lambda: at("second"), what="the second node")
        answer = await client.post("/act/cancel_many", params=query, data=form, headers=ORIGIN)
        assert "Done to 1 of 1 threads" in await next_page(client, answer)
        with pytest.raises(RunCancelledError):
            await working


def two_nodes(gate: asyncio.Event) -> Any:
    """A graph whose first node waits for the gate, and whose second one does not end."""

    async def first(state: Words) -> Any:
        await gate.wait()
        return {"word": "first"}

    async def second(state: Words) -> Any:
        await asyncio.Event().wait()

    builder = StateGraph(Words).add_node("first", first).add_node("second", second)
    return builder.add_edge(START, "first").add_edge("first", "second").compile(name="two")


async def run_two(durable: Durable) -> None:
    async with durable.run("t", "two") as run:
        await run.ainvoke({"word": ""})


async def test_many_are_resumed_here(opened: Opened, durable: Durable) -> None:
    await fail(durable, "a")
    await fail(durable, "b")
    client = opened(read_only=False)
    answer = await act(client, "resume_many", q="status:failed")
    assert answer.status_code == 200
    assert answer.text.count("it ended with ValueError") == 2
    for thread_id in ("a", "b"):
        assert (await durable.threads.get(thread_id)).attempts == 2


async def test_a_resumption_of_many_says_what_was_refused(
    opened: Opened, durable: Durable, caplog: pytest.LogCaptureFixture
) -> None:
    await fail(durable, "registered")
    await fail(durable, "not registered", failing(name="elsewhere"))
    client = opened(read_only=False)
    answer = await act(client, "resume_many", q="status:failed not")
    assert answer.status_code == 200
    assert "notice-bad" in answer.text
    assert "not registered" in answer.text
    assert "elsewhere" in answer.text
    assert "not done to 1 of 1 threads" in caplog.text
