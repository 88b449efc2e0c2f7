"""A worker: executes accepted runs, tries again what fails, goes on with what other processes left,
and removes what is old, until it has to stop (Ctrl-C or SIGTERM).

Any number of workers may do this on one database; `aiodurable worker worker:graphs` does the same.
"""

import asyncio
from datetime import timedelta
from typing import TypedDict

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import Durable, RetryPolicy, RunRecord

troubles = {"mail server down"}


class Order(TypedDict):
    number: int
    sent: bool


async def send_mail(state: Order) -> dict[str, bool]:
    if "mail server down" in troubles:
        raise ConnectionError(f"no mail for order {state['number']}: the mail server is down")
    return {"sent": True}


graphs = {"order": StateGraph(Order).add_node(send_mail).add_edge(START, "send_mail")}


async def failed_once(durable: Durable, run_id: str) -> RunRecord:
    while True:
        run = await durable.runs.get(run_id)
        if run.error is not None:
            return run
        await asyncio.sleep(0.05)


async def take_orders(durable: Durable) -> None:
    """What a web server would do: accept, and answer 202."""
    orders = [
        await durable.runs.create(f"order-{number}", "order", {"number": number})
        for number in range(1, 4)
    ]
    for order in orders:  # a bad day: all of them fail at first, and wait to be tried again
        run = await failed_once(durable, order.run_id)
        print(f"{run.thread_id}: {run.error}, again at {run.scheduled_at:%H:%M:%S}", flush=True)
    troubles.clear()
    for order in orders:
        print(f"{order.thread_id}: now {await durable.runs.wait(order.run_id)}", flush=True)


async def main() -> None:
    policy = RetryPolicy(max_attempts=5, initial_s=2.0)
    async with (
        database() as dsn,
        Durable(dsn, graphs=graphs) as durable,
        durable.work(concurrency=10, retry_policy=policy) as worker,
    ):
        ordering = asyncio.create_task(take_orders(durable))
        pruning = asyncio.create_task(
            durable.threads.prune_every(timedelta(hours=6), older_than=timedelta(days=30))
        )
        await worker.run_forever(signals=True)
        ordering.cancel()
        pruning.cancel()


if __name__ == "__main__":
    asyncio.run(main())
