"""A holder that is itself stopped cannot stop in time: it writes after another has taken over, and
the fence refuses it.
"""

from __future__ import annotations

import signal
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from aiodurable import Durable, ThreadStatus
from tests.programs import PROGRAMS
from tests.support.checkpoint_rows import written
from tests.support.effect_graphs import bank_of, one_payment
from tests.support.fault_times import Timetable
from tests.support.forked import python
from tests.support.graphs import STEPS, four_nodes, noted
from tests.support.ledger_view import Ledger
from tests.support.lock_holder import SHORT, said

FROZEN = PROGRAMS / "frozen_process.py"
FROZEN_EFFECT = PROGRAMS / "frozen_effect_process.py"


@pytest.mark.parametrize("how", ["blocked", "stopped"])
async def test_a_holder_that_wakes_up_after_another_took_over_writes_nothing(
    dsn: str, ledger: Ledger, how: str, tmp_path: Path, timetable: Timetable
) -> None:
    go = tmp_path / "go"
    process = await python(FROZEN, dsn, go, how, stdout=PIPE)
    try:
        assert await said(process) == "reached"
        frozen = time.monotonic()
        if how == "stopped":
            process.send_signal(signal.SIGSTOP)
        async with Durable(dsn, settings=SHORT) as durable:
            async with durable.run("t", four_nodes(), on_busy="wait", timeout=30) as run:
                taken = time.monotonic() - frozen
                assert run.status is ThreadStatus.CRASHED
                assert (await run.ainvoke())["words"] == list(STEPS)
                assert run.lease.token == 2
            before = await written(dsn)
            go.touch()
            process.send_signal(signal.SIGCONT)
            woken = time.monotonic()
            assert (await said(process)).startswith("LeaseLostError: ")
            timetable.trial(
                taken_over=taken, old_holder_refused_after_it_woke=time.monotonic() - woken
            )
            assert await process.wait() == 0
            assert await written(dsn) == before
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    [row] = await ledger.rows("t")
    assert (row["status"], row["attempts"], row["fencing_token"]) == ("complete", 2, 2)


@pytest.mark.parametrize("moment", ["begin", "finish"])
async def test_a_process_that_wakes_up_neither_begins_nor_finishes_a_side_effect(
    dsn: str, moment: str, tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    process = await python(FROZEN_EFFECT, dsn, log, go, moment, stdout=PIPE)

    async def nothing(place: str) -> None:
        pass

    try:
        assert await said(process) == "reached"
        process.send_signal(signal.SIGSTOP)
        async with Durable(dsn, settings=SHORT) as durable:
            graph = one_payment(nothing)
            async with durable.run("t", graph, on_busy="wait", timeout=30) as run:
                assert (await run.ainvoke())["words"] == ["receipt of pay"]
            go.touch()
            process.send_signal(signal.SIGCONT)
            assert (await said(process)).startswith("LeaseLostError: ")
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    assert noted(bank_of(log)) == ["pay"]
