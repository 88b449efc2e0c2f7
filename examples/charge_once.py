"""A node runs at least once; its effect is never run twice, also where the bank knows no keys.

Run it: python examples/charge_once.py
"""

import asyncio
from typing import TypedDict
from uuid import uuid4

from database import database
from langgraph.graph import START, StateGraph

from aiodurable import NOT_DONE, Durable, NotDone, effect


class Bank:
    """Charges as often as it gets a request, and can list what it has charged for."""

    def __init__(self) -> None:
        self.charges: list[str] = []

    async def charge(self, order: str) -> str:
        self.charges.append(order)
        if len(self.charges) == 1:
            raise ConnectionResetError("the answer was lost")  # or the process dies here
        return f"receipt {len(self.charges)}"

    async def receipt_of(self, order: str) -> str | None:
        return f"receipt {self.charges.index(order) + 1}" if order in self.charges else None


bank = Bank()


class Purchase(TypedDict):
    order: str
    receipt: str


async def pay(state: Purchase) -> dict[str, str]:
    async def charge() -> str:
        return await bank.charge(state["order"])

    async def look() -> str | NotDone:
        return await bank.receipt_of(state["order"]) or NOT_DONE

    return {"receipt": await effect("charge", charge, reconcile=look)}


purchase = StateGraph(Purchase).add_node(pay).add_edge(START, "pay")


async def main() -> None:
    async with database() as dsn, Durable(dsn, graphs={"purchase": purchase}) as durable:
        thread_id = f"purchase-{uuid4()}"
        try:
            async with durable.run(thread_id, "purchase") as run:
                await run.ainvoke({"order": "tea"})
        except ConnectionResetError as error:
            print("failed:", error)
        result = await durable.threads.resume(thread_id)
        print(f"{result['receipt']}: {len(bank.charges)} charge")


if __name__ == "__main__":
    asyncio.run(main())
