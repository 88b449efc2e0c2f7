"""A process of many tasks that contend for few locks and are cancelled at random.

`contender_process.py DSN FOLDER TASKS SECONDS SEED`. A holder creates a file exclusively and
removes it, which two holders at once cannot do, whatever Postgres says. Prints its counts as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from aiodurable.errors import LockBusyError, LockTimeoutError
from aiodurable.locks import PostgresLockManager
from aiodurable.settings import Settings
from tests.support import loops

NAMES = [f"lock {n}" for n in range(12)]


class Contender:
    def __init__(self, locks: PostgresLockManager, folder: Path) -> None:
        self.locks, self.folder = locks, folder
        self.held = self.overlaps = self.cancelled = self.regressions = 0

    def _enter(self, name: str, token: int) -> bool:
        try:
            file = os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            self.overlaps += 1
            return False
        os.close(file)
        last = self.folder / f"{name} token"
        if last.exists() and int(last.read_text() or 0) >= token:
            self.regressions += 1
        last.write_text(str(token))
        return True

    async def once(self) -> None:
        name = random.choice(NAMES)
        try:
            async with self.locks.hold(name, timeout=random.choice([0, 0.005, 1, None])) as lease:
                if self._enter(name, lease.token):
                    try:
                        self.held += 1
                        for _ in range(random.randrange(4)):
                            await asyncio.sleep(0)
                    finally:
                        (self.folder / name).unlink()
        except (LockBusyError, LockTimeoutError):
            pass

    async def fight(self, until: float) -> None:
        while time.monotonic() < until:
            task = asyncio.create_task(self.once())
            if random.random() < 0.7:
                if random.random() < 0.5:
                    await asyncio.wait({task}, timeout=random.random() * 0.02)
                else:
                    for _ in range(random.randrange(60)):
                        await asyncio.sleep(0)
                self.cancelled += task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()):
                raise error


async def main(dsn: str, folder: str, tasks: str, seconds: str, seed: str) -> None:
    random.seed(seed)
    async with PostgresLockManager(dsn, settings=Settings()) as locks:
        contender = Contender(locks, Path(folder))
        until = time.monotonic() + float(seconds)
        await asyncio.gather(*(contender.fight(until) for _ in range(int(tasks))))
        lost = sum(session.reconnects for session in locks.health().sessions)
    counted = {key: value for key, value in vars(contender).items() if isinstance(value, int)}
    print(json.dumps({**counted, "lost": lost}))


loops.run(main(*sys.argv[1:]))
