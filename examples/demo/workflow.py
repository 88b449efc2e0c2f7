"""The workflow: read, analyse every section in parallel, compare them all, write the report."""

from __future__ import annotations

import operator
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, TypedDict, TypeVar

from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from examples.demo import analysis, documents, report
from examples.demo.job import section_step

__all__ = ["NAME", "State", "Step", "report_workflow"]

NAME = "report"
"""The graph's name."""

T = TypeVar("T")


class Step(Protocol):
    """Does the work of a step; who runs the workflow may look on."""

    def __call__(self, name: str, work: Callable[[], T], /) -> Awaitable[T]:
        """Do `work`, which may take its time, without blocking the event loop."""
        ...


class Analysed(analysis.Finding):
    """A finding, and which process made it, so that it can be shown afterwards."""

    process: int


class State(TypedDict):
    """`paths` and `output` are given; each step adds its own."""

    paths: list[str]
    output: str
    sections: list[documents.Section]
    findings: Annotated[list[Analysed], operator.add]
    comparison: analysis.Comparison


def report_workflow(step: Step) -> StateGraph[State, Any, Any, Any]:
    """The graph, whose steps are done by `step`."""

    async def read(state: State) -> dict[str, Any]:
        return {"sections": await step("read", partial(documents.read, state["paths"]))}

    def each_section(state: State) -> list[Send]:
        return [Send("analyse", section) for section in state["sections"]]

    async def analyse(state: documents.Section) -> dict[str, Any]:
        finding = await step(section_step(state["index"]), partial(analysis.analyse, state))
        return {"findings": [{**finding, "process": os.getpid()}]}

    async def compare(state: State) -> dict[str, Any]:
        return {"comparison": await step("compare", partial(analysis.compare, state["findings"]))}

    async def write(state: State) -> dict[str, Any]:
        await step("write", partial(_write, state))
        return {}

    graph = StateGraph(State)
    graph.add_node("read", read)
    graph.add_node("analyse", analyse)
    graph.add_node("compare", compare)
    graph.add_node("write", write)
    graph.add_edge(START, "read")
    graph.add_conditional_edges("read", each_section, ["analyse"])
    graph.add_edge("analyse", "compare")
    graph.add_edge("compare", "write")
    graph.add_edge("write", END)
    return graph


def _write(state: State) -> None:
    # A node runs at least once: a reader of the file sees a whole report at any moment, the old one
    # or the new.
    output = Path(state["output"])
    draft = output.with_name(f".{output.name}.{os.getpid()}")
    draft.write_text(report.render(state["findings"], state["comparison"]), "utf-8")
    draft.replace(output)
