"""A workflow asks a person, its process ends, and another process takes the answer days later.

Run it: python examples/human_in_the_loop.py
"""

import asyncio
from typing import TypedDict
from uuid import uuid4

from database import database
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from aiodurable import Durable, ThreadInterruptedError, ThreadStatus


class Payment(TypedDict):
    to: str
    amount: int
    outcome: str


async def check(state: Payment) -> dict[str, str]:
    return {"outcome": "checked" if state["amount"] < 100 else "suspicious"}


async def approve(state: Payment) -> dict[str, str]:
    answer = interrupt(f"Pay {state['amount']} to {state['to']}?")
    return {"outcome": "approved" if answer == "yes" else "refused"}


async def settle(state: Payment) -> dict[str, str]:
    return {"outcome": "paid" if state["outcome"] == "approved" else "not paid"}


graphs = {
    "payment": StateGraph(Payment).add_sequence([check, approve, settle]).add_edge(START, "check")
}


async def ask(dsn: str, thread_id: str) -> None:
    async with Durable(dsn, graphs=graphs) as durable:
        async with durable.run(thread_id, "payment") as run:
            await run.ainvoke({"to": "the baker", "amount": 12})
            print("asked:", run.checkpoint.interrupts[0].value)
        try:  # without an answer nothing moves: neither by mistake nor by an eager worker
            await durable.threads.resume(thread_id)
        except ThreadInterruptedError as waiting:
            print("refused:", waiting)


async def answer(dsn: str, value: str) -> None:
    async with Durable(dsn, graphs=graphs) as durable:
        async for thread in durable.threads.resumable(
            status=ThreadStatus.INTERRUPTED, graph="payment"
        ):
            async with durable.run(thread.thread_id, "payment") as run:
                result = await run.answer(value)
                print("answered:", thread.interrupts[0].value, "->", result["outcome"])


async def main() -> None:
    async with database() as dsn:
        await ask(dsn, f"payment-{uuid4()}")
        await answer(dsn, "yes")


if __name__ == "__main__":
    asyncio.run(main())
