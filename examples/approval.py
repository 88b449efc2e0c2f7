"""An expense waits days for an approval, in no process: the run that waits holds nothing.

Run it: python examples/approval.py. In an app the worker is a process of its own, and a manager
answers from anywhere: aiodurable threads signal expense-1 approval '{"by": "Ada", "ok": true}'
"""

import asyncio
from typing import Any, TypedDict
from uuid import uuid4

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import Durable, ThreadStatus, WaitTimeoutError, wait_for

DAY_S = 86400.0


class Expense(TypedDict):
    amount: int
    patience_s: float
    outcome: str


async def approve(state: Expense) -> dict[str, str]:
    try:
        approval = await wait_for("approval", timeout=state["patience_s"])
    except WaitTimeoutError:
        return {"outcome": "refused, as nobody answered"}
    return {"outcome": f"{'approved' if approval['ok'] else 'refused'} by {approval['by']}"}


async def pay(state: Expense) -> dict[str, str]:
    paid = state["amount"] if state["outcome"].startswith("approved") else 0
    return {"outcome": f"{state['outcome']}: paid {paid}"}


graphs = {"expense": StateGraph(Expense).add_sequence([approve, pay]).add_edge(START, "approve")}


async def hand_in(durable: Durable, amount: int, patience_s: float) -> Any:
    expense = {"amount": amount, "patience_s": patience_s}
    return await durable.runs.create(f"expense-{uuid4()}", "expense", expense)


async def until_it_waits(durable: Durable, thread_id: str) -> None:
    while True:
        thread = await durable.threads.status(thread_id)
        if thread.status is ThreadStatus.PAUSED:
            print(f"{thread.reason} for {thread.waits[0].name}", flush=True)
            return
        await asyncio.sleep(0.05)


async def main() -> None:
    async with database() as dsn:
        async with Durable(dsn, graphs=graphs) as durable, durable.work():
            asked = await hand_in(durable, 120, 7 * DAY_S)
            forgotten = await hand_in(durable, 900, 0.5)
            await until_it_waits(durable, asked.thread_id)
            result = await durable.runs.wait(forgotten.run_id, timeout=60)
            print(result["outcome"], flush=True)
        # days may pass: no process has to live meanwhile
        async with Durable(dsn, graphs=graphs) as durable, durable.work():
            approval = {"by": "Ada", "ok": True}
            for _ in range(2):  # a form that is sent twice is one approval
                new = await durable.threads.signal(
                    asked.thread_id, "approval", approval, signal_id="form-1"
                )
                print(f"answered: {new}", flush=True)
            result = await durable.runs.wait(asked.run_id, timeout=60)
            print(result["outcome"], flush=True)


if __name__ == "__main__":
    asyncio.run(main())
