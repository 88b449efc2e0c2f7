"""A worker that finishes what others left unfinished and removes what is old, until it has to stop
(Ctrl-C or SIGTERM).

Any number of workers may do this on one database: what one of them holds is refused to the others,
and one prunes."""

import asyncio
import random
import signal
from datetime import UTC, datetime, timedelta
from typing import TypedDict

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import AiodurableError, Durable, WorkflowCheckpoint, WorkflowExecutor, needs_resume

MOST_ATTEMPTS, FIRST_WAIT, AT_ONCE = 5, timedelta(seconds=1), asyncio.Semaphore(10)
troubles = {"mail server down"}


class Order(TypedDict):
    number: int
    sent: bool


async def send_mail(state: Order) -> dict[str, bool]:
    if "mail server down" in troubles:
        raise ConnectionError(f"no mail for order {state['number']}: the mail server is down")
    return {"sent": True}


order = StateGraph(Order).add_node(send_mail).add_edge(START, "send_mail")


def is_due(thread: WorkflowCheckpoint) -> bool:
    """Whether it may be tried now: 1, 2, 4… seconds after it failed, and not for ever."""
    waited = datetime.now(UTC) - (thread.failed_at or datetime.min.replace(tzinfo=UTC))
    return thread.attempts < MOST_ATTEMPTS and waited >= FIRST_WAIT * 2 ** (thread.attempts - 1)


async def resume(durable: Durable, thread_id: str) -> None:
    async with AT_ONCE:
        try:
            if await needs_resume(thread_id, durable=durable):  # else another worker was faster
                print(f"{thread_id}: now {await durable.threads.resume(thread_id)}", flush=True)
        except Exception as error:  # held by another one; or a node's own: it is recorded, and tried again when it is due
            print(f"{thread_id}: not now: {error!r}", flush=True)


async def work(durable: Durable, stop: asyncio.Event) -> None:
    """Resume what may go on without a person. A look costs a few pages of an index where there is
    nothing to do.
    """
    stopping = asyncio.create_task(stop.wait())
    while not stop.is_set():
        try:
            found = [
                thread.thread_id async for thread in durable.threads.resumable() if is_due(thread)
            ]
            random.shuffle(found)  # so that many workers do not try the same ones in the same order
            await asyncio.gather(*(resume(durable, thread_id) for thread_id in found))
        except AiodurableError as error:  # Postgres is away
            print(f"looking again: {error}", flush=True)
        await asyncio.wait([stopping], timeout=FIRST_WAIT.total_seconds())


async def main() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with database() as dsn, Durable(dsn, graphs={"order": order}) as durable:
        make = WorkflowExecutor("order", durable=durable).execute
        orders = [make(f"order-{number}", {"number": number}) for number in range(1, 4)]
        print(
            await asyncio.gather(*orders, return_exceptions=True), flush=True
        )  # a bad day: all of them fail
        troubles.clear()
        pruning = asyncio.create_task(
            durable.threads.prune_every(timedelta(hours=6), older_than=timedelta(days=30))
        )
        await work(durable, stop)
        pruning.cancel()


if __name__ == "__main__":
    asyncio.run(main())
