"""A node runs at least once; a side effect with an idempotency key happens once.

Run it: python examples/charge_once.py
"""

import asyncio
from typing import TypedDict
from uuid import uuid4

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import Durable, idempotency_key


class Bank:
    """Like every payment service: a key it has seen gets the first answer again."""

    def __init__(self) -> None:
        self.requests = 0
        self.charges: dict[str, int] = {}

    async def charge(self, key: str, amount: int) -> str:
        self.requests += 1
        self.charges.setdefault(key, amount)
        return f"receipt {key[:8]}"


bank = Bank()


class Purchase(TypedDict):
    amount: int
    receipt: str


async def charge(state: Purchase) -> dict[str, str]:
    receipt = await bank.charge(idempotency_key(), state["amount"])
    if bank.requests == 1:
        raise ConnectionResetError("the answer was lost on its way")  # or the process dies here
    return {"receipt": receipt}


purchase = StateGraph(Purchase).add_node(charge).add_edge(START, "charge")


async def main() -> None:
    async with database() as dsn, Durable(dsn, graphs={"purchase": purchase}) as durable:
        thread_id = f"purchase-{uuid4()}"
        try:
            async with durable.run(thread_id, "purchase") as run:
                await run.ainvoke({"amount": 30})
        except ConnectionResetError as error:
            print("failed:", error)
        result = await durable.threads.resume(thread_id)
        print(f"{result['receipt']}: {bank.requests} requests, {len(bank.charges)} charge")


if __name__ == "__main__":
    asyncio.run(main())
