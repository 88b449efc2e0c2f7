"""The wheel holds the library and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.example_programs import REPOSITORY


def test_the_wheel_holds_every_file_of_the_library_and_no_other(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = (path for path in (REPOSITORY / "aiodurable").rglob("*") if path.is_file())
    expected = {
        path.relative_to(REPOSITORY).as_posix() for path in files if "__pycache__" not in path.parts
    }
    assert names == expected
    (entries,) = (name for name in zipfile.ZipFile(wheel).namelist() if "entry_points" in name)
    assert "[pytest11]\naiodurable = aiodurable.pytest_plugin" in (
        zipfile.ZipFile(wheel).read(entries).decode()
    )
