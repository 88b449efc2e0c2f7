"""Accept runs, have a worker execute them, and wait for their results.

Run it: python examples/accept_runs.py
"""

import asyncio
from typing import TypedDict
from uuid import uuid4

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import Durable, NewRun


class Report(TypedDict):
    topic: str
    text: str


async def write(state: Report) -> dict[str, str]:
    return {"text": f"All about {state['topic']}"}


graphs = {"report": StateGraph(Report).add_node(write).add_edge(START, "write")}


async def main() -> None:
    day = uuid4()
    async with database() as dsn, Durable(dsn, graphs=graphs) as durable:
        urgent = await durable.runs.create(
            f"{day}/tides", "report", {"topic": "tides"}, priority=10, run_id=f"{day}/tides"
        )
        again = await durable.runs.create(
            f"{day}/tides", "report", {"topic": "tides"}, priority=10, run_id=f"{day}/tides"
        )
        print(f"accepted: {urgent.status}; a second delivery made no run: {urgent == again}")
        others = await durable.runs.create_many(
            NewRun(thread_id=f"{day}/{topic}", graph="report", input={"topic": topic})
            for topic in ("moons", "stars")
        )
        async with durable.work(concurrency=2):  # in an app: a process of its own
            for run in (urgent, *others):
                result = await durable.runs.wait(run.run_id, timeout=60)
                print(f"finished: {result['text']}")


if __name__ == "__main__":
    asyncio.run(main())
