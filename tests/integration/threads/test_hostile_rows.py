"""Every way to read threads, with hostile rows: it runs nothing of them, and none hides another.

`READERS` has one function per way. Each reads all threads of a database and returns what it shows,
in pieces. A new way, a page or a metric, is one more entry.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
from fastapi import FastAPI

from aiodurable.current import needs_resume
from aiodurable.dashboard import dashboard
from aiodurable.durable import Durable
from aiodurable.errors import AiodurableError, WorkflowAlreadyRunningError
from aiodurable.events import inline
from aiodurable.integrations.fastapi import add_exception_handlers
from aiodurable.jsonable import jsonable
from tests.support.hostile_rows import GRAPHS, OBEYED, fill, traces_in
from tests.support.terminal import written_to_a_terminal

LONGEST_S = 280


@dataclass(frozen=True)
class Hostile:
    """A database with rows that mean harm, the threads in it, and where a trace of a call would
    be.
    """

    dsn: str
    threads: Sequence[str]
    traces: Path


@pytest.fixture(scope="module")
def hostile(
    server: Any, template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hostile]:
    name, traces = server.create(template), tmp_path_factory.mktemp("traces")
    dsn = server.database(name)
    yield Hostile(dsn, asyncio.run(fill(dsn, traces)), traces)
    server.drop(name)


async def in_python(at: Hostile) -> list[str]:
    """Every function that reads, and a caller that is refused."""
    shown = list[str]()
    async with Durable(at.dsn, graphs=GRAPHS) as durable:
        found = [thread async for thread in durable.threads.search()]
        shown += map(repr, found)
        shown.append(repr([thread async for thread in durable.threads.resumable()]))
        shown.append(repr(await durable.threads.search_page(limit=500)))
        shown.append(repr(await durable.threads.count()))
        shown.append(repr([one async for one in durable.threads.check()]))
        for thread_id in at.threads:
            shown.append(repr(await durable.threads.status(thread_id)))
            shown.append(repr(await needs_resume(thread_id, durable=durable)))
            shown.append(repr([step async for step in durable.threads.history(thread_id)]))
            async with durable.hold(thread_id):
                with pytest.raises(WorkflowAlreadyRunningError) as refused:
                    async with durable.run(thread_id, "asking"):
                        pass
                shown.append(str(refused.value))
    assert [thread.thread_id for thread in found] == list(at.threads)
    return shown


EACH = """
import json, sys
from aiodurable.cli.commands import cli
for arguments in json.loads(sys.argv[1]):
    try:
        cli(arguments, prog_name="aiodurable")
    except SystemExit:
        pass
    sys.stdout.flush()
