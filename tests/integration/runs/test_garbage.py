"""A run is freed when its last reference goes: with a collector that has less to look through, a
run costs less.
"""

from __future__ import annotations

from aiodurable.durable import Durable
from tests.support.garbage import cyclic_garbage
from tests.support.graphs import INPUT, four_nodes


async def test_a_run_leaves_no_cyclic_garbage(durable: Durable) -> None:
    graph = four_nodes()

    async def run(thread_id: str) -> None:
        async with durable.run(thread_id, graph) as opened:
            await opened.ainvoke(INPUT)

    await run("warm up")
    with cyclic_garbage("aiodurable") as found:
        for number in range(20):
            await run(f"thread {number}")
    assert found == []
