"""Actions as a browser sends them: open the page, send its form back."""

from __future__ import annotations

import re
from html import unescape
from typing import Any, TypedDict

import httpx
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

from aiodurable.durable import Durable

ORIGIN = {"origin": "http://localhost"}


class Words(TypedDict):
    word: str


def failing(*, heal: list[bool] | None = None, name: str = "failing") -> Any:
    def node(state: Words) -> Any:
        if heal:
            return {"word": "healed"}
        raise ValueError("a broken word")

    return StateGraph(Words).add_node("node", node).add_edge(START, "node").compile(name=name)


def asking(value: Any = "Really?", **options: Any) -> Any:
    def node(state: Words) -> Any:
        return {"word": str(interrupt(value, **options))}

    return StateGraph(Words).add_node("node", node).add_edge(START, "node").compile(name="asking")


async def fail(durable: Durable, thread_id: str, graph: Any = "failing") -> None:
    """Let a thread fail."""
    async with durable.run(thread_id, graph) as run:
        try:
            await run.ainvoke({"word": ""})
        except ValueError:
            return
    raise AssertionError("it did not fail")


async def ask(durable: Durable, thread_id: str, graph: Any = "asking") -> str:
    """Let a thread ask, and return the id of its question."""
    async with durable.run(thread_id, graph) as run:
        await run.ainvoke({"word": ""})
    return str((await durable.threads.get(thread_id)).interrupts[0].id)


def form_of(page: str) -> dict[str, str]:
    """The hidden fields of the page's form for an action."""
    form = page.partition('method="post"')[2].partition("</form>")[0]
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)"', form)
    return {name: unescape(value) for name, value in found}


async def act(
    client: httpx.AsyncClient, name: str, fields: dict[str, str] | None = None, **query: str
) -> httpx.Response:
    """Open the page of an action, and send its form."""
    page = await client.get(f"/act/{name}", params=query)
    if page.status_code != 200:
        return page
    return await client.post(
        f"/act/{name}",
        params=query,
        data=form_of(page.text) | (fields or {}),
        headers=ORIGIN,
    )


async def next_page(client: httpx.AsyncClient, answer: httpx.Response) -> str:
    """The page after a form that was accepted."""
    assert answer.status_code == 303, (answer.status_code, answer.text[-2_000:])
    page = await client.get(answer.headers["location"])
    return page.text
