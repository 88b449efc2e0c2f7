"""kill -9 and a restart of Postgres while a run falls asleep, sleeps, wakes and takes a signal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiodurable import ClaimState, Durable
from tests.support.kill_each_statement import KILLS, killed_everywhere
from tests.support.processes import Processes
from tests.support.restartable import How, OwnServer
from tests.support.sleeping_graph import SIGNAL, sleeping
from tests.support.waiting import wait_until


@pytest.mark.timeout(1200 if KILLS == "all" else 300)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_sleep_and_a_signal_end_once_wherever_the_process_is_killed(
    dsn: str, processes: Processes, when: str, tmp_path: Path
) -> None:
    killed = await killed_everywhere(
        dsn, processes, "sleeping", when, tmp_path, kills="all" if KILLS == "all" else "writes"
    )
    assert killed.result["told"] == "once slept heads"
    for what in (
        "waiting_for = pg_catalog.string_to_array",
        "INSERT INTO aiodurable_signals",
        "UPDATE aiodurable_signals",
    ):
        assert any(what in statement for statement in killed.at), f"never killed at {what}"


@pytest.mark.parametrize("how", ["fast", "immediate"])
async def test_a_run_that_sleeps_goes_on_after_a_restart_of_postgres(
    own: OwnServer, how: How
) -> None:
    dsn = await own.start()
    graphs: dict[str, Any] = {"sleeping": sleeping()}
    async with Durable(dsn, graphs=graphs) as durable, durable.work():
        created = await durable.runs.create("t", "sleeping", {"words": [], "told": ""})

        async def waits() -> bool:
            record = await durable.runs.get(created.run_id)
            return record.claim_state is ClaimState.SCHEDULED and record.scheduled_at is None

        await wait_until(waits, 60)
        assert await durable.threads.signal("u", SIGNAL, "tails")
        await own.restart(how)
        again = await wait_until(lambda: accepted(durable, "u"), 60)
        assert await wait_until(lambda: sent(durable, "t", "heads"), 60)
        for run_id, told in ((created.run_id, "slept heads"), (again, "slept tails")):
            assert (await durable.runs.wait(run_id, timeout=60))["told"] == told


async def accepted(durable: Durable, thread_id: str) -> str:
    start = {"words": [], "told": ""}
    run = await durable.runs.create(thread_id, "sleeping", start, run_id=f"run-{thread_id}")
    return run.run_id


async def sent(durable: Durable, thread_id: str, value: str) -> bool:
    await durable.threads.signal(thread_id, SIGNAL, value, signal_id=value)
    return True
