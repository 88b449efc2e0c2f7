"""A run that is killed at its statements in turn, and gone on with by another process: see
`test_kill.py`.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import psycopg

from aiodurable import Durable, ThreadStatus
from tests.support.graphs import noted
from tests.support.ledger_view import Ledger
from tests.support.processes import Processes
from tests.support.waiting import wait_until

KILLS = os.environ.get("AIODURABLE_TEST_KILLS", "some")
_STEP = 3
"""Of `some` writes: each third one, from one that depends on the graph."""
TABLES = (
    "aiodurable_fences",
    "aiodurable_runs",
    "checkpoints",
    "checkpoint_blobs",
    "checkpoint_writes",
)


async def is_free(durable: Durable, thread: str) -> bool:
    return (await durable.threads.status(thread)).status is not ThreadStatus.RUNNING


def statements(log: Path) -> set[str]:
    """Those that counted, without their numbers: some name the pid of their own backend."""
    return {re.sub(r"\d+", "…", statement) for statement in told(log, "statement")}


def told(log: Path, what: str) -> list[Any]:
    return [json.loads(line) for line in noted(log.with_name(f"{log.name}.{what}"))]


async def stored(dsn: str, thread: str) -> set[tuple[str, ...]]:
    """The thread's checkpoints and the tasks that have writes, as the saver's acknowledgements name
    them.
    """
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute(
            "SELECT checkpoint_ns, checkpoint_id, NULL FROM checkpoints WHERE thread_id ="
            " %(thread)s UNION SELECT checkpoint_ns, checkpoint_id, task_id FROM checkpoint_writes"
            " WHERE thread_id = %(thread)s",
            {"thread": thread},
        )
        return {tuple(part for part in row if part is not None) for row in await found.fetchall()}


class Killed(NamedTuple):
    """The result, the same wherever it was killed, and the statements: those of a whole run, and
    where it was killed.
    """

    result: Any
    statements: set[str]
    at: set[str]


async def killed_everywhere(
    dsn: str, processes: Processes, shape: str, when: str, folder: Path, *, kills: str = KILLS
) -> Killed:
    """Of each node at most one call is repeated."""
    first, step = (crc32(shape.encode()) % _STEP + 1, _STEP) if kills == "some" else (1, 1)
    which = "all" if kills == "all" else "writes"
    async with Durable(dsn):
        pass  # the first that opens declares the namespace, and none after it
    code, undisturbed = await processes.run(
        dsn, "undisturbed", shape, folder / "undisturbed", kills=which
    )
    assert code == 0
    expected = statements(folder / "undisturbed")
    for table in TABLES:
        assert any(table in statement for statement in expected), f"no statement writes {table}"
    killed_at: set[str] = set()
    result = None
    async with Durable(dsn) as durable:
        for nth in itertools.count(first, step):
            thread, log = f"killed-{nth}", folder / f"{nth}"
            code, result = await processes.run(dsn, thread, shape, log, (when, nth), kills=which)
            if code == 0:
                break  # it has fewer statements than that
            assert code == -signal.SIGKILL
            killed_at.update(statements(log))
            await wait_until(
                lambda thread=thread: is_free(durable, thread)
            )  # the server notices within milliseconds
            missing = {tuple(each) for each in told(log, "acknowledged")} - await stored(
                dsn, thread
            )
            assert not missing, f"killed {when} statement {nth}: acknowledged, and not there"
            if noted(log):
                assert await Ledger(dsn).rows(thread), "its nodes ran before the ledger knew of it"
            left = (await durable.threads.status(thread)).status
            assert left in (
                ThreadStatus.NEW,
                ThreadStatus.CRASHED,
                ThreadStatus.INTERRUPTED,
                ThreadStatus.PAUSED,
                ThreadStatus.COMPLETE,
            )
            code, result = await processes.run(dsn, thread, shape, log)
            assert (code, result) == (0, undisturbed), f"killed {when} statement {nth}"
            assert (await durable.threads.status(thread)).status is ThreadStatus.COMPLETE
            [row] = await Ledger(dsn).rows(thread)
            assert row["status"] == "complete"
            ran = Counter(noted(log)) - Counter(noted(folder / "undisturbed"))
            assert all(times == 1 for times in ran.values()), (
                f"killed {when} statement {nth}: {ran} again"
            )
    assert result == undisturbed
    return Killed(undisturbed, expected, killed_at)
