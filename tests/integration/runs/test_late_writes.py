"""A write that was sent before its attempt ended, and reaches Postgres after that: the run's row
agrees with the tables and with the event of the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from aiodurable import Durable, ThreadStatus
from aiodurable.errors import LeaseLostError
from aiodurable.events import AttemptEnded
from aiodurable.runs import attempt
from tests.support.graphs import INPUT, Gate, four_nodes
from tests.support.internals import services_of
from tests.support.ledger_view import Ledger
from tests.support.lock_view import WAITING
from tests.support.waiting import wait_until, within

HELD = """
CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('application_name') LIKE '%writer%' THEN
        PERFORM pg_advisory_xact_lock_shared(7, 7);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER held BEFORE {} EXECUTE FUNCTION held();
"""
BEFORE_THE_ROW = HELD.format("UPDATE ON aiodurable_runs")
BEHIND_THE_ROW = HELD.format(
    "INSERT ON checkpoints FOR EACH ROW WHEN ((NEW.metadata ->> 'step')::int = 4)"
)
"""The last checkpoint waits for a lock before, or after, its statement has locked the run's row."""


@asynccontextmanager
async def last_checkpoint_held(
    dsn: str, seen: list[Any], trigger: str
) -> AsyncGenerator[tuple[asyncio.Task[Any], asyncpg.Connection, Durable]]:
    """A run whose last checkpoint is on its way and waits, the connection that can unlock it by
    `pg_advisory_unlock_all`, and where it runs.
    """
    gate = Gate("tell")
    connection = await asyncpg.connect(dsn)
    try:
        async with Durable(dsn, observers=[seen.append]) as durable:

            async def body() -> None:
                async with durable.run("t", four_nodes(gate)) as run:
                    await run.ainvoke(INPUT)

            task = asyncio.create_task(body())
            await within(30, gate.reached.wait())
            await connection.execute(trigger)
            await connection.execute("SELECT pg_advisory_lock(7, 7)")
            gate.open.set()
            await wait_until(lambda: connection.fetchval(WAITING), what="the last checkpoint")
            yield task, connection, durable
    finally:
        await connection.close()


async def cancel_twice(task: asyncio.Task[Any]) -> None:
    """At the first one LangGraph waits for its writes, at the second it leaves them."""
    task.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    task.cancel()


async def assert_complete(seen: list[Any], durable: Durable, ledger: Ledger) -> None:
    ended = [event.status for event in seen if isinstance(event, AttemptEnded)]
    assert (ended, await ledger.statuses("t")) == (["complete"], ["complete"])
    assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE


async def test_a_run_that_is_cancelled_while_its_last_checkpoint_is_written_is_complete(
    dsn: str, durable: Durable, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "_WRITTEN_WITHIN_S", 30.0)
    seen: list[Any] = []
    async with last_checkpoint_held(dsn, seen, BEFORE_THE_ROW) as (task, connection, _):
        await cancel_twice(task)
        await asyncio.wait({task}, timeout=0.5)  # for an end that does not wait for it
        await connection.execute("SELECT pg_advisory_unlock_all()")
        await asyncio.wait({task})
    await assert_complete(seen, durable, ledger)


async def test_an_outcome_does_not_replace_the_end_that_a_slow_last_checkpoint_has_recorded(
    dsn: str, durable: Durable, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt, "_WRITTEN_WITHIN_S", 0.0)
    seen: list[Any] = []
    async with last_checkpoint_held(dsn, seen, BEHIND_THE_ROW) as (task, connection, there):
        await cancel_twice(task)
        await tried_in_vain(there)
        await connection.execute("SELECT pg_advisory_unlock_all()")
        await asyncio.wait({task})
    await assert_complete(seen, durable, ledger)


async def tried_in_vain(durable: Durable) -> None:
    """Wait until an attempt has read how it ended, and found its row locked more than once."""
    direct = services_of(durable).checkpoints.direct
    sent = direct.sent
    await wait_until(lambda: direct.sent >= sent + 5, what="the end of the attempt")


async def test_a_node_that_goes_on_without_its_run_writes_nothing_while_that_ends(
    dsn: str, durable: Durable, ledger: Ledger
) -> None:
    gate = Gate("tell")
    connection = await asyncpg.connect(dsn)

    async def body() -> None:
        async with durable.run("t", four_nodes(gate)) as run:
            going_on = asyncio.create_task(run.ainvoke(INPUT))
            await within(30, gate.reached.wait())
            async with connection.transaction():
                await connection.execute("SELECT FROM aiodurable_runs FOR UPDATE")
                abandoning = asyncio.create_task(run.abandon())
                await tried_in_vain(durable)
                gate.open.set()
                with pytest.raises(LeaseLostError, match="the attempt that writes is over"):
                    await going_on
            await within(30, abandoning)

    try:
        with pytest.raises(LeaseLostError, match="has given up the lease"):
            await body()
    finally:
        await connection.close()
    [row] = await ledger.rows("t")
    found = await durable.threads.status("t")
    assert (row["status"], row["status_reason"]) == ("paused", "cancelled")
    assert (found.status, found.step, found.pending) == (ThreadStatus.PAUSED, 3, ("tell",))
