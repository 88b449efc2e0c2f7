"""LangGraph's functional API: tasks that finished are not run again, whatever happened in between.

Run it: python examples/functional_api.py
"""

import asyncio
from collections import Counter
from uuid import uuid4

from database import database
from langgraph.func import entrypoint, task

from aiodurable import Durable

calls: Counter[str] = Counter()


@task
async def fetch(city: str) -> int:
    calls[city] += 1
    return len(city)


@task
async def publish(total: int) -> str:
    calls["publish"] += 1
    if calls["publish"] == 1:
        raise ConnectionError("the printer is out of paper")
    return f"published {total}"


@entrypoint()
async def digest(cities: list[str]) -> str:
    sizes = await asyncio.gather(*(fetch(city) for city in cities))
    return await publish(sum(sizes))


async def main() -> None:
    async with database() as dsn, Durable(dsn, graphs={"digest": digest}) as durable:
        thread_id = f"digest-{uuid4()}"
        try:
            async with durable.run(thread_id, "digest") as run:
                await run.ainvoke(["Rome", "Oslo", "Lima"])
        except ConnectionError as error:
            print("failed:", error)
        print("status:", (await durable.threads.status(thread_id)).status)

        async with durable.run(thread_id, "digest") as run:
            print("resumed:", await run.ainvoke())
        print("calls:", dict(calls))  # each city once, publish twice


if __name__ == "__main__":
    asyncio.run(main())
