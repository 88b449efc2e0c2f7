"""Real processes that run or resume a thread and may be killed at the n-th checkpoint write.

This program imports once and forks one process a job, before any event loop or thread exists in it: jobs come as JSON
lines on stdin, `{"dsn", "thread", "shape", "log", "death": ["before" | "after", n] | null}`, and each is answered with
one line on stdout, `{"code": exit code or -signal, "result": what the graph returned}`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from aiodurable import Durable, DurableSaver, ThreadStatus
from workflows import asking, fan_out, four_nodes, four_tasks, nested

SHAPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "linear": (four_nodes, {"words": ["once"], "told": ""}),
    "functional": (four_tasks, {"words": ["once"], "told": ""}),
    "subgraph": (nested, {"words": ["once"], "told": ""}),
    "fan-out": (fan_out, {"parts": [], "total": 0}),
    "interrupt": (asking, {"words": ["once"], "told": ""}),
}


def die_at(when: str, nth: int) -> None:
    """Kill this process with SIGKILL before its n-th write is sent, or after it is acknowledged, counted from 1."""
    count = 0

    def counted(original: Any) -> Any:
        @functools.wraps(original)  # LangGraph looks at the signature before it passes task_path
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


async def work(job: dict[str, Any]) -> Any:
    """Start or resume the thread, whichever it takes: a second process is given the very same arguments."""
    build, start = SHAPES[job["shape"]]
    config: Any = {"configurable": {"log": job["log"]}}
    thread: str = job["thread"]
    async with (
        Durable(job["dsn"]) as durable,
        durable.run(build(), thread, run_id=f"{thread}-run", on_busy="wait", timeout=30, config=config) as run,
    ):
        answer = run.status is ThreadStatus.INTERRUPTED
        result = await run.resume("upon") if answer else await run.ainvoke(start)
        return await run.resume("upon") if "__interrupt__" in result else result


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            if job["death"]:
                die_at(*job["death"])
            os.write(writer, json.dumps(asyncio.run(work(job))).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            result = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps({"code": code, "result": json.loads(result) if result else None}), flush=True)


if __name__ == "__main__":
    main()
