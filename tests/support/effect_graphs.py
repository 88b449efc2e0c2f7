"""A graph whose nodes have side effects outside of Postgres, in a file beside the run's log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, StateGraph

from aiodurable import NOT_DONE, NotDone, effect, effect_sync
from tests.support.graphs import Story, note, noted

__all__ = ["bank_of", "one_payment", "paying"]


def bank_of(log: str | Path) -> Path:
    """Where the side effects of a run are noted, one line each."""
    return Path(f"{log}.bank")


class Bank:
    """Does what it is called for each time, and can say what it has done."""

    def __init__(self, config: RunnableConfig, what: str) -> None:
        self._file = bank_of(config.get("configurable", {})["log"])
        self._what = what

    def charge(self) -> str:
        note({"configurable": {"log": str(self._file)}}, self._what)
        return f"receipt of {self._what}"

    def look(self) -> str | NotDone:
        return f"receipt of {self._what}" if self._what in noted(self._file) else NOT_DONE

    async def acharge(self) -> str:
        return self.charge()

    async def alook(self) -> str | NotDone:
        return self.look()


async def pay(state: Story, config: RunnableConfig) -> dict[str, Any]:
    note(config, "pay")
    bank = Bank(config, "pay")
    return {"words": [await effect("charge", bank.acharge, reconcile=bank.alook)]}


def mail(state: Story, config: RunnableConfig) -> dict[str, Any]:
    note(config, "mail")
    bank = Bank(config, "mail")
    return {"words": [effect_sync("send", bank.charge, reconcile=bank.look)]}


async def ship(state: Story, config: RunnableConfig) -> dict[str, Any]:
    note(config, "ship")
    bank = Bank(config, "ship")
    return {"words": [await effect("send", bank.acharge, reconcile=bank.alook)], "told": "shipped"}


def paying() -> StateGraph[Any, Any, Any, Any]:
    """pay and mail beside each other, an async and a sync node; then ship."""
    builder = StateGraph(Story).add_node(pay).add_node(mail).add_node(ship)
    builder.add_edge(START, "pay").add_edge(START, "mail")
    return builder.add_edge(["pay", "mail"], "ship")


def one_payment(at: Callable[[str], Awaitable[None]]) -> StateGraph[Any, Any, Any, Any]:
    """One node with one effect; `at` is called before it begins and before it finishes."""

    async def pay(state: Story, config: RunnableConfig) -> dict[str, Any]:
        bank = Bank(config, "pay")

        async def do() -> str:
            receipt = bank.charge()
            await at("finish")
            return receipt

        await at("begin")
        return {"words": [await effect("charge", do, reconcile=bank.alook)]}

    return StateGraph(Story).add_node("pay", pay).add_edge(START, "pay")
