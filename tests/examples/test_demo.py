"""The demo as a person starts it: real processes, a real SIGKILL, a real Postgres."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aiodurable.durable import Durable
from aiodurable.models import ThreadStatus
from examples.demo import analysis, documents, report
from tests.support.waiting import wait_until_sync

pytestmark = [
    pytest.mark.timeout(150),
    pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL"),
]

PASSWORD = "not-to-be-seen"


def demo(*arguments: str | Path, cwd: Path, **environ: str) -> subprocess.Popen[str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "AIODURABLE_"))
    }
    inherited.pop("DATABASE_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "examples.demo", *map(str, arguments)],
        cwd=cwd,
        env={**inherited, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_documents(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        text = (
            f"# Chapter {number}\n\nThe tide of day {number} comes in. It goes out again, and"
            " nobody is surprised.\n"
        )
        (folder / f"{number:02}.md").write_text(text)
    return folder


def undisturbed_report(source: Path) -> str:
    findings = [analysis.analyse(section) for section in documents.read(documents.find(source))]
    return report.render(findings, analysis.compare(findings))


def test_a_killed_workflow_is_finished_by_another_process(dsn: str, tmp_path: Path) -> None:
    source = write_documents(tmp_path / "texts", 9)
    out, err = (
        playing := demo(source, cwd=tmp_path, AIODURABLE_DSN=f"{dsn}&password={PASSWORD}")
    ).communicate()
    assert playing.returncode == 0, out + err
    assert "3 of 9 sections are in Postgres" in out
    assert "WorkflowAlreadyRunningError" in out
    assert re.search(r"From kill -9 to resumption: \d+ ms", out)
    assert out.count("kept") == 9
    assert "BROKEN" not in out
    assert "\x1b" not in out, "without a terminal the lines are plain"
    assert PASSWORD not in out + err
    assert (tmp_path / "aiodurable-demo.md").read_text() == undisturbed_report(source)
    (thread_id,) = set(re.findall(r"demo-[0-9a-f]{8}", out))

    async def look() -> None:
        async with Durable(dsn) as durable:
            thread = await durable.threads.status(thread_id)
            assert (thread.status, thread.attempts, thread.holder) == (
                ThreadStatus.COMPLETE,
                2,
                None,
            )

    asyncio.run(look())


def test_without_a_database_it_brings_one_and_one_section_is_enough(tmp_path: Path) -> None:
    source = write_documents(tmp_path / "texts", 1)
    out, err = (playing := demo(source, "-o", "out.md", cwd=tmp_path)).communicate()
    assert playing.returncode == 0, out + err
    assert "Postgres: embedded" in out
    assert (tmp_path / "out.md").read_text() == undisturbed_report(source)


def test_a_database_that_is_not_there_is_said_with_the_exit_code_for_it(tmp_path: Path) -> None:
    wrong = f"postgresql://somebody:{PASSWORD}@127.0.0.1:1/nowhere"
    out, err = (playing := demo(cwd=tmp_path, AIODURABLE_DSN=wrong)).communicate()
    assert playing.returncode == 5, out + err
    assert "127.0.0.1:1" in err
    assert "Traceback" not in err
    assert PASSWORD not in out + err


def test_its_processes_end_when_it_is_killed_itself(dsn: str, tmp_path: Path) -> None:
    playing = demo(write_documents(tmp_path / "texts", 30), cwd=tmp_path, AIODURABLE_DSN=dsn)
    children = Path(f"/proc/{playing.pid}/task/{playing.pid}/children")
    if not children.exists():
        playing.kill()
        pytest.skip("needs /proc to see its processes")
    assert playing.stdout is not None
    while "waits for the same thread" not in playing.stdout.readline():
        assert playing.poll() is None
    workers = children.read_text().split()
    assert len(workers) >= 2
    playing.kill()
    playing.communicate()
    wait_until_sync(
        lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers), what="no orphans"
    )
