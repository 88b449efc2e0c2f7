"""A real process that writes checkpoints of leased threads and says each one that was acknowledged,
until it is killed.

`python checkpoint_process.py DSN`: one line a checkpoint on stdout, `thread_id checkpoint_id`.
"""

import asyncio
import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable.checkpoints import AsyncCheckpointerPool
from aiodurable.checkpoints.write_session import WriteSession
from tests.support import loops
from tests.support.checkpoint_rows import checkpoint, config


async def main(dsn: str) -> None:
    async with AsyncCheckpointerPool(dsn) as pool:
        saver = pool.get_checkpointer()

        async def write(thread: str) -> None:
            saver.sessions.hold(WriteSession(await pool.new_fence(thread)))
            parent = None
            for turn in count():
                made, versions = checkpoint(value=[thread] * 50)
                versions["value"] = f"{turn:032}.0"
                stored = await saver.aput(config(thread, parent), made, {}, versions)  # pyright: ignore[reportArgumentType]
                await saver.aput_writes(stored, [("value", [1]), ("other", "x")], "task")
                parent = made["id"]
                print(thread, parent, flush=True)

        await asyncio.gather(*(write(f"t{n}") for n in range(20)))


if __name__ == "__main__":
    loops.run(main(sys.argv[1]))
