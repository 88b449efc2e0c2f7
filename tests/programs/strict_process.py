"""`LANGGRAPH_STRICT_MSGPACK=true python strict_process.py DSN`: a failed run with a type of its own
in its state goes on.

Prints, for a builder, a compiled graph and a functional workflow, the type that was read back on
resumption.
"""

import contextlib
import dataclasses
import sys
from pathlib import Path
from typing import Any, TypedDict

sys.path.insert(0, str(Path(__file__).parents[2]))

from langgraph.func import entrypoint
from langgraph.graph import START, StateGraph

from aiodurable import Durable
from tests.support import loops


@dataclasses.dataclass
class Tide:
    height: float


class State(TypedDict, total=False):
    tide: Tide
    seen: str


broken = True


async def measure(state: State) -> State:
    return {"tide": Tide(1.5)}


async def look(state: State) -> State:
    if broken:
        raise ValueError("not yet")
    return {"seen": type(state.get("tide")).__name__}


@entrypoint()  # reads its annotations as they are: this file must not make strings of them
async def looking(start: Tide) -> dict[str, Any]:
    return dict(await look({"tide": start}))


async def main(dsn: str) -> None:
    global broken  # noqa: PLW0603
    builder = StateGraph(State).add_sequence([measure, look]).add_edge(START, "measure")
    graphs: dict[str, Any] = {
        "builder": builder,
        "compiled": builder.compile(),
        "functional": looking,
    }
    async with Durable(dsn) as durable:
        for name, graph in graphs.items():
            broken = True
            async with durable.run(name, graph) as run:
                with contextlib.suppress(ValueError):
                    await run.ainvoke(Tide(1.5) if graph is looking else {"seen": ""})
            broken = False
            async with durable.run(name, graph) as run:
                print(name, (await run.ainvoke())["seen"])


if __name__ == "__main__":
    loops.run(main(sys.argv[1]))
