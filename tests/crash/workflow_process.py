"""A real process that runs or resumes one thread, and may kill itself at the n-th checkpoint write.

python workflow_process.py DSN THREAD SHAPE LOG [before|after N]
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from aiodurable.checkpoints import DurableSaver
from aiodurable.durable import Durable
from workflows import asking, fan_out, four_nodes, four_tasks, nested

SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (four_nodes, {"words": ["once"], "told": ""}),
    "functional": (four_tasks, {"words": ["once"], "told": ""}),
    "subgraph": (nested, {"words": ["once"], "told": ""}),
    "fan-out": (fan_out, {"parts": [], "total": 0}),
    "interrupt": (asking, {"words": ["once"], "told": ""}),
}


def die_at(when: str, nth: int) -> None:
    """Kill this process with SIGKILL before or after its n-th write, counted from 1, is acknowledged."""
    count = 0

    def counted(original: Any) -> Any:
        async def write(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            mine = count
            if when == "before" and mine == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            result = await original(*args, **kwargs)
            if when == "after" and mine == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return write

    DurableSaver.aput = counted(DurableSaver.aput)
    DurableSaver.aput_writes = counted(DurableSaver.aput_writes)


async def main(dsn: str, thread_id: str, shape: str, log: str, *death: str) -> None:
    if death:
        die_at(death[0], int(death[1]))
    build, start = SHAPES[shape]
    config: Any = {"configurable": {"log": log}}
    async with Durable(dsn) as durable, durable.run(build(), thread_id, on_busy="wait", timeout=30, config=config) as run:
        # Twice with the same arguments: the first process starts the thread, a second one resumes it.
        result = await run.resume("upon") if run.status == "interrupted" else await run.ainvoke(start)
        if "__interrupt__" in result:
            result = await run.resume("upon")
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
