"""A Postgres that goes away: briefly, and nothing is felt; for longer, and the run ends clearly and
goes on later.
"""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from aiodurable import Durable, LeaseLostError, PostgresUnavailableError, Settings, ThreadStatus
from tests.programs import PROGRAMS
from tests.support.forked import python
from tests.support.graphs import INPUT, STEPS, Gate, config, four_nodes, noted, reached, run_up_to
from tests.support.restartable import OwnServer
from tests.support.waiting import wait_until, within

LEAVING = PROGRAMS / "leaving_process.py"


async def test_a_run_whose_postgres_goes_away_ends_clearly_and_goes_on_when_it_is_back(
    own: OwnServer, tmp_path: Path
) -> None:
    log, gate, dsn = tmp_path / "log", Gate("weigh"), await own.start()
    async with Durable(dsn, settings=Settings(recovery_grace_s=0.5, close_timeout_s=1)) as durable:
        task = await run_up_to(gate, durable, config=config(log))
        await own.stop()
        with pytest.raises(LeaseLostError):
            await within(30, task)
        with pytest.raises(PostgresUnavailableError):
            async with Durable(dsn, settings=Settings(connect_timeout_s=2)):
                pytest.fail("opened")
    assert await own.start() == dsn
    async with Durable(dsn) as durable:
        assert (await durable.threads.status("t")).status is ThreadStatus.CRASHED
        async with durable.run("t", four_nodes(), config=config(log)) as run:
            assert (await run.ainvoke())["words"] == list(STEPS)
    assert noted(log) == ["collect", "sort", "weigh", "weigh", "tell"]


async def test_a_restart_of_postgres_is_not_felt_by_a_run(own: OwnServer, tmp_path: Path) -> None:
    log, gate, dsn = tmp_path / "log", Gate("weigh"), await own.start()
    async with Durable(dsn, settings=Settings(recovery_grace_s=60)) as durable:

        async def body() -> Any:
            async with durable.run("t", four_nodes(gate), config=config(log)) as run:
                return await run.ainvoke(INPUT), run.lease.token

        task = asyncio.create_task(body())
        assert await reached(gate, task), await task
        await own.restart()
        gate.open.set()
        result, token = await within(60, task)
        assert (result["words"], token) == (list(STEPS), 1)
        assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
    assert noted(log) == list(STEPS)


async def test_a_result_that_postgres_could_not_record_is_still_returned_and_shown_by_the_tables(
    own: OwnServer, tmp_path: Path
) -> None:
    dsn = await own.start()
    async with Durable(
        dsn, settings=Settings(recovery_grace_s=60, connect_timeout_s=2, close_timeout_s=1)
    ) as durable:
        async with durable.run("t", four_nodes()) as run:
            stream = run.astream(INPUT, stream_mode="values")
            seen = [await anext(stream) for _ in range(5)]
            assert seen[-1]["words"] == list(STEPS)
            await wait_until(lambda: is_complete(durable))
            await own.stop()
            with contextlib.suppress(StopAsyncIteration):
                await anext(stream)
        await own.start()
    async with Durable(dsn) as durable:
        assert (await durable.threads.status("t")).status is ThreadStatus.COMPLETE
        async with durable.run("t", four_nodes(), run_id=run.run_id) as again:
            assert (await again.ainvoke(INPUT))["words"] == list(STEPS)


async def is_complete(durable: Durable) -> bool:
    state = await durable.checkpointer.aget_tuple({"configurable": {"thread_id": "t"}})
    return state is not None and state.checkpoint["channel_values"].get("told") == " ".join(STEPS)


@pytest.mark.parametrize(("how", "code"), [("return", 0), ("exit", 3), ("raise", 1)])
async def test_a_process_that_leaves_in_the_middle_of_a_run_ends_at_once_and_the_run_goes_on_elsewhere(
    dsn: str, how: str, code: int
) -> None:
    process = await python(LEAVING, dsn, how, stdout=PIPE, stderr=PIPE)
    assert process.stdout is not None
    # Starting is the interpreter's time, and on a loaded machine it is long; leaving is ours.
    assert await process.stdout.readline() == b"reached\n"
    rest, errors = await within(30, process.communicate(), what="the process to leave")
    assert (rest, process.returncode) == (b"", code), errors.decode()
    async with (
        Durable(dsn) as durable,
        durable.run("t", four_nodes(), on_busy="wait", timeout=10) as run,
    ):
        assert run.status.unfinished
        assert (await run.ainvoke())["words"] == list(STEPS)
