"""A schedule: a report at its times, one that is triggered by hand, and those of last week.

Any worker fires it; there is no scheduler to start. Call `create` whenever the app starts: the
same definition is the same schedule.
"""

import asyncio
from datetime import timedelta
from typing import TypedDict

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import Durable


class Report(TypedDict):
    region: str
    text: str


async def write(state: Report) -> dict[str, str]:
    return {"text": f"all is well in the {state['region']}"}


graphs = {"report": StateGraph(Report).add_node(write).add_edge(START, "write")}


async def fired_twice(durable: Durable, schedule_id: str) -> None:
    while True:
        if (await durable.schedules.get(schedule_id)).fired >= 2:
            return
        await asyncio.sleep(0.2)


async def main() -> None:
    async with database() as dsn, Durable(dsn, graphs=graphs) as durable, durable.work():
        schedules = durable.schedules
        nightly = await schedules.create(
            "nightly",
            "report",
            {"region": "north"},
            cron="30 2 * * *",
            time_zone="Europe/Berlin",
            pause_on_failure=3,
        )
        [slot] = await schedules.next_times("nightly", 1)
        print(f"nightly: next at {slot:%H:%M} in {nightly.time_zone}", flush=True)

        now = await schedules.trigger("nightly")
        print(f"triggered: {(await durable.runs.wait(now.run_id))['text']}", flush=True)

        end = now.created_at
        missed = await schedules.backfill("nightly", end - timedelta(days=7), end)
        for one in missed:
            await durable.runs.wait(one.run_id)
        print(f"backfilled: {len(missed)} nights", flush=True)

        await schedules.create("often", "report", {"region": "south"}, every=1)
        await fired_twice(durable, "often")
        print("often: 2 slots have fired", flush=True)
        await schedules.pause("often", note="enough for an example")


if __name__ == "__main__":
    asyncio.run(main())
