"""A process that is frozen around a side effect: `frozen_effect_process.py DSN LOG GO begin|finish`.

It runs thread "t" and says "reached" before its effect begins, or after the side effect and before
that is recorded. There it waits for the file GO, ready for SIGSTOP; then it goes on, and says in
the end what came of it.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable, LeaseLostError
from tests.support import loops
from tests.support.effect_graphs import one_payment
from tests.support.lock_holder import SHORT


async def main(dsn: str, log: str, go: str, moment: str) -> None:
    async def at(place: str) -> None:
        if place == moment:
            print("reached", flush=True)
            while not Path(go).exists():  # noqa: ASYNC110  # another process makes it
                await asyncio.sleep(0.01)

    config = {"configurable": {"log": log}}
    async with Durable(dsn, settings=SHORT) as durable:
        try:
            async with durable.run("t", one_payment(at)) as run:
                await run.ainvoke({"words": [], "told": ""}, config)
        except LeaseLostError as error:
            print(f"LeaseLostError: {error}", flush=True)
        else:
            print("complete", flush=True)


loops.run(main(*sys.argv[1:]))
