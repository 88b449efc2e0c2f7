"""How many round trips a run waits for, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aiodurable.durable import Durable
from tests.support.graphs import INPUT, four_nodes
from tests.support.round_trips import Trips, round_trips

BUDGET = 8
"""The lock with the token, the row, the input with the step before the first node, four steps, of
which the last one ends the run, the unlock."""


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> Iterator[Trips]:
    with round_trips(monkeypatch) as trips:
        yield trips


async def fewest(durable: Durable, trips: Trips, turns: int) -> list[str]:
    """The fewest trips of the last of so many turns of a thread. On a busy machine what is written
    together may miss a batch.
    """
    counted: list[list[str]] = []
    for number in range(5):  # each connection prepares its statements once
        for _ in range(turns):
            trips.clear()
            async with durable.run(f"thread {number}", four_nodes()) as run:
                await run.ainvoke(INPUT)
        counted.append(trips.said())
    return min(counted, key=len)


async def test_a_new_run_of_four_nodes_keeps_to_its_budget(durable: Durable, trips: Trips) -> None:
    taken = await fewest(durable, trips, 1)
    assert len(taken) == BUDGET, "\n".join(taken)


async def test_a_later_turn_asks_for_its_status_and_reads_beside_the_row(
    durable: Durable, trips: Trips
) -> None:
    taken = await fewest(durable, trips, 2)
    assert len(taken) == BUDGET + 1, "\n".join(taken)
