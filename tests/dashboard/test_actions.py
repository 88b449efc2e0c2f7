"""Each action: done with the right to it, recorded, refused without, and never by a GET."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiodurable import Durable, Settings
from aiodurable.dashboard.actions.all_acts import ACTS
from aiodurable.dashboard.authorization import ACTIONS, READS
from tests.dashboard.acting import ORIGIN, act, ask, asking, fail, failing, form_of, next_page
from tests.dashboard.conftest import Opened, everything

THREAD_ACTS = ("resume", "retry", "fork", "cancel", "delete")


@pytest.fixture
async def durable(dsn: str) -> Any:
    graphs = {"failing": failing(), "asking": asking()}
    async with Durable(dsn, graphs=graphs, settings=Settings()) as opened:
        yield opened


async def recorded(durable: Durable) -> list[tuple[str, str | None]]:
    page = await durable.insights.audit()
    return [(record.action, record.thread_id) for record in reversed(page.records)]


def test_each_action_of_authorize_has_a_page() -> None:
    assert {act.right for act in ACTS.values()} == set(ACTIONS) - READS


@pytest.mark.parametrize("name", THREAD_ACTS)
async def test_a_thread_action_needs_its_right_on_its_thread_also_when_it_is_sent(
    opened: Opened, durable: Durable, name: str
) -> None:
    await fail(durable, "t")
    allowed = True

    def authorize(request: Any, action: str, thread: str | None) -> bool:
        return action != name or (allowed and thread == "t")

    client = opened(authorize=authorize, read_only=False)
    page = await client.get(f"/act/{name}", params={"id": "t"})
    assert page.status_code == 200
    allowed = False
    for method in ("GET", "POST"):
        answer = await client.request(
            method, f"/act/{name}", params={"id": "t"}, data=form_of(page.text), headers=ORIGIN
        )
        assert answer.status_code == 403
    assert str((await durable.threads.get("t")).status) == "failed"
    assert await recorded(durable) == []


@pytest.mark.parametrize(
    ("name", "query"),
    [
        *((name, {"id": "t"}) for name in THREAD_ACTS),
        ("answer", {"id": "q", "question": ""}),
        ("delete_many", {"q": "status:failed"}),
        ("pause_queue", {"queue": "mail"}),
    ],
    ids=str,
)
async def test_a_right_is_decided_once_in_a_request_with_one_answer(
    opened: Opened, durable: Durable, name: str, query: dict[str, str]
) -> None:
    await fail(durable, "t")
    question = await ask(durable, "q")
    asked: list[tuple[str, str | None]] = []

    def authorize(request: Any, action: str, thread: str | None) -> bool:
        asked.append((action, thread))
        return asked.count((action, thread)) == 1  # another answer, if it were asked again

    query = query | ({"question": question} if "question" in query else {})
    client = opened(authorize=authorize, read_only=False)
    page = await client.get(f"/act/{name}", params=query)
    assert page.status_code == 200
    assert len(asked) == len(set(asked))
    asked.clear()
    sent = form_of(page.text) | {"new_id": "copy", "json": "1"}
    done = await client.post(f"/act/{name}", params=query, data=sent, headers=ORIGIN)
    assert done.status_code in (303, 422), done.text  # a failed thread has no run to cancel
    assert len(asked) == len(set(asked))
    assert (ACTS[name].right, query.get("id")) in asked
    asked.clear()
    assert (await client.get("/thread", params={"id": "q"})).status_code == 200
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize("name", sorted(ACTS))
async def test_every_action_is_refused_where_the_dashboard_is_read_only(
    opened: Opened, durable: Durable, name: str
) -> None:
    await fail(durable, "t")
    query = {"id": "t", "queue": "q", "schedule": "s", "run": "r", "question": "q"}
    client = opened(read_only=True)
    assert (await client.get(f"/act/{name}", params=query)).status_code == 403
    answer = await client.post(f"/act/{name}", params=query, headers=ORIGIN, data={})
    assert answer.status_code == 403
    assert await recorded(durable) == []


async def test_a_form_without_the_token_of_its_session_does_nothing(
    opened: Opened, durable: Durable
) -> None:
    await fail(durable, "t")
    client, other = opened(read_only=False), opened(read_only=False)
    form = form_of((await client.get("/act/delete", params={"id": "t"})).text)
    foreign = form_of((await other.get("/act/delete", params={"id": "t"})).text)
    for sent in ({"to": "x"}, {"token": ""}, {"token": "x" * 64}, foreign):
        answer = await client.post("/act/delete", params={"id": "t"}, data=sent, headers=ORIGIN)
        assert answer.status_code == 403, sent
    client.cookies.clear()
    answer = await client.post("/act/delete", params={"id": "t"}, data=form, headers=ORIGIN)
    assert answer.status_code == 403
    assert await recorded(durable) == []
    assert str((await durable.threads.get("t")).status) == "failed"


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"origin": "http://evil.example"}, 403), ({}, 403), ({"host": "evil.example"}, 400)],
)
async def test_a_form_from_another_page_or_for_another_host_does_nothing(
    opened: Opened, durable: Durable, headers: dict[str, str], status: int
) -> None:
    await fail(durable, "t")
    client = opened(read_only=False)
    form = form_of((await client.get("/act/delete", params={"id": "t"})).text)
    answer = await client.post("/act/delete", params={"id": "t"}, data=form, headers=headers)
    assert answer.status_code == status
    assert str((await durable.threads.get("t")).status) == "failed"


async def test_what_is_no_form_is_refused(opened: Opened, durable: Durable) -> None:
    await fail(durable, "t")
    client = opened(read_only=False)
    for content, kind in (
        (b"{}", "application/json"),
        (b"a=%ff", "application/x-www-form-urlencoded"),
        (b"&".join(b"a=1" for _ in range(1_000)), "application/x-www-form-urlencoded"),
        (b"a=" + b"x" * 3_000_000, "application/x-www-form-urlencoded"),
    ):
        answer = await client.post(
            "/act/delete",
            params={"id": "t"},
            content=content,
            headers=ORIGIN | {"content-type": kind},
        )
        assert answer.status_code == 422


async def test_a_get_changes_nothing(opened: Opened, durable: Durable) -> None:
    await fail(durable, "t")
    await durable.queues.pause("mail")
    before = await durable.threads.get("t")
    client = opened(read_only=False)
    for name in ACTS:
        await client.get(
            f"/act/{name}",
            params={"id": "t", "queue": "mail", "q": "status:failed", "days": "0"}
            | {"strategy": "delete", "run": before.run_id or ""},
        )
    assert await durable.threads.get("t") == before
    (queue,) = await durable.queues.list()
    assert queue.paused
    assert await recorded(durable) == []


async def test_retry_gives_a_failed_thread_to_a_worker(opened: Opened, durable: Durable) -> None:
    await fail(durable, "t")
    client = opened(read_only=False)
    page = await next_page(client, await act(client, "retry", id="t"))
    assert 'role="status"' in page
    assert "a worker begins it" in page
    thread = await durable.threads.get("t")
    assert thread.run_id is not None
    assert (await durable.runs.get(thread.run_id)).queue == "default"
    assert await recorded(durable) == [("threads.retry", "t")]
    assert 'id="flash"' not in (await client.get("/")).text  # said once


async def test_resume_runs_it_here_and_names_only_the_kind_of_its_error(
    opened: Opened, durable: Durable
) -> None:
    await fail(durable, "t")
    client = opened(read_only=False)
    page = await next_page(client, await act(client, "resume", id="t"))
    assert "it ended with ValueError" in page
    assert (await durable.threads.get("t")).attempts == 2
    assert await recorded(durable) == [("threads.resume", "t")]


async def test_fork_makes_another_thread(opened: Opened, durable: Durable) -> None:
    await fail(durable, "t")
    client = opened(read_only=False)
    answer = await act(client, "fork", {"new_id": "copy"}, id="t")
    assert "Forked" in await next_page(client, answer)
    assert (await durable.threads.get("copy")).graph == "failing"
    again = await act(client, "fork", {"new_id": "copy"}, id="t")
    assert again.status_code == 409
    assert (await durable.insights.audit()).records[0].details["refused"] == "ThreadExistsError"


async def test_a_fork_needs_its_right_on_the_new_thread_as_well(
    opened: Opened, durable: Durable
) -> None:
    await fail(durable, "ada/t")

    def authorize(request: Any, action: str, thread: str | None) -> bool:
        return thread is None or thread.startswith("ada/")

    client = opened(authorize=authorize, read_only=False)
    refused = await act(client, "fork", {"new_id": "bob/t"}, id="ada/t")
    assert refused.status_code == 403
    assert str((await durable.threads.status("bob/t")).status) == "new"
    assert (await durable.insights.audit()).records[0].details["refused"] == "Refused"
    made = await act(client, "fork", {"new_id": "ada/copy"}, id="ada/t")
    assert made.status_code == 303
    assert (await durable.threads.get("ada/copy")).graph == "failing"


async def test_cancel_ends_what_waits_in_a_queue(opened: Opened, durable: Durable) -> None:
    run = await durable.runs.create("t", "failing", {"word": ""})
    client = opened(read_only=False)
    await next_page(client, await act(client, "cancel", id="t"))
    assert str((await durable.runs.get(run.run_id)).status) == "superseded"
    refused = await act(client, "cancel", id="t")
    assert refused.status_code in (404, 422)


async def test_delete_removes_the_thread(opened: Opened, durable: Durable) -> None:
    await fail(durable, " t ")
    client = opened(read_only=False)
    assert "deleted" in await next_page(client, await act(client, "delete", id=" t "))
    assert str((await durable.threads.status(" t ")).status) == "new"


async def test_the_audit_names_who_the_application_names(opened: Opened, durable: Durable) -> None:
    await fail(durable, "t")
    client = opened(read_only=False, actor=lambda request: "ada\x1b[2J\u202e" + "x" * 300)
    await act(client, "retry", id="t")
    (record,) = (await durable.insights.audit()).records
    assert record.actor.startswith("ada\\x1b[2J\\u202e")
    assert len(record.actor) == 200
    page = (await client.get("/audit")).text
    assert "threads.retry" in page
    assert "\x1b" not in page


@pytest.mark.parametrize(
    ("name", "recorded"),
    [
        ("Ada\u00a0L", "Ada L"),
        ("\u0645\u06cc\u200c\u0646", "\u0645\u06cc\u0646"),
        ("\u200d", "unknown"),
    ],
)
async def test_any_name_of_a_person_can_be_recorded(
    opened: Opened, durable: Durable, name: str, recorded: str
) -> None:
    await fail(durable, "t")
    client = opened(read_only=False, actor=lambda request: name)
    assert (await act(client, "delete", id="t")).status_code == 303
    (record,) = (await durable.insights.audit()).records
    assert record.actor == recorded


async def test_a_run_is_retried_and_cancelled_only_as_one_of_its_thread(
    opened: Opened, durable: Durable
) -> None:
    await fail(durable, "t")
    run_id = (await durable.threads.get("t")).run_id or ""
    client = opened(read_only=False)
    other = await act(client, "retry_run", id="another", run=run_id)
    assert other.status_code == 404
    await next_page(client, await act(client, "retry_run", id="t", run=run_id))
    await next_page(client, await act(client, "cancel_run", id="t", run=run_id))
    assert [action for action, _ in await recorded(durable)] == ["runs.retry", "runs.cancel"]
    page = await client.get("/run", params={"id": run_id})
    assert page.status_code == 200
    assert "a broken word" in page.text


async def test_a_queue_is_paused_scaled_and_resumed(opened: Opened, durable: Durable) -> None:
    client = opened(read_only=False)
    await next_page(client, await act(client, "pause_queue", queue="mail"))
    await next_page(client, await act(client, "scale_queue", {"max_running": "3"}, queue="mail"))
    (queue,) = await durable.queues.list()
    assert (queue.paused, queue.max_running, queue.rate) == (True, 3, None)
    bad = await act(client, "scale_queue", {"max_running": "three"}, queue="mail")
    assert bad.status_code == 422
    await next_page(client, await act(client, "resume_queue", queue="mail"))
    (queue,) = await durable.queues.list()
    assert (queue.paused, queue.max_running) == (False, 3)


async def test_a_schedule_is_paused_resumed_triggered_and_backfilled(
    opened: Opened, durable: Durable
) -> None:
    schedules = durable.schedules
    await schedules.create("s", "failing", {"word": ""}, cron="0 * * * *")
    client = opened(read_only=False)
    await next_page(client, await act(client, "pause_schedule", {"note": "<b>why"}, schedule="s"))
    assert (await schedules.get("s")).note == "<b>why"
    page = (await client.get("/schedules")).text
    assert "At the start of every hour" in page or "hour" in page
    assert "<b>why" not in page
    await next_page(client, await act(client, "resume_schedule", schedule="s"))
    assert not (await schedules.get("s")).paused
    await next_page(client, await act(client, "trigger_schedule", schedule="s"))
    assert len((await durable.runs.list(schedule_id="s")).runs) == 1
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    span = {"start": (now - timedelta(hours=3)).isoformat(), "end": now.isoformat()}
    shown = await client.get("/act/backfill_schedule", params={"schedule": "s", **span})
    assert "4 slots" in shown.text
    assert len((await durable.runs.list(schedule_id="s")).runs) == 1
    done = await act(client, "backfill_schedule", schedule="s", **span)
    assert "4 were accepted" in await next_page(client, done)
    assert len((await durable.runs.list(schedule_id="s")).runs) == 5


async def test_a_prune_is_counted_before_it_is_done(opened: Opened, durable: Durable) -> None:
    healed = failing(heal=[True])
    async with durable.run("t", healed) as run:
        await run.ainvoke({"word": ""})
    client = opened(read_only=False)
    page = await client.get("/act/prune", params={"days": "0", "strategy": "delete"})
    assert "Not written to since" in page.text
    assert str((await durable.threads.get("t")).status) == "complete"
    action = page.text.partition('method="post" action="')[2].partition('"')[0]
    answer = await client.post(
        action.replace("&amp;", "&"), data=form_of(page.text), headers=ORIGIN
    )
    await next_page(client, answer)
    assert str((await durable.threads.status("t")).status) == "new"
    elsewhere = {"days": "0", "strategy": "delete", "before": "2026-01-01T12:00:00-12:00"}
    assert "2026-01-02 00:00:00 UTC" in (await client.get("/act/prune", params=elsewhere)).text
    for days in ("x", "nan", "-1", "1e999"):
        bad = await client.get("/act/prune", params={"days": days, "strategy": "delete"})
        assert bad.status_code == 422


async def test_every_page_of_operations_opens_and_refuses_as_the_others(
    opened: Opened, durable: Durable
) -> None:
    await fail(durable, "t")
    await ask(durable, "q")
    await durable.runs.create("w", "failing", {"word": ""}, queue="mail")
    await durable.schedules.create("s", "failing", {"word": ""}, every=timedelta(hours=1))
    pages = [
        "runs",
        "questions",
        "quarantine",
        "queues",
        "schedules",
        "workers",
        "database",
        "audit",
    ]
    for page in pages:
        for read_only in (True, False):
            found = await opened(read_only=read_only).get(f"/{page}")
            assert found.status_code == 200, (page, found.text[-3_000:])
            assert ("/act/" in found.text) <= (not read_only), page
        refused = await opened(authorize=lambda *_: False).get(f"/{page}")
        assert refused.status_code == 403
    for query in ("/runs?status=x", "/runs?older=x", "/audit?before=x"):
        found = await opened(authorize=everything).get(query)
        assert found.status_code in (200, 422)
