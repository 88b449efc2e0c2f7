"""kill -9 of a real process at each write of a run with side effects: each happens once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.effect_graphs import bank_of
from tests.support.graphs import noted
from tests.support.kill_each_statement import KILLS, killed_everywhere
from tests.support.processes import Processes


@pytest.mark.timeout(1200 if KILLS == "all" else 300)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_side_effect_happens_once_wherever_its_process_is_killed(
    dsn: str, processes: Processes, when: str, tmp_path: Path
) -> None:
    killed = await killed_everywhere(
        dsn, processes, "effects", when, tmp_path, kills="all" if KILLS == "all" else "writes"
    )
    of_effects = {text for text in killed.at if "aiodurable_effects" in text}
    assert len(of_effects) == 2, "it was killed at the beginning and at the end of an effect"
    banks = [each for each in tmp_path.iterdir() if each.name.endswith(".bank")]
    assert len(banks) > 8
    for bank in banks:
        assert sorted(noted(bank)) == ["mail", "pay", "ship"], f"killed {when} write {bank.stem}"
    assert noted(bank_of(tmp_path / "undisturbed"))
