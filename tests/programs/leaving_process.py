"""A process that leaves in the middle of a run, without closing its `Durable`: `leaving_process.py
DSN return|exit|raise`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable
from tests.support import loops
from tests.support.graphs import Gate, four_nodes


async def main(dsn: str, how: str) -> None:
    durable, gate = Durable(dsn), Gate("weigh")
    await durable.open()

    async def body() -> None:
        async with durable.run("t", four_nodes(gate)) as run:
            await run.ainvoke({"words": [], "told": ""})

    running = asyncio.create_task(body())
    await gate.reached.wait()
    print("reached", flush=True)
    if how == "exit":
        sys.exit(3)
    if how == "raise":
        raise ZeroDivisionError
    assert not running.done()


loops.run(main(*sys.argv[1:]))
