"""A process whose node hangs: `hung_process.py DSN THREAD`. Says "hung" when it does, and at the
end what its caller got.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import AiodurableError, Durable, Settings
from tests.support.graphs import four_nodes

SELDOM = Settings(lease_ttl_s=200, lease_heartbeat_s=60, lease_safety_margin_s=60)
"""Of what it hears soon, it was notified."""


async def hang(step: str) -> None:
    if step == "weigh":
        print("hung", flush=True)
        await asyncio.Event().wait()


async def main(dsn: str, thread_id: str) -> None:
    try:
        async with (
            Durable(dsn, settings=SELDOM) as durable,
            durable.run(thread_id, four_nodes(hang)) as run,
        ):
            await run.ainvoke({"words": [], "told": ""})
    except AiodurableError as error:
        print(type(error).__name__, flush=True)


asyncio.run(main(*sys.argv[1:]))
