"""Runs of a thread are in the order of their tokens: no clock has a say in which is the newest."""

from __future__ import annotations

import psycopg
import pytest

from aiodurable.durable import Durable
from aiodurable.models import RunStatus, ThreadStatus
from tests.support.graphs import INPUT, STEPS, four_nodes
from tests.support.internals import services_of
from tests.support.ledger_view import Ledger


async def accepted(durable: Durable, run_id: str, words: list[str]) -> None:
    """A run whose process is gone before its first checkpoint."""
    services = services_of(durable)
    async with durable.hold("t") as lease:
        found = await services.threads.status("t", ignore_lock=True)
        await services.ledger.start(
            run_id,
            fence=lease.fence,
            graph=None,
            seq=1,
            input={"words": words, "told": ""},
            context=None,
            base_checkpoint_id=found.checkpoint_id,
            closing=RunStatus.COMPLETE,
        )


async def test_a_rejected_run_id_that_is_accepted_later_is_the_newest_and_its_input_is_not_lost(
    durable: Durable, ledger: Ledger
) -> None:
    async with durable.run("t", four_nodes(), run_id="X") as run:
        with pytest.raises(ValueError, match="unknown"):
            await run.ainvoke(INPUT, output_keys=["unknown"])
    async with durable.run("t", four_nodes(), run_id="Y") as run:
        await run.ainvoke(INPUT)
    await accepted(durable, "X", ["again"])
    found = await durable.threads.status("t")
    assert (found.status, found.run_id) == (ThreadStatus.CRASHED, "X")
    assert (await durable.threads.resume("t", four_nodes()))["words"] == [*STEPS, "again", *STEPS]
    assert {row["run_id"]: row["status"] for row in await ledger.rows("t")} == {
        "X": "complete",
        "Y": "complete",
    }


async def test_a_clock_that_goes_backwards_changes_no_order(durable: Durable, dsn: str) -> None:
    for run_id in ("first", "second"):
        async with durable.run("t", four_nodes(), run_id=run_id) as run:
            await run.ainvoke(INPUT)
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "UPDATE aiodurable_runs SET created_at = now() + interval '1 hour' WHERE run_id ="
                " 'first'"
            )
    assert (await durable.threads.status("t")).run_id == "second"
    newest = await services_of(durable).ledger.newest("t")
    assert newest is not None
    assert newest.record.run_id == "second"


async def test_runs_under_one_lease_are_in_the_order_of_their_calls(
    durable: Durable, dsn: str, ledger: Ledger
) -> None:
    async with durable.run("t", four_nodes()) as run:
        ids: list[str] = []
        for _ in range(3):
            await run.ainvoke(INPUT)
            ids.append(run.run_id)
            with psycopg.connect(dsn) as connection:
                connection.execute(
                    "UPDATE aiodurable_runs SET created_at = created_at + interval '1 hour'"
                )
        assert len(set(ids)) == 3
        newest = await services_of(durable).ledger.newest("t")
    assert newest is not None
    assert newest.record.run_id == ids[-1]
    assert len({(row["fencing_token"], row["seq"]) for row in await ledger.rows("t")}) == 3
