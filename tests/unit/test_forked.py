"""Programs that are forked instead of started: a process like one of `python`'s."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from tests.support.example_programs import REPOSITORY
from tests.support.forked import python
from tests.support.waiting import wait_until_sync, within

TOLD = """
import json, os, sys
print(json.dumps([__name__, sys.argv, dict(os.environ), os.getcwd(), os.getpid(), sys.stdin.read()]))
"""


@pytest.mark.parametrize("way", ["program", "code", "module"])
async def test_it_has_its_arguments_environment_folder_and_streams(
    way: str, tmp_path: Path
) -> None:
    (tmp_path / "told.py").write_text(TOLD)
    first = {"program": (tmp_path / "told.py",), "code": ("-c", TOLD), "module": ("-m", "told")}[
        way
    ]
    environment = {"PYTHONPATH": str(REPOSITORY), "ONLY": "this"}
    process = await python(
        *first, "one", "two words", env=environment, cwd=tmp_path, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"given")
    process.stdin.close()
    printed, _ = await process.communicate()
    name, argv, environ, folder, pid, given = json.loads(printed)
    assert (name, argv[1:]) == ("__main__", ["one", "two words"])
    assert (environ, folder) == (environment, str(tmp_path))
    assert (pid, given) == (process.pid, "given")
    assert pid != os.getpid()
    assert process.returncode == 0


async def test_it_ends_with_the_code_or_the_signal_that_ended_it() -> None:
    left = await python("-c", "import sys; sys.exit(3)")
    raised = await python("-c", "raise ValueError('at the end')", stdout=PIPE, stderr=STDOUT)
    killed = await python("-c", "import signal; print(flush=True); signal.pause()", stdout=PIPE)
    assert killed.stdout is not None
    await killed.stdout.readline()
    assert killed.returncode is None
    killed.kill()
    assert [await each.wait() for each in (left, raised, killed)] == [3, 1, -signal.SIGKILL]
    assert b"ValueError: at the end" in (await raised.communicate())[0]


async def test_it_ends_although_what_it_prints_is_being_read() -> None:
    """A test that ran out of time may be reading it, and goes on while its fixtures end."""
    process = await python("-c", "import signal; signal.pause()", stdout=PIPE)
    reading = asyncio.create_task(process.communicate())
    await asyncio.sleep(0)
    await within(30, process.end())
    assert process.returncode == -signal.SIGKILL
    assert not any(await within(30, reading))


async def test_what_it_sets_stays_its_own() -> None:
    code = "import sys; print(hasattr(sys, 'left')); sys.left = True"
    for _ in range(2):
        printed, _ = await (await python("-c", code, stdout=PIPE)).communicate()
        assert printed == b"False\n"


async def test_a_signal_to_one_whose_exit_code_is_under_way_is_no_error() -> None:
    process = await python("-c", "pass")

    def is_gone() -> bool:
        try:
            os.kill(process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until_sync(is_gone, what="its end, without a turn of the loop")
    assert process.returncode is None
    process.kill()
    assert await process.wait() == 0
