"""A process whose run cannot stop in time: `frozen_process.py DSN GO blocked|stopped`.

It runs thread "t" up to "weigh", says "reached", and there waits for the file GO: blocking its
event loop, or ready to be stopped by SIGSTOP. Then it goes on to write, and says in the end what
came of it.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable, LeaseLostError
from tests.support import loops
from tests.support.graphs import four_nodes
from tests.support.lock_holder import SHORT


async def main(dsn: str, go: str, how: str) -> None:
    async def before_step(step: str) -> None:
        if step == "weigh":
            print("reached", flush=True)
            while not Path(go).exists():
                if how == "blocked":
                    time.sleep(0.01)  # noqa: ASYNC251  # that is what it is for
                else:
                    await asyncio.sleep(0.01)

    async with Durable(dsn, settings=SHORT) as durable:
        try:
            async with durable.run("t", four_nodes(before_step)) as run:
                await run.ainvoke({"words": [], "told": ""})
        except LeaseLostError as error:
            print(f"LeaseLostError: {error}", flush=True)
        else:
            print("complete", flush=True)


loops.run(main(*sys.argv[1:]))
