"""kill -9 after writes of graphs that use what LangGraph offers: each ends as if nothing had
happened. Which writes: see tests/faults/test_kill.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from aiodurable import Durable, Settings
from tests.support.feature_graphs import FEATURES
from tests.support.kill_each_statement import killed_everywhere
from tests.support.processes import Processes


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shape", FEATURES)
async def test_a_kill_after_any_write_changes_nothing(
    dsn: str, processes: Processes, shape: str, tmp_path: Path
) -> None:
    killed = await killed_everywhere(dsn, processes, shape, "after", tmp_path)
    assert killed.result["words"] == FEATURES[shape][2]
    async with Durable(dsn, settings=Settings(lock_connections=0)) as looks:
        assert [found async for found in looks.threads.verify()] == []
