"""A process of the demo: `python -m examples.demo.worker`.

It reads its job from the first line of stdin (JSON) and writes to stdout what happens (`log`). Each
further line of stdin allows it some more steps; taking the thread counts as one. When stdin ends,
its parent is gone, and it stops.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from typing import TypeVar

from aiodurable.durable import Durable
from aiodurable.events import AttemptEnded, AttemptStarted, Event, inline
from examples.demo.job import Job
from examples.demo.log import Entry
from examples.demo.workflow import NAME, report_workflow

__all__: list[str] = []

T = TypeVar("T")


def _say(entry: Entry) -> None:
    # One write of less than PIPE_BUF bytes is whole or not there, also when the process is killed
    # at this moment.
    os.write(sys.stdout.fileno(), entry.line())


def _say_event(event: Event) -> None:
    match event:
        case AttemptStarted():
            details = {"run_id": event.run_id, "attempt": event.attempt, "resumed": event.resumed}
            _say(Entry("started", details=details))
        case AttemptEnded():
            _say(Entry("finished", details={"status": event.status}))
        case _:
            pass


class _Leave:
    """How many steps may begin: fed by the lines of stdin.

    Steps at a time are counted here, not by LangGraph's `max_concurrency`: its executor counts the
    writes of finished tasks with the tasks, so they would wait behind all the sections that have
    not begun (langgraph/pregel/_executor.py).
    """

    def __init__(self, at_once: int) -> None:
        self._steps = asyncio.Semaphore(0)
        self._places = asyncio.Semaphore(at_once)

    async def feed(self, lines: asyncio.StreamReader) -> None:
        """Until stdin ends."""
        while line := await lines.readline():
            for _ in range(int(line)):
                self._steps.release()

    async def taken(self) -> None:
        """Wait until one more may begin."""
        await self._steps.acquire()

    async def step(self, name: str, work: Callable[[], T]) -> T:
        """Do the work of a step (see `workflow.Step`)."""
        async with self._places:
            _say(Entry("began", name))
            await self.taken()
            done = await asyncio.to_thread(work)
            _say(Entry("ended", name))
            return done


async def _run(job: Job, leave: _Leave) -> None:
    graphs = {NAME: report_workflow(leave.step)}
    async with Durable(job["dsn"], graphs=graphs, observers=(inline(_say_event),)) as durable:
        _say(Entry("ready"))
        await leave.taken()
        _say(Entry("waiting"))
        timeout_s = job["timeout_s"] if job["on_busy"] == "wait" else None
        async with durable.run(
            job["thread_id"], NAME, on_busy=job["on_busy"], timeout=timeout_s
        ) as run:
            await run.ainvoke({"paths": job["paths"], "output": job["output"]})


async def _main() -> int:
    lines = asyncio.StreamReader(limit=1 << 24)  # a job names all its documents
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    job: Job = json.loads(await lines.readline())
    leave = _Leave(job["at_once"])
    feeding = asyncio.create_task(leave.feed(lines), name="stdin")
    running = asyncio.create_task(_run(job, leave), name="workflow")
    try:
        await asyncio.wait((feeding, running), return_when=asyncio.FIRST_COMPLETED)
    finally:
        feeding.cancel()
        running.cancel()  # no effect on one that is done
        results = await asyncio.gather(feeding, running, return_exceptions=True)
    if isinstance(results[1], Exception):
        raise results[1]
    return 0 if results[1] is None else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
