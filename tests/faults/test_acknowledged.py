"""Nothing that was acknowledged is missing after kill -9, and nothing that is there is half."""

import signal
from asyncio.subprocess import PIPE

import pytest

from aiodurable.checkpoints import AsyncCheckpointerPool
from tests.programs import PROGRAMS
from tests.support.forked import python

PROGRAM = PROGRAMS / "checkpoint_process.py"


@pytest.mark.parametrize("lines", [1, 40, 400])
async def test_a_process_killed_among_its_commits_has_stored_all_acknowledged_writes(
    lines: int, dsn: str
) -> None:
    process = await python(PROGRAM, dsn, stdout=PIPE)
    assert process.stdout is not None
    told: list[str] = []
    while len(told) < lines:
        told.append((await process.stdout.readline()).decode())
    process.send_signal(signal.SIGKILL)
    rest = (await process.stdout.read()).decode().splitlines(keepends=True)
    assert await process.wait() == -signal.SIGKILL
    acknowledged = {tuple(line.split()) for line in (*told, *rest) if line.endswith("\n")}

    async with AsyncCheckpointerPool(dsn) as pool:
        # A batch that was on its way may still commit: a token raised now says that it has, or
        # never will.
        for thread in {thread for thread, _ in acknowledged}:
            await pool.bump(thread)
        heads = await pool.database.fetch("SELECT thread_id, checkpoint_id FROM checkpoints")
        writes = await pool.database.fetch(
            "SELECT thread_id, checkpoint_id, count(*) AS parts FROM checkpoint_writes GROUP BY"
            " 1, 2"
        )
        blobless = await pool.database.fetch(
            "SELECT 1 FROM checkpoints c WHERE NOT EXISTS (SELECT 1 FROM checkpoint_blobs b WHERE"
            " b.thread_id = c.thread_id AND b.version = c.checkpoint -> 'channel_versions' ->>"
            " 'value')"
        )
    assert acknowledged <= {(row["thread_id"], row["checkpoint_id"]) for row in heads}
    assert acknowledged <= {(row["thread_id"], row["checkpoint_id"]) for row in writes}
    assert {row["parts"] for row in writes} == {2}
    assert not blobless
