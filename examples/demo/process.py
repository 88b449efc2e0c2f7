"""A process of the demo, seen from the one that starts it."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiodurable.errors import AiodurableError
from examples.demo.log import Entry, What

__all__ = ["DemoError", "WorkerProcess"]

_STDERR_LINES = 12


class DemoError(AiodurableError):
    """The demo could not be played to its end; says at which point and why."""


class WorkerProcess:
    """A running worker. Made by `async with WorkerProcess.running(…)`, which kills it at the end if
    it still runs.

    Attributes:
        name: what the demo calls it.
        log: what it has said so far.
    """

    def __init__(self, name: str, process: Process, heard: Callable[[str, Entry], None]) -> None:
        self.name = name
        self.log: list[Entry] = []
        self._process = process
        self._heard = heard
        self._news = asyncio.Condition()
        self._silent = False

    @classmethod
    @asynccontextmanager
    async def running(
        cls, name: str, heard: Callable[[str, Entry], None]
    ) -> AsyncIterator[WorkerProcess]:
        """Start one; `heard` is called with its name and each thing it says."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "examples.demo.worker",
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,  # Ctrl-C is for the demo alone, which then ends its workers
        )
        worker = cls(name, process, heard)
        listening = asyncio.create_task(worker._listen(), name=f"listen to {name}")
        try:
            yield worker
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await listening

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, minus the signal that killed it; None while it runs."""
        return self._process.returncode

    def tell(self, message: Any) -> None:
        """Send it one line: its job first, then how many steps more it may begin."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message).encode() + b"\n")

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is cleaned up."""
        self._process.kill()

    def said(self, what: What) -> list[Entry]:
        """All it has said of one kind."""
        return [entry for entry in self.log if entry.what == what]

    async def hear(self, what: What) -> Entry:
        """The first thing of this kind that it says, or has said.

        Raises:
            DemoError: it ended without.
        """
        async with self._news:
            await self._news.wait_for(lambda: self._silent or self.said(what))
        if found := self.said(what):
            return found[0]
        raise await self._ended_early(what)

    async def ended(self) -> int:
        """Wait until it has ended and all it said was heard; its exit code."""
        async with self._news:
            await self._news.wait_for(lambda: self._silent)
        return await self._process.wait()

    async def must_run(self) -> None:
        """Raise `DemoError` if it has ended."""
        if self._silent:
            raise await self._ended_early("ended")

    async def _listen(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stderr = asyncio.create_task(
            self._process.stderr.read(), name=f"stderr of {self.name}"
        )
        while line := await self._process.stdout.readline():
            entry = Entry.parse(line)
            async with self._news:
                self.log.append(entry)
                self._news.notify_all()
            self._heard(self.name, entry)
        await self._stderr
        async with self._news:
            self._silent = True
            self._news.notify_all()

    async def _ended_early(self, wanted: What) -> DemoError:
        code = await self._process.wait()
        said = (await self._stderr).decode(errors="replace").strip().splitlines()[-_STDERR_LINES:]
        text = "\n  ".join(said) or "(it said nothing)"
        return DemoError(
            f"the {self.name} process ended with {code} before it was {wanted}; its last words:\n  {text}"
        )
