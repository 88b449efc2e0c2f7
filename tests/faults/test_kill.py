"""kill -9 of a real process before and after the writes it commits: the thread ends as if nothing
had happened.

Each third write, for CI. `AIODURABLE_TEST_KILLS=writes` kills it at every write, `all` at every
statement, those that read and those that lock as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.kill_each_statement import KILLS, killed_everywhere
from tests.support.processes import Processes


@pytest.mark.timeout(1200 if KILLS == "all" else 300)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "shape", ["linear", "functional", "subgraph", "fan-out", "send", "interrupt"]
)
async def test_a_kill_at_any_commit_changes_nothing(
    dsn: str, processes: Processes, shape: str, when: str, tmp_path: Path
) -> None:
    killed = await killed_everywhere(dsn, processes, shape, when, tmp_path)
    if (
        KILLS == "writes"
    ):  # which statements else there are depends on the moment: alone or in a batch, a filling pool
        assert killed.at >= killed.statements
