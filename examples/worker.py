"""A worker that finishes what others left unfinished and removes what is old, until it is told to stop (Ctrl-C or SIGTERM).

    python examples/worker.py

Any number of workers may do this on one database: what one of them holds is refused to the others, and one prunes.
"""

import asyncio
import contextlib
import signal
from datetime import timedelta
from typing import TypedDict

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import UNFINISHED, Durable, WorkflowAlreadyRunningError, find_failed_workflows, resume_workflow

MOST_ATTEMPTS = 5
KEPT = timedelta(days=30)
troubles = {"mail server down"}


class Order(TypedDict):
    number: int
    box: str
    sent: bool


async def pack(state: Order) -> dict[str, str]:
    return {"box": f"B{state['number']}"}


async def send_mail(state: Order) -> dict[str, bool]:
    if "mail server down" in troubles:
        raise ConnectionError(f"no mail for box {state['box']}: the mail server is down")
    return {"sent": True}


order = StateGraph(Order).add_sequence([pack, send_mail]).add_edge(START, "pack")


async def work(stop: asyncio.Event, *, pause: timedelta = timedelta(seconds=1)) -> None:
    """Resume what nobody has touched for `pause`; look again every `pause`."""
    while not stop.is_set():
        async for thread in find_failed_workflows(status=UNFINISHED, older_than=pause):
            if stop.is_set() or thread.attempts >= MOST_ATTEMPTS:
                continue
            try:
                result = await resume_workflow(thread.thread_id)
                print(f"{thread.thread_id}: was {thread.status} ({thread.error}), now {result}", flush=True)
            except WorkflowAlreadyRunningError as busy:
                print(f"{thread.thread_id}: {busy.holder} is at it", flush=True)
            except Exception as error:  # a node's own: it is recorded, and tried again at the next look
                print(f"{thread.thread_id}: failed again: {error!r}", flush=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause.total_seconds())


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with database() as dsn, Durable(dsn, graphs={"order": order}) as durable:
        for number in range(1, 4):  # a bad day: three orders are accepted and fail
            try:
                async with durable.run("order", f"order-{number}") as run:
                    await run.ainvoke({"number": number})
            except ConnectionError as error:
                print(f"order-{number}: {error}", flush=True)
        troubles.clear()
        async with asyncio.TaskGroup() as tasks:
            pruning = tasks.create_task(durable.prune_every(timedelta(hours=6), older_than=KEPT))
            await work(stop)
            pruning.cancel()


if __name__ == "__main__":
    asyncio.run(main())
