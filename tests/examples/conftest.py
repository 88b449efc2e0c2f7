"""Programs for a test, gone when it ends."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from example_programs import Start


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a Python program that finds no database in its environment but the given one."""
    started: list[Process] = []

    async def start(program: Path, *arguments: str, dsn: str | None = None) -> Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIODURABLE_", "PG"))}
        environment.pop("DATABASE_URL", None)
        if dsn is not None:
            environment["AIODURABLE_DSN"] = dsn
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(program), *arguments, stdout=PIPE, stderr=STDOUT, env=environment
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()
