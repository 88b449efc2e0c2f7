"""A run is freed when its last reference goes: with a collector that has less to look through, a
run costs less.
"""

from __future__ import annotations

from aiodurable.checkpoints.fenced_writer import FencedWriter
from aiodurable.checkpoints.saver import DurableSaver
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


def test_a_write_that_waits_for_its_commit_has_no_cells() -> None:
    for method in (DurableSaver.aput, DurableSaver.aput_writes, FencedWriter.commit):
        assert method.__code__.co_cellvars == ()
