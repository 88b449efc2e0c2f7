"""What a page refuses is mended by one of its buttons, not by a call of Python."""

from __future__ import annotations

import asyncpg

from aiodurable import Durable, ThreadPausedError
from aiodurable.dashboard.advice import BUTTONS, with_buttons
from tests.dashboard.acting import ORIGIN, ask, asking, form_of
from tests.dashboard.conftest import Opened, everything
from tests.support.library_messages import unmended, unused


def test_each_call_that_a_message_advises_has_its_button() -> None:
    assert unmended(with_buttons) == []


def test_each_advice_that_has_a_button_is_one_of_a_message() -> None:
    assert unused(BUTTONS) == []


async def test_a_page_that_refuses_names_the_button(opened: Opened, dsn: str) -> None:
    async with Durable(dsn, graphs={"asking": asking()}) as durable:
        await ask(durable, "t")
        run_id = (await durable.threads.get("t")).run_id
    client = opened(authorize=everything, read_only=False)
    where = {"id": "t", "run": run_id}
    page = await client.get("/act/retry_run", params=where)
    answer = await client.post(
        "/act/retry_run", params=where, data=form_of(page.text), headers=ORIGIN
    )
    assert answer.status_code == 409
    assert "it waits for an answer; Answer on the thread&#39;s page gives it" in answer.text


async def test_a_page_names_the_button_in_the_librarys_error_of_a_row(
    opened: Opened, dsn: str, db: asyncpg.Connection
) -> None:
    async with Durable(dsn, graphs={"asking": asking()}) as durable:
        await ask(durable, "t")
        run_id = (await durable.threads.get("t")).run_id
    error = repr(ThreadPausedError("cannot run it; run.ainvoke() goes on"))
    await db.execute("UPDATE aiodurable_runs SET status = 'failed', error = $1", error)
    client = opened(authorize=everything)
    for path, params in (("/run", {"id": run_id}), ("/runs", {}), ("/thread", {"id": "t"})):
        page = await client.get(path, params=params)
        assert "Resume on the thread&#39;s page goes on" in page.text, path
        assert "run.ainvoke() goes on" not in page.text, path