"""


def commands(at: Hostile, *more: str) -> list[str]:
    """A program that runs each command: importing LangGraph takes longer than any of them."""
    each = [["threads", "list", *more], ["locks", "list"]]
    each += [["status", thread, *more] for thread in at.threads[::4]]
    each += [
        ["threads", "show", thread, "--values", *more]
        for thread in at.threads
        if "long" not in thread
    ]
    each += [["threads", "prune", "--dry-run", "--older-than", "0s"]]
    return [sys.executable, "-c", EACH, json.dumps(each)]


def environment(at: Hostile) -> dict[str, str]:
    return {
        **os.environ,
        "AIODURABLE_DSN": at.dsn,
        "TERM": "dumb",
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }


async def in_a_pipe(at: Hostile) -> list[str]:
    done = await asyncio.to_thread(
        subprocess.run,
        commands(at, "--json"),
        capture_output=True,
        env=environment(at),
        check=False,
        timeout=LONGEST_S,
    )
    lines = done.stdout.decode().splitlines()
    told = [json.loads(line, parse_constant=no_json) for line in lines if line.startswith("{")]
    ids = {(one.get("thread") or one).get("thread_id") for one in told}
    assert ids >= set(at.threads)
    return [*lines, done.stderr.decode()]


def no_json(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is no JSON")


async def at_a_terminal(at: Hostile) -> list[str]:
    written = await asyncio.to_thread(
        *(written_to_a_terminal, commands(at), environment(at)), longest_s=LONGEST_S
    )
    return [written]


async def over_http(at: Hostile) -> list[str]:
    app = FastAPI()
    add_exception_handlers(app)
    async with Durable(at.dsn, graphs=GRAPHS) as durable:

        @app.get("/threads")
        async def look(thread_id: str) -> Any:
            return jsonable(await durable.threads.status(thread_id))

        @app.post("/threads")
        async def refuse(thread_id: str) -> None:
            async with durable.hold(thread_id), durable.run(thread_id, "asking"):
                pass

        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = [
                await client.get("/threads", params={"thread_id": one}) for one in at.threads
            ]
            refused = [
                await client.post("/threads", params={"thread_id": one}) for one in at.threads
            ]
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.json()["thread_id"] for answer in answers] == list(at.threads)
    assert {answer.status_code for answer in refused} == {409}
    return [answer.text for answer in (*answers, *refused)]


async def in_the_dashboard(at: Hostile) -> list[str]:
    async with Durable(at.dsn, graphs=GRAPHS) as durable:
        app = dashboard(durable, authorize=lambda *_: True)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            lists = [await client.get(page) for page in ("/", "/threads", "/runs", "/questions")]
            pages = [await client.get("/thread", params={"id": one}) for one in at.threads]
            states = list[httpx.Response]()
            for one in at.threads:
                head = (await durable.threads.status(one)).checkpoint_id
                query = {"id": one, "checkpoint": head, "to": head}
                states += [
                    await client.get(f"/thread/{part}", params=query)
                    for part in ("state", "diff", "value")
                ]
    assert {answer.status_code for answer in (*lists, *pages)} == {200}
    assert {answer.status_code for answer in states} <= {200, 409, 422}
    # The word heads what the ledger stores of an attempt; a page that raised has status 500.
    texts = [answer.text.replace("Traceback", "") for answer in (*lists, *pages, *states)]
    return [re.sub("[\u2013\u203a\u202f]", "", text) for text in texts]  # the pages' own


async def in_logs_and_events(at: Hostile) -> list[str]:
    seen = list[str]()
    records = logging.Handler()
    records.emit = lambda record: seen.append(logging.Formatter().format(record))
    ours = logging.getLogger("aiodurable")
    ours.addHandler(records)
    level = ours.level
    ours.setLevel(logging.DEBUG)
    try:
        async with Durable(
            at.dsn, graphs=GRAPHS, observers=[inline(lambda event: seen.append(repr(event)))]
        ) as durable:
            for thread_id in at.threads:
                async with durable.hold(thread_id):
                    with suppress(AiodurableError):
                        async with durable.run(thread_id, "asking"):
                            pass
    finally:
        ours.removeHandler(records)
        ours.setLevel(level)
    assert seen
    return seen


READERS: dict[str, Callable[[Hostile], Awaitable[list[str]]]] = {
    "Python": in_python,
    "the CLI in a pipe": in_a_pipe,
    "the CLI at a terminal": at_a_terminal,
    "HTTP": over_http,
    "the dashboard": in_the_dashboard,
    "logs and events": in_logs_and_events,
}
OBEYS = ("the CLI at a terminal", "logs and events", "the dashboard")
"""Where text reaches a terminal, or a browser, as it is."""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("reader", READERS)
async def test_reading_runs_nothing_and_hides_nothing(reader: str, hostile: Hostile) -> None:
    async with asyncio.timeout(LONGEST_S):
        shown = await READERS[reader](hostile)
    assert traces_in(hostile.traces) == []
    assert [text[-500:] for text in shown if "Traceback" in text] == []
    if reader in OBEYS:
        assert {found for text in shown for found in OBEYED.findall(text)} == set()
