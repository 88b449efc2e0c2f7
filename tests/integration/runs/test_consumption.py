"""An accepted input is taken exactly once: that it was is recorded, not inferred from whatever came
later.
"""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

from aiodurable.checkpoints import AsyncCheckpointerPool
from aiodurable.checkpoints.saver import DurableSaver
from aiodurable.durable import Durable
from aiodurable.errors import LeaseLostError
from aiodurable.models import RunStatus, ThreadStatus
from tests.support.graphs import STEPS, four_nodes
from tests.support.internals import services_of
from tests.support.ledger_view import Ledger

FIRST: dict[str, Any] = {"words": ["first"], "told": ""}
SECOND: dict[str, Any] = {"words": ["second"], "told": ""}
PLACE: Any = {"configurable": {"thread_id": "t"}}


async def accepted(durable: Durable, run_id: str, given: Any) -> None:
    """A run whose process is gone before its first checkpoint."""
    services = services_of(durable)
    async with durable.hold("t") as lease:
        found = await services.threads.status("t", ignore_lock=True)
        base, closing = (
            found.checkpoint_id,
            None if found.status is ThreadStatus.NEW else RunStatus.COMPLETE,
        )
        await services.ledger.start(
            run_id,
            fence=lease.fence,
            graph=None,
            input=given,
            context=None,
            base_checkpoint_id=base,
            closing=closing,
        )


async def test_a_change_before_a_run_is_accepted_is_not_its_input(durable: Durable) -> None:
    async with durable.run("t", four_nodes(), run_id="R1") as run:
        await run.ainvoke(FIRST)
    async with durable.run("t", four_nodes(), run_id="R2") as run:
        await run.aupdate_state({"told": "changed"})
    await accepted(durable, "R2", SECOND)
    found = await durable.threads.status("t")
    assert (found.status, found.run_id) == (ThreadStatus.CRASHED, "R2")
    async with durable.run("t", four_nodes(), run_id="R2") as run:
        result = await run.ainvoke(SECOND)
    assert result["words"] == ["first", *STEPS, "second", *STEPS]


async def test_a_change_after_a_run_was_accepted_does_not_take_its_input(
    durable: Durable, ledger: Ledger
) -> None:
    async with durable.run("t", four_nodes(), run_id="R1") as run:
        await run.ainvoke(FIRST)
    await accepted(durable, "R2", SECOND)
    async with durable.run("t", four_nodes()) as run:
        await run.aupdate_state({"told": "changed"})
        assert (await run.ainvoke())["words"] == ["first", *STEPS, "second", *STEPS]
    assert await ledger.statuses("t") == ["complete", "complete"]


async def test_a_later_checkpoint_of_plain_langgraph_does_not_take_the_input(
    durable: Durable, dsn: str
) -> None:
    await accepted(durable, "R", FIRST)
    async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
        await four_nodes().compile(stock).ainvoke(SECOND, PLACE)
    assert (await durable.threads.status("t")).run_id == "R"
    assert (await durable.threads.resume("t", four_nodes()))["words"] == [
        "second",
        *STEPS,
        "first",
        *STEPS,
    ]


async def test_a_run_whose_input_nothing_took_is_not_complete_by_anothers_doing(
    durable: Durable, dsn: str
) -> None:
    """Plain LangGraph completes the thread while a run of ours is refused before its first
    checkpoint.
    """

    async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
        graph = four_nodes().compile()
        async with durable.run("t", graph, run_id="R") as run:
            original = DurableSaver.aget_tuple

            async def meanwhile(saver: DurableSaver, config: Any) -> Any:
                await four_nodes().compile(stock).ainvoke(SECOND, PLACE)
                raise ValueError("refused")

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(DurableSaver, "aget_tuple", meanwhile)
                with pytest.raises(ValueError, match="refused"):
                    await run.ainvoke(FIRST)
            assert DurableSaver.aget_tuple is original
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT status, consumed FROM aiodurable_runs").fetchall() == [
            ("rejected", False)
        ]


async def test_the_first_checkpoint_records_in_its_own_commit_that_it_took_the_input(
    durable: Durable, dsn: str
) -> None:
    seen: list[list[Any]] = []

    async def look(step: str) -> None:
        with psycopg.connect(dsn) as connection:
            seen.append(
                connection.execute("SELECT status, consumed FROM aiodurable_runs").fetchall()
            )

    async with durable.run("t", four_nodes(look)) as run:
        await run.ainvoke(FIRST)
    assert seen[0] == [("running", True)]


async def test_a_first_checkpoint_that_is_refused_takes_no_input(
    durable: Durable, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another lease begins after the run was accepted: nothing of its input is part of the
    thread.
    """
    put = DurableSaver.aput

    async def after_another_lease(saver: DurableSaver, *args: Any) -> Any:
        patched.undo()
        async with AsyncCheckpointerPool(dsn) as other:
            await other.bump("t")
        return await put(saver, *args)

    with monkeypatch.context() as patched:
        patched.setattr(DurableSaver, "aput", after_another_lease)
        with pytest.raises(LeaseLostError, match="at token 2 now"):
            async with durable.run("t", four_nodes()) as run:
                await run.ainvoke(FIRST)
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT consumed FROM aiodurable_runs").fetchall() == [(False,)]
    assert (await durable.threads.resume("t", four_nodes()))["words"] == ["first", *STEPS]


async def test_what_was_recorded_stands_whatever_becomes_of_the_checkpoints(
    durable: Durable, dsn: str
) -> None:
    """A person edits the state by plain LangGraph, and a pruning keeps nothing but that."""
    async with durable.run("t", four_nodes()) as run:
        await run.ainvoke(FIRST, interrupt_before=["weigh"])
    async with AsyncPostgresSaver.from_conn_string(dsn) as stock:
        await four_nodes().compile(stock).aupdate_state(PLACE, {"told": "edited"}, "sort")
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "DELETE FROM checkpoints WHERE metadata ->> 'aiodurable_run_id' IS NOT NULL"
        )
    assert (await durable.threads.resume("t", four_nodes(), past_gate=True))["words"] == [
        "first",
        *STEPS,
    ]
