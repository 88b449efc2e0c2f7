"""`dev.py` is the first thing that somebody who wants to change the project runs."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.example_programs import REPOSITORY

PROGRAM = REPOSITORY / "dev.py"


def said(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_its_help_has_a_line_for_each_command() -> None:
    described = re.findall(r"^ {4}python3 dev\.py ([\w-]+)", said().stdout, re.MULTILINE)
    _, _, main = PROGRAM.read_text().partition("commands = {")
    commands = re.findall(r'^ {8}"([\w-]+)": ', main.partition("\n    }")[0], re.MULTILINE)
    assert set(described) == set(commands)
    assert max(map(len, said("--help").stdout.splitlines())) <= 100


def test_a_command_that_is_none_is_an_error() -> None:
    assert (said("tset").returncode, said("tset").stdout) == (2, said().stdout)


@pytest.mark.parametrize("given", [["-n", "0"], ["-n4"], ["--numprocesses=3"], ["--pdb"], ["-s"]])
def test_how_many_processes_test_is_the_callers_to_say(given: list[str]) -> None:
    in_parallel = runpy.run_path(str(PROGRAM))["in_parallel"]
    assert in_parallel(given) == []
    assert in_parallel(["-k", "name", "tests/unit"])[0] == "-n"


def test_without_pip_it_goes_on_with_what_is_installed(tmp_path: Path) -> None:
    for name in ("dev.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    venv.create(tmp_path / ".venv", with_pip=False)
    python = tmp_path / ".venv" / "bin" / "python"
    done = subprocess.run(
        [str(python), str(tmp_path / "dev.py"), "run", "python", "-c", "print('it runs')"],
        env=os.environ | {"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "it runs\n"), done.stderr
    assert "neither uv nor pip is here" in done.stderr
