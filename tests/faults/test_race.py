"""Several real processes are given the same run at the same moment: it runs once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.support.graphs import STEPS, noted
from tests.support.ledger_view import Ledger
from tests.support.processes import started


async def test_processes_that_race_for_one_run_run_it_once_and_all_have_its_result(
    dsn: str, tmp_path: Path
) -> None:
    async with started() as one, started() as two, started() as three:
        for n in range(5):
            log = tmp_path / f"{n}"
            ends = await asyncio.gather(
                *(p.run(dsn, f"t{n}", "linear", log) for p in (one, two, three))
            )
            assert [code for code, _ in ends] == [0, 0, 0]
            assert ends[0] == ends[1] == ends[2]
            assert noted(log) == list(STEPS)
            [row] = await Ledger(dsn).rows(f"t{n}")
            assert (row["status"], row["attempts"]) == ("complete", 1)
