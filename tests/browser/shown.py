"""A database with threads of every kind, as a service that writes reports would have them."""

from __future__ import annotations

import asyncio
import json
import math
import operator
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any, Literal, Required, TypedDict

import psycopg
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt
from pydantic import BaseModel

from aiodurable import Durable, sleep

__all__ = ["GRAPHS", "fill"]


class Length(BaseModel):
    """What an answer has to be: the inbox makes a form of it."""

    words: int
    style: Literal["plain", "ornate"]


class Report(TypedDict, total=False):
    topic: Required[str]
    sources: Annotated[list[str], operator.add]
    text: Required[str]
    words: int
    pause: float
    breaks: str


def research() -> Any:
    async def search(state: Report) -> Any:
        await asyncio.sleep(state.get("pause", 0))
        return {"sources": [f"archive of {state['topic']}", "survey 2026"]}

    async def rank(state: Report) -> Any:
        if state.get("breaks") == "rank":
            raise TimeoutError(f"the ranking service gave no answer about {state['topic']}")
        return {"words": len(state.get("sources", []))}

    builder = StateGraph(Report)
    builder.add_node("search", search)
    builder.add_node("rank", rank)
    builder.add_edge(START, "search")
    builder.add_edge("search", "rank")
    return builder.compile()


def report() -> StateGraph[Any, Any, Any, Any]:
    async def plan(state: Report) -> Any:
        await asyncio.sleep(state.get("pause", 0))
        return {"text": f"# {state['topic']}"}

    async def write(state: Report) -> Any:
        await asyncio.sleep(state.get("pause", 0))
        if state.get("breaks") == "write":
            raise ValueError(f"no words about {state['topic']!r}")
        return {"text": f"# {state['topic']}\n\nAll about {state['topic']}.", "words": 4}

    async def review(state: Report) -> Any:
        if state.get("breaks") == "ask":
            interrupt({"question": f"Publish the report about {state['topic']}?"})
        if state.get("breaks") == "form":
            interrupt("Which length?", response_schema=Length)
        return {"words": 5}

    async def wait(state: Report) -> Any:
        if state.get("breaks") == "sleep":
            await sleep(8 * 3600)
        return {}

    async def publish(state: Report) -> Any:
        await asyncio.sleep(state.get("pause", 0))
        return {"text": state["text"] + "\n\nPublished."}

    builder = StateGraph(Report)
    for name, node in (
        ("plan", plan),
        ("research", research()),
        ("write", write),
        ("review", review),
        ("wait", wait),
        ("publish", publish),
    ):
        builder.add_node(name, node)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "research")
    builder.add_edge("research", "write")
    builder.add_edge("write", "review")
    builder.add_conditional_edges(
        "review",
        lambda state: "short" if state.get("words", 0) < 3 else "ready",
        {"short": "write", "ready": "wait"},
    )
    builder.add_edge("wait", "publish")
    builder.add_edge("publish", END)
    return builder


GRAPHS: dict[str, Any] = {"report": report()}
TOPICS = ("tides", "moons", "glaciers", "reefs", "storms", "deltas", "dunes", "springs")


async def fill(durable: Durable, dsn: str) -> None:
    """Threads of many statuses, schedules, records of what people did, and samples of a day;
    `durable` has `GRAPHS`.
    """
    await asyncio.to_thread(_samples, dsn)
    quarantined = await _work(durable)
    await _act(durable, quarantined)

    async def run(thread_id: str, **state: Any) -> None:
        async with durable.run(thread_id, "report") as running:
            with suppress(TimeoutError, ValueError):
                await running.ainvoke({"topic": thread_id.partition("/")[2], **state})

    for month in ("2026-09", "2026-10", "2026-11"):
        for topic in TOPICS:
            await run(f"{month}/{topic}", pause=0.002)
    await run("2026-12/tides", breaks="rank", pause=0.02)
    await run("2026-12/tides")
    await run("2026-12/reefs", breaks="write")
    await run("2026-12/moons", breaks="ask", pause=0.01)
    await run("2026-12/dunes", breaks="ask")
    await run("2026-12/storms", breaks="sleep")
    for topic in ("glaciers", "deltas", "springs"):
        await durable.runs.create(f"2026-12/{topic}", "report", {"topic": topic})
    await durable.runs.create(
        "2027-01/tides", "report", {"topic": "tides"}, after=timedelta(hours=3)
    )


async def _work(durable: Durable) -> str:
    """What a worker has done: a run of a schedule, and one that failed too often, whose run_id is
    returned.
    """
    await durable.schedules.create(
        "weekday-briefing", "report", {"topic": "storms"}, cron="30 6 * * 1-5",
        time_zone="Europe/Berlin", thread_id="briefing",
    )  # fmt: skip
    await durable.schedules.create(
        "reef-survey", "report", {"topic": "reefs"}, every=timedelta(hours=6), pause_on_failure=3
    )
    await durable.schedules.create(
        "monthly-atlas", "report", {"topic": "deltas"}, cron="0 4 1 * *", thread_id="atlas"
    )
    await durable.schedules.pause("monthly-atlas", note="the archive moves until Friday (ada)")
    accepted = [await durable.schedules.trigger("weekday-briefing")]
    accepted += [
        await durable.runs.create(
            "2026-12/quakes",
            "report",
            {"topic": "quakes", "breaks": "write"},
            max_attempts=1,
        )
    ]
    async with durable.work():
        for run in accepted:
            await durable.runs.wait_first([run.run_id], timeout=60)
    return accepted[-1].run_id


async def _act(durable: Durable, quarantined: str) -> None:
    """What people have done, as the dashboard records it."""
    ada, ben = "dashboard:ada@ops-1", "dashboard:ben@laptop"
    record = durable.insights.record
    await record(ada, "queues.pause", details={"queue": "default"})
    await record(ada, "queues.resume", details={"queue": "default"})
    await record(ben, "threads.retry_many", details={"search": "status:failed", "threads": 2})
    for thread in ("2026-11/storms", "2026-11/dunes"):
        await record(ben, "threads.retry", thread_id=thread, details={"bulk": True})
    await record(ben, "schedules.pause", details={"schedule": "monthly-atlas"})
    refused = await record(ada, "runs.retry", run_id=quarantined)
    await record(
        ada, "runs.retry", run_id=quarantined, details={"refused": "ThreadCompleteError", "of_record": refused.id}
    )  # fmt: skip
    await record("cli:ada@ops-1", "threads.cancel", thread_id="2026-10/dunes")


def _samples(dsn: str) -> None:
    """A day as workers would have written it, with a bad hour."""
    rows = list[tuple[Any, ...]]()
    for index in range(288):
        wave = math.sin(index / 23) + 1
        bad = 1 if 150 < index < 165 else 0
        statuses = {
            "running": 6 + round(5 * wave),
            "queued": 3 + round(9 * wave) + 25 * bad,
            "failed": 1 + index // 90 + 14 * bad,
            "interrupted": 2 + index // 120,
            "complete": 1000 + 11 * index,
        }
        ended = {"complete": 40 + round(30 * wave) - 30 * bad, "failed": 1 + 18 * bad}
        minutes = 5 * (287 - index)
        rows.append((minutes, minutes, json.dumps(statuses), json.dumps(ended)))
    with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO aiodurable_status_history (at, taken_at, by_status, estimated, queued,"
            " ended, ended_s) VALUES (date_bin('5 min', now(), 'epoch') - make_interval(mins => %s),"
            " now() - make_interval(mins => %s), %s, '{}', '{}', %s, 300)",
            rows,
        )
