"""A process whose node hangs: `hung_process.py DSN THREAD`. Says "hung" when it does, and at the
end what its caller got.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import AiodurableError, Durable
from tests.support.graphs import four_nodes


async def hang(step: str) -> None:
    if step == "weigh":
        print("hung", flush=True)
        await asyncio.Event().wait()


async def main(dsn: str, thread_id: str) -> None:
    try:
        async with Durable(dsn) as durable, durable.run(thread_id, four_nodes(hang)) as run:
            await run.ainvoke({"words": [], "told": ""})
    except AiodurableError as error:
        print(type(error).__name__, flush=True)


asyncio.run(main(*sys.argv[1:]))
