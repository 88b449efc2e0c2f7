"""The graph of the FastAPI examples: it writes a report on a topic."""

import asyncio
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph


class Report(TypedDict):
    topic: str
    notes: list[str]
    text: str


async def research(state: Report) -> dict[str, Any]:
    return {"notes": [f"{state['topic']}: note {number}" for number in range(1, 4)]}


async def write(state: Report) -> dict[str, Any]:
    await asyncio.sleep(1)  # a language model is slow
    return {"text": "\n".join(state["notes"])}


graphs = {"report": StateGraph(Report).add_sequence([research, write]).add_edge(START, "research")}
