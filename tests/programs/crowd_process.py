"""Another process that waits for some threads of a crowd, and finishes each that it gets:
`crowd_process.py DSN THREAD…`.

Says "waiting" once it waits for all of them, and in the end, as JSON, the state of each thread that
it finished.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable
from tests.support import loops
from tests.support.graphs import four_nodes
from tests.support.waiting import wait_until


async def main(dsn: str, *threads: str) -> None:
    async with Durable(dsn) as durable:
        graph = four_nodes()

        async def grab(thread: str) -> list[str]:
            async with durable.run(thread, graph, on_busy="wait", timeout=60) as run:
                return (await run.ainvoke({"words": [], "told": ""}))["words"]

        tasks = {thread: asyncio.create_task(grab(thread)) for thread in threads}
        await wait_until(lambda: durable.locks.health().waiting == len(threads), 60)
        print("waiting", flush=True)
        print(json.dumps({thread: await task for thread, task in tasks.items()}), flush=True)


loops.run(main(*sys.argv[1:]))
