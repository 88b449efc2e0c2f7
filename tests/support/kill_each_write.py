"""SIGKILL at each write of a run, from the first to the last: how the thread stands after it, said
by hand.

A run writes in turns: what the nodes of a step produced, then the checkpoint after them. Between
the two the work is done but not yet part of the thread: nothing is left to run in the tables, and
yet the thread is not complete. `WRITTEN` stands for that moment, in which `aget_state` tells a
complete thread.
"""

from __future__ import annotations

from typing import Any

from tests.support.scenarios import Scenario, Thread, Truth

EACH_WRITE: list[Scenario] = []

WRITTEN = ()
INPUT: dict[str, Any] = {"xs": []}

_BEGINNING = [("__start__",), WRITTEN, ("a",), WRITTEN]
"""The input's checkpoint, what it was made of, the checkpoint before `a`, and what `a` wrote."""

PENDING: dict[str, list[tuple[str, ...]]] = {
    "linear": [*_BEGINNING, ("b",), WRITTEN],
    "command_goto": [*_BEGINNING, ("b",), WRITTEN],
    # The two branches write one after the other; what is left is the other one.
    "fan_out": [*_BEGINNING, ("b", "c"), ("c",), WRITTEN, ("d",), WRITTEN],
    "sends": [*_BEGINNING, ("part",) * 3, ("part",) * 2, ("part",), WRITTEN, ("z",), WRITTEN],
    # Seven writes of the subgraph's own: to the root graph, it runs until it has returned.
    "subgraph": [*_BEGINNING, *[("inner",)] * 8, WRITTEN, ("z",), WRITTEN],
    "deferred": [*_BEGINNING, ("b",), WRITTEN, ("b2",), WRITTEN, ("d",), WRITTEN],
    # A task's result is kept beside the story that called it, which runs again.
    "tasks": [("__start__",), ("story",), ("story",), WRITTEN],
}


def _killed(given: Any, at: int) -> Any:
    async def play(thread: Thread) -> None:
        await thread.killed(given, at, after=True)

    return play


for _graph, _writes in PENDING.items():
    _given = "once" if _graph == "tasks" else INPUT
    for _at, _pending in enumerate(_writes):
        _stock = "complete" if _pending == WRITTEN else None
        _name = f"{_graph}_killed_after_write_{_at + 1}"
        EACH_WRITE.append(
            Scenario(_name, _graph, Truth("crashed", _pending, stock=_stock), _killed(_given, _at))
        )
    _last = len(_writes)
    EACH_WRITE.append(
        Scenario(
            f"{_graph}_killed_after_its_last_write",
            _graph,
            Truth("complete"),
            _killed(_given, _last),
        )
    )
