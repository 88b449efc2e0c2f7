"""The public signatures, checked by basedpyright and by mypy: what must pass passes, and each
mistake is an error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.example_programs import REPOSITORY

HERE = Path(__file__).parent
MARKED = [
    number
    for number, line in enumerate((HERE / "must_fail.py").read_text("utf-8").splitlines(), 1)
    if line.endswith("# error")
]


@pytest.mark.timeout(600)  # a type checker reads all of LangGraph
def test_basedpyright_finds_the_mistakes_and_no_other() -> None:
    pytest.importorskip("basedpyright")
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "-p",
        str(HERE),
    ]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(checked.stdout)["generalDiagnostics"]
        if each["severity"] == "error"
    ]
    assert [each for each in found if each[0] != "must_fail.py"] == []
    assert sorted({line for _, line, _ in found}) == MARKED


@pytest.mark.timeout(600)
def test_mypy_finds_the_mistakes_and_no_other() -> None:
    pytest.importorskip("mypy")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--explicit-package-bases",
        "--python-version=3.11",
        f"--cache-dir={REPOSITORY / '.mypy_cache'}",  # of `dev.py lint`, which has read LangGraph
    ]
    command += [
        "--no-error-summary",
        "--no-pretty",
        "--hide-error-context",
        "must_pass.py",
        "must_fail.py",
    ]
    checked = subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=False)
    errors = [line for line in checked.stdout.splitlines() if ": error:" in line]
    assert [line for line in errors if not line.startswith("must_fail.py:")] == []
    assert sorted({int(line.split(":")[1]) for line in errors}) == MARKED
