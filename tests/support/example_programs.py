"""The examples as a reader runs them: as processes of their own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.support.forked import Process

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = REPOSITORY / "examples"

Start = Callable[..., Awaitable[Process]]


async def output(process: Process) -> str:
    """What a program printed, if it ended well."""
    printed = (await process.communicate())[0].decode()
    assert process.returncode == 0, printed
    return printed


async def read_until(process: Process, words: str) -> str:
    """What a program prints, up to the line with these words."""
    assert process.stdout is not None
    printed = ""
    while words not in printed:
        line = await process.stdout.readline()
        assert line, f"it ended without {words!r}:\n{printed}"
        printed += line.decode()
    return printed
