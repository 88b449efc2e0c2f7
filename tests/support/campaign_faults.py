"""The faults of a worker campaign, each at random moments: see `programs/worker_campaign.py`."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from aiodurable.dsn import parse_dsn
from tests.programs.worker_process import SHORT
from tests.support.restartable import OwnServer
from tests.support.workers import Workers, is_alive

KILL_EVERY_S = 2.0
FREEZE_EVERY_S = (4.0, 20.0)
END_LOCKS_EVERY_S = (0.5, 3.0)
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)

_END_ONE = """
SELECT count(pg_terminate_backend(s.pid))
FROM (SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'aiodurable:lock@%'
      ORDER BY random() LIMIT 1) s
"""
OVER = """
SELECT count(*) FROM aiodurable_runs
WHERE claim_state IS NULL AND status NOT IN ('queued', 'running', 'failed')
  AND (status <> 'paused' OR status_reason = 'cancelled')
"""
"""How many runs are over."""


@dataclass
class Faults:
    """Disturbs workers and their server.

    Attributes:
        pace: so many times as long are the pauses between them.
        kills, freezes, restarts, ended_sessions: how many there were.
        ended_alone: how many workers ended by themselves.
    """

    dsn: str
    started: Workers
    chance: random.Random
    server: OwnServer | None
    runs: int
    pace: float = 1
    restarts_wanted: int = 2
    kills: int = 0
    freezes: int = 0
    restarts: int = 0
    ended_sessions: int = 0
    ended_alone: int = 0
    _frozen: set[int] = field(default_factory=set[int])

    @property
    def restarted(self) -> bool:
        """Whether the server was restarted as often as it should be."""
        return self.server is None or self.restarts == self.restarts_wanted

    async def forever(self) -> None:
        """Disturb from the first run that is over until cancelled; then nothing stays frozen, and
        the server is up.
        """
        await self._until_over(1)
        restarting = asyncio.create_task(self._restart())
        disturbing = (self._kill(), self._freeze(), self._end(), self._supervise())
        others = [asyncio.create_task(each) for each in disturbing]
        try:
            await asyncio.gather(restarting, *others)
        finally:
            for task in others:
                task.cancel()
            await asyncio.wait([restarting, *others])  # a server that is stopped is started again

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(KILL_EVERY_S * self.pace)
            awake = [pid for pid in self.started.pids if pid not in self._frozen]
            if not awake:
                continue
            self.started.end(self.chance.choice(awake))
            self.kills += 1
            await self.started.start()

    async def _freeze(self) -> None:
        least, most = FREEZE_EVERY_S
        while True:
            await asyncio.sleep(self.chance.uniform(least, most) * self.pace)
            pid = self.chance.choice(self.started.pids)
            self._frozen.add(pid)
            self.started.end(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(SHORT["lease_ttl_s"] + self.chance.uniform(-3, 3))
            finally:
                self.started.end(pid, signal.SIGCONT)
                self._frozen.discard(pid)
            self.freezes += 1

    async def _supervise(self) -> None:
        """Start another one for each worker that could not open amid all this."""
        while True:
            await asyncio.sleep(0.5)
            for pid in list(self.started.pids):
                if pid not in self._frozen and not is_alive(pid):
                    self.started.pids.remove(pid)
                    self.ended_alone += 1
                    await self.started.start()

    async def _end(self) -> None:
        while True:
            await asyncio.sleep(self.chance.uniform(*END_LOCKS_EVERY_S) * self.pace)
            self.ended_sessions += await ask(self.dsn, _END_ONE) or 0

    async def _until_over(self, due: float) -> None:
        """Wait until so many runs are over."""
        over = 0
        while over < due:
            await asyncio.sleep(0.2)
            over = await ask(self.dsn, OVER) or 0

    async def _restart(self) -> None:
        """As if its power failed, when a part of the runs is over."""
        if self.server is None:
            return
        for n in range(1, self.restarts_wanted + 1):
            await self._until_over(self.runs * n / (self.restarts_wanted + 1))
            await asyncio.shield(self.server.restart("immediate"))
            self.restarts += 1


async def ask(dsn: str, query: str) -> Any:
    """One value; None while Postgres is away."""
    with suppress(*AWAY):
        connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg, timeout=5)
        try:
            return await connection.fetchval(query)
        finally:
            connection.terminate()
    return None
