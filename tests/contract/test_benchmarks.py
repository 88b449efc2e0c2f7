"""The benchmarks start as programs of the repository."""

from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.__main__ import NAMES
from tests.support.example_programs import REPOSITORY


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_gets_every_argument_that_follows_its_name(name: str) -> None:
    command = [sys.executable, "-m", "benchmarks", name, "--help"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m benchmarks {name}" in done.stdout
