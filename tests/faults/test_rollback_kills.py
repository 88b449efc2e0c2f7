"""kill -9 of a process at each write of a rollback: another one ends it, and nothing is left of the
run that was given up.
"""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any

import pytest

from aiodurable import Durable, ThreadStatus
from tests.support.busy_threads import stored
from tests.support.graphs import asking, four_nodes
from tests.support.kill_each_statement import KILLS, is_free, statements
from tests.support.processes import Processes
from tests.support.waiting import wait_until

_PAST: Any = {"words": ["past"], "told": ""}


async def left_with_a_question(durable: Durable, thread: str) -> None:
    """A turn that is complete, and after it one that asks."""
    async with durable.run(thread, four_nodes(), run_id=f"{thread}-past") as run:
        await run.ainvoke(_PAST)
    async with durable.run(thread, asking(), run_id=f"{thread}-old") as run:
        await run.ainvoke({"words": ["given up"], "told": ""})


@pytest.mark.timeout(1200 if KILLS == "all" else 300)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_rollback_is_whole_wherever_its_process_is_killed(
    dsn: str, processes: Processes, when: str, tmp_path: Path
) -> None:
    kills = "all" if KILLS == "all" else "writes"
    async with Durable(dsn) as durable:
        await left_with_a_question(durable, "undisturbed")
        log = tmp_path / "undisturbed"
        code, expected = await processes.run(dsn, "undisturbed", "rollback", log, kills=kills)
        assert code == 0
        assert "given up" not in expected["words"]
        rows = {table: len(found) for table, found in stored(dsn, "undisturbed").items()}
        killed_at = set[str]()
        for nth in itertools.count(1):
            thread, log = f"killed-{nth}", tmp_path / f"{nth}"
            await left_with_a_question(durable, thread)
            death = (when, nth)
            code, result = await processes.run(dsn, thread, "rollback", log, death, kills=kills)
            if code == 0:
                break  # it has fewer statements than that
            assert code == -signal.SIGKILL
            killed_at |= statements(log)
            await wait_until(lambda thread=thread: is_free(durable, thread))
            code, result = await processes.run(dsn, thread, "rollback", log)
            assert (code, result) == (0, expected), f"killed {when} statement {nth}"
            gone = await durable.runs.get(f"{thread}-old")
            assert (gone.status, gone.reason) == ("superseded", "rolled back")
            assert {table: len(found) for table, found in stored(dsn, thread).items()} == rows
            assert (await durable.threads.status(thread)).status is ThreadStatus.COMPLETE
    for what in ("interrupted_by = ", "DELETE FROM checkpoints"):
        assert any(what in text for text in killed_at), f"never killed at {what}"
