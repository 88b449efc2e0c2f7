"""Processes that fire schedules and die at a statement: `scheduler_process.py DSN`.

Each line of its input is a job: the time, "before" or "after", and the number of the statement at
which a process of its own kills itself; one more than there are kills it after the commit. It
answers with the exit code, or minus the signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable import Durable
from aiodurable.worker.scheduler import Scheduler
from tests.support.internals import services_of


async def fire(dsn: str, now: str, when: str, nth: int) -> None:
    async with Durable(dsn) as durable:
        database: Any = services_of(durable).checkpoints.database
        whole = database.transaction
        left = nth

        def count(at: str) -> None:
            nonlocal left
            left -= at == when
            if at == when and not left:
                os.kill(os.getpid(), signal.SIGKILL)

        @asynccontextmanager
        async def transaction() -> AsyncIterator[Any]:
            async with whole() as run:

                async def fetch(*statement: Any) -> Any:
                    count("before")
                    rows = await run(*statement)
                    count("after")
                    return rows

                yield fetch
            count("before")
            count("after")

        database.transaction = transaction
        looking = Scheduler(
            services_of(durable), durable.settings.namespace, now=datetime.fromisoformat(now)
        )
        while await looking.fire():
            pass


def main(dsn: str) -> None:
    for line in sys.stdin:
        now, when, nth = line.split()
        if (pid := os.fork()) == 0:
            asyncio.run(fire(dsn, now, when, int(nth)))
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
