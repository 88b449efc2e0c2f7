"""What a run of one contender costs beside time: memory, commits, WAL. Counted while it is alone,
in a process of its own.

python -m benchmarks.alone CONTENDER STATE_KB RUNS, with AIODURABLE_DSN: its memory as JSON. A
process of its own, because what one contender frees another would use again; and because a backend
hands its counts in when its connection ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import asyncpg

from .contenders import CONTENDERS
from .meter import Meter, ServerCpu
from .runs import crowd

COUNTS = (
    "SELECT xact_commit, pg_current_wal_lsn() - '0/0' AS wal FROM pg_stat_database WHERE datname ="
    " current_database()"
)
OTHERS = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND backend_type ="
    " 'client backend'"
)
AT_ONCE = 50
WARM_UP = 10


async def cost(
    name: str, dsn: str, admin: asyncpg.Connection, state_kb: int, runs: int
) -> dict[str, float]:
    """Of one run, 50 at a time; opening and closing the contender is shared among them. `peak_mb`
    is of all 50.
    """
    before = await _counts(admin)
    command = [sys.executable, "-m", __name__, name, str(state_kb), str(runs)]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, "AIODURABLE_DSN": dsn}, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(
            f"wanted what a run of {name} costs, found exit code {process.returncode}"
        )
    after = await _counts(admin)
    commits, wal = (float(now - then) for now, then in zip(after, before, strict=True))
    return {
        **json.loads(out),
        "commits": commits / (runs + WARM_UP),
        "wal_kb": wal / 1000 / (runs + WARM_UP),
    }


async def _counts(admin: asyncpg.Connection) -> asyncpg.Record:
    while (await admin.fetchval(OTHERS) or 0) > 1:  # noqa: ASYNC110  # Postgres sends no event for it
        await asyncio.sleep(0.02)
    row = await admin.fetchrow(COUNTS)
    assert row is not None
    return row


async def main(name: str, state_kb: str, runs: str) -> None:
    async with CONTENDERS[name](os.environ["AIODURABLE_DSN"], int(state_kb)) as run:
        await crowd(run, WARM_UP, WARM_UP)
        with Meter(ServerCpu(None)) as meter:
            await crowd(run, int(runs), AT_ONCE)
    print(json.dumps({"peak_mb": meter.peak_mb}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
