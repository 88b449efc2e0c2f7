"""The benchmarks start as programs of the repository, and a long one that is cut short leaves what
it has measured.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.__main__ import NAMES
from benchmarks.rounds import Figures, in_turns
from tests.support.example_programs import REPOSITORY


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_gets_every_argument_that_follows_its_name(name: str) -> None:
    command = [sys.executable, "-m", "benchmarks", name, "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m benchmarks {name}" in done.stdout


async def test_each_round_that_counts_is_reported_as_soon_as_it_ends() -> None:
    measured: list[int] = []
    reported: list[list[Figures]] = []

    async def measure() -> Figures:
        measured.append(len(measured))
        return {"number": measured[-1]}

    await in_turns(
        {"one": measure}, 2, warm_up=1, after_round=lambda seen: reported.append([*seen["one"]])
    )
    assert reported == [[{"number": 1}], [{"number": 1}, {"number": 2}]]
