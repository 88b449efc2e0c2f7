"""What is played: one process begins and is killed, a second goes on, a third is refused.

The processes are led by what is known, never by time: the first may begin as many sections as shall
be finished, so that its next steps are surely in flight when it is killed; the second may begin the
rest when the third has been refused.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from aiodurable.embedded import embedded_postgres
from aiodurable.errors import WorkflowAlreadyRunningError
from aiodurable.settings import Settings
from examples.demo import analysis, documents, report
from examples.demo.facts import Facts
from examples.demo.job import Job, section_step
from examples.demo.log import Entry
from examples.demo.process import DemoError, WorkerProcess
from examples.demo.screen import Screen

if TYPE_CHECKING:
    from aiodurable.durable import Durable

__all__ = ["Play", "play"]

_AT_ONCE = 4
_TICK_S = 0.005
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Play:
    """What to play with.

    Attributes:
        dsn: where Postgres is, as given by hand or by the environment; see `embedded`.
        embedded: bring a Postgres instead.
        paths: the documents.
        sections: what they fall into, read beforehand so that wrong input is refused before
            anything starts.
        output: where the report goes.
    """

    dsn: str | None
    embedded: bool
    paths: Sequence[Path]
    sections: Sequence[documents.Section]
    output: Path


async def play(given: Play, screen: Screen) -> Facts:
    """Play it and gather the facts.

    Raises:
        DemoError: it did not get to its end.
        ConfigurationError, PostgresUnavailableError: as `Durable` and `embedded_postgres` do.
    """
    thread_id = f"demo-{uuid4().hex[:8]}"
    given.output.unlink(
        missing_ok=True
    )  # an earlier demo's report must not be taken for this one's
    async with AsyncExitStack() as stack:
        # They start first, for importing LangGraph takes longer than anything else here.
        first, second = [
            await stack.enter_async_context(WorkerProcess.running(name, screen.heard))
            for name in ("first", "second")
        ]
        durable = await stack.enter_async_context(_postgres(given, screen))
        first.tell(_job(given, durable, thread_id, on_busy="reject"))
        second.tell(_job(given, durable, thread_id, on_busy="wait"))
        return await _Story(given, screen, durable, thread_id, first, second).played()


@asynccontextmanager
async def _postgres(given: Play, screen: Screen) -> AsyncIterator[Durable]:
    settings = replace(
        Settings.from_env(), lock_connections=1, checkpoint_connections=1, pool_max_size=2
    )
    async with AsyncExitStack() as stack:
        importing = asyncio.to_thread(import_module, "aiodurable.durable")
        if given.embedded:
            dsn, _ = await asyncio.gather(stack.enter_async_context(_embedded(screen)), importing)
        else:
            dsn, _ = given.dsn, await importing
        from aiodurable.durable import Durable  # noqa: PLC0415 - imported above, while Postgres started

        durable = await stack.enter_async_context(Durable(dsn, settings=settings))
        if not given.embedded:
            screen.note(f"Postgres: {durable.dsn.safe}")
        yield durable


@asynccontextmanager
async def _embedded(screen: Screen) -> AsyncIterator[str]:
    began = monotonic()
    async with embedded_postgres() as dsn:
        screen.note(
            f"Postgres: embedded, started in {monotonic() - began:.1f} s; it stops with the demo"
        )
        yield dsn


def _job(
    given: Play, durable: Durable, thread_id: str, *, on_busy: Literal["reject", "wait"]
) -> Job:
    return Job(
        dsn=durable.dsn.conninfo,
        thread_id=thread_id,
        on_busy=on_busy,
        timeout_s=_PATIENCE_S,
        at_once=_AT_ONCE,
        paths=[str(path) for path in given.paths],
        output=str(given.output),
    )


class _Story:
    def __init__(
        self,
        given: Play,
        screen: Screen,
        durable: Durable,
        thread_id: str,
        first: WorkerProcess,
        second: WorkerProcess,
    ) -> None:
        self._given = given
        self._screen = screen
        self._durable = durable
        self._thread_id = thread_id
        self._first, self._second = first, second
        self._third: list[Entry] = []
        self._total = len(given.sections)
        self._point = "the first process"

    async def played(self) -> Facts:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                killed_at, held = await self._begin_and_kill()
                await self._go_on(killed_at)
                return await self._gather(killed_at, held)
        except TimeoutError as error:
            raise DemoError(
                f"waited {_PATIENCE_S:.0f} s for {self._point}, and nothing more happened"
            ) from error

    async def _begin_and_kill(self) -> tuple[float, list[tuple[str, int]]]:
        first, second, screen = self._first, self._second, self._screen
        finish = max(1, self._total // 3)
        await first.hear("ready")
        first.tell(1)
        await first.hear("started")
        screen.say("first", f"process {first.pid} has thread {self._thread_id} and runs")
        self._point = "the second process to wait for the thread"
        await second.hear("ready")
        second.tell(1)
        await second.hear("waiting")
        screen.say("second", f"process {second.pid} waits for the same thread")
        self._point = f"{finish} sections to be committed"
        first.tell(1 + finish)  # one more than sections: "read"
        while len(await self._sections()) < finish or not _in_flight(first):
            await first.must_run()
            await asyncio.sleep(_TICK_S)
        killed_at = monotonic()
        first.kill()
        await first.ended()
        # Nobody writes now: the second process may not begin a step yet.
        held = await self._sections()
        screen.committed(len(held), self._total)
        screen.say(
            "first",
            f"{len(held)} of {self._total} sections are in Postgres, others in flight: kill -9 {first.pid}",
        )
        return killed_at, held

    async def _go_on(self, killed_at: float) -> None:
        second, screen = self._second, self._screen
        self._point = "the second process to take the thread over"
        resumed = await second.hear("began")
        screen.say(
            "second",
            f"process {second.pid} goes on, {(resumed.at - killed_at) * 1000:.0f} ms after the kill",
        )
        self._point = "the third process to be refused"
        await self._try_too()
        self._point = "the second process to finish"
        second.tell(self._total + 4)
        await second.ended()
        screen.say("second", f"process {second.pid} is done")

    async def _try_too(self) -> None:
        """The third process, which asks for the thread while the second has it, is this one."""
        try:
            async with self._durable.hold(self._thread_id):
                self._third.append(Entry("started"))
        except WorkflowAlreadyRunningError as refused:
            error, holder = (
                type(refused).__name__,
                refused.holder.application if refused.holder else None,
            )
            self._third.append(Entry("refused", details={"error": error, "holder": holder}))
            self._screen.say("third", f"process {os.getpid()} (this one) asks too: {error}")
            self._screen.say("third", f"its error names the holder: {holder}")

    async def _sections(self) -> list[tuple[str, int]]:
        """The section steps whose results Postgres holds, with the process that made each; read
        with LangGraph's saver.
        """
        saved = await self._durable.checkpointer.aget_tuple(
            {"configurable": {"thread_id": self._thread_id}}
        )
        if saved is None:
            return []
        stored: list[dict[str, Any]] = list(
            saved.checkpoint["channel_values"].get("findings") or ()
        )
        for _, channel, value in saved.pending_writes or ():
            if channel == "findings":
                stored += value
        return [(section_step(finding["index"]), finding["process"]) for finding in stored]

    async def _gather(self, killed_at: float, held: list[tuple[str, int]]) -> Facts:
        workers = (self._first, self._second)
        thread = await self._durable.threads.status(self._thread_id)
        output = self._given.output
        findings = await asyncio.to_thread(
            lambda: [analysis.analyse(section) for section in self._given.sections]
        )
        return Facts(
            pids={worker.name: worker.pid for worker in workers} | {"third": os.getpid()},
            exit_codes={worker.name: await worker.ended() for worker in workers},
            logs={worker.name: tuple(worker.log) for worker in workers}
            | {"third": tuple(self._third)},
            section_steps=[section_step(section["index"]) for section in self._given.sections],
            held=held,
            results=await self._sections(),
            killed_at=killed_at,
            status=thread.status,
            attempts=thread.attempts,
            report=output.read_text("utf-8") if output.exists() else None,
            undisturbed=report.render(findings, analysis.compare(findings)),
        )


def _in_flight(worker: WorkerProcess) -> list[Entry]:
    """What it has begun and not ended."""
    ended = {entry.step for entry in worker.said("ended")}
    return [entry for entry in worker.said("began") if entry.step not in ended]
