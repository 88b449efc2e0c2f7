"""What must hold after a worker campaign: see `programs/worker_campaign.py`."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import asyncpg

from aiodurable.dsn import parse_dsn
from aiodurable.durable import Durable
from tests.programs.campaign_creator import Planned
from tests.programs.worker_process import STEPS

_CHECKPOINTS = """
SELECT thread_id, checkpoint_id, parent_checkpoint_id, metadata ->> 'aiodurable_run_id' AS run_id,
       metadata ->> 'aiodurable_worker' AS worker
FROM checkpoints
WHERE checkpoint_ns = ''
ORDER BY thread_id, checkpoint_id
"""
_RUNS = "SELECT run_id, thread_id, status, status_reason, claim_state, error FROM aiodurable_runs"
_EFFECTS = "SELECT run_id, step FROM campaign_effects"
_LEFT = """
SELECT (SELECT count(*) FROM aiodurable_leases), (SELECT count(*) FROM aiodurable_runs
        WHERE status = 'running' OR claim_state IS NOT NULL)
"""


class Tables:
    """What the tables hold: read once, when all workers have ended.

    Attributes:
        statuses: how the runs ended.
    """

    def __init__(self, planned: Sequence[Planned]) -> None:
        self._planned = {one.run_id: one for one in planned}
        self.statuses = Counter[str]()

    async def wrong(self, dsn: str, durable: Durable) -> list[str]:
        """What must not be."""
        connection = await asyncpg.connect(**parse_dsn(dsn).asyncpg)
        try:
            runs = {row["run_id"]: row for row in await connection.fetch(_RUNS)}
            lines = {
                thread_id: list(rows)
                for thread_id, rows in groupby(
                    await connection.fetch(_CHECKPOINTS), lambda row: row["thread_id"]
                )
            }
            effects = [tuple(row) for row in await connection.fetch(_EFFECTS)]
            leases, unsettled = await connection.fetchrow(_LEFT)
        finally:
            await connection.close()
        found = [*self._runs(runs), *self._effects(runs, effects)]
        for thread_id, line in lines.items():
            found += wrong_line(thread_id, line)
        if leases or unsettled:
            found.append(f"{leases} leases and {unsettled} runs are left without a worker")
        found += [
            f"verify: thread {one.thread_id}: {one.what}" async for one in durable.threads.verify()
        ]
        return found + await self._states(durable, runs)

    def _runs(self, runs: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        """Every run is over, none is lost or doubled."""
        if lost := self._planned.keys() - runs.keys():
            yield f"lost: {sorted(lost)}"
        if more := runs.keys() - self._planned.keys():
            yield f"accepted by nobody: {sorted(more)}"
        for run_id, row in runs.items():
            reason = row["status_reason"]
            self.statuses[row["status"] if reason is None else f"{row['status']}/{reason}"] += 1
            planned = self._planned.get(run_id)
            cancelled = planned is not None and planned.cancel_after_s is not None
            given_up = (row["status"], reason) in (
                ("paused", "cancelled"),
                ("superseded", "cancelled"),
            )
            if row["status"] != "complete" and not (cancelled and given_up):
                yield f"run {run_id} is not over as it should: {dict(row)}"

    def _effects(
        self, runs: Mapping[str, Mapping[str, Any]], effects: Sequence[tuple[str, str]]
    ) -> Iterator[str]:
        """Each step of a complete run had its effect once: one key a step, and one row a key."""
        count = Counter(effects)
        for effect, times in count.items():
            if times > 1:
                yield f"step {effect[1]} of {effect[0]} had {times} idempotency keys"
        for run_id, row in runs.items():
            if row["status"] == "complete" and any((run_id, step) not in count for step in STEPS):
                yield f"run {run_id} is complete, and a step had no effect"

    async def _states(self, durable: Durable, runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
        """Each thread's state has the steps of its runs once, in order, and its tokens rise."""
        threads = defaultdict[str, list[Planned]](list)
        for one in self._planned.values():
            if runs.get(one.run_id, {}).get("status") == "complete":
                threads[one.thread_id].append(one)
        limit, found = asyncio.Semaphore(10), list[str]()

        async def look(thread_id: str, planned: list[Planned]) -> None:
            async with limit, durable.run(thread_id, "steps", on_busy="wait", timeout=60) as run:
                values = (await run.aget_state()).values
            wanted = [word for one in planned for word in (f"<{one.number}>", *STEPS)]
            if values.get("words") != wanted:
                found.append(f"thread {thread_id} holds {values.get('words')}, not {wanted}")
            found.extend(wrong_tokens(thread_id, values.get("marks", ())))

        await asyncio.gather(*(look(*thread) for thread in threads.items()))
        return found


def wrong_line(thread_id: str, line: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each checkpoint follows the one before it, and each run the one before it: two attempts that
    wrote at once would have forked the line.
    """
    for before, after in zip([None, *line], line, strict=False):
        parent = None if before is None else before["checkpoint_id"]
        if after["parent_checkpoint_id"] != parent:
            yield f"thread {thread_id}: checkpoint {after['checkpoint_id']} does not follow {parent}"
    in_order = [run_id for run_id, _ in groupby(line, lambda row: row["run_id"])]
    if len(in_order) != len(set(in_order)):
        yield f"thread {thread_id}: its runs interleave: {in_order}"


def wrong_tokens(thread_id: str, marks: Sequence[str]) -> Iterator[str]:
    """Fencing tokens rise along the line, and each belongs to one worker."""
    tokens = [int(mark.split()[1]) for mark in marks]
    if tokens != sorted(tokens):
        yield f"thread {thread_id}: its fencing tokens fall: {tokens}"
    if len({tuple(mark.split()[1:]) for mark in marks}) != len(set(tokens)):
        yield f"thread {thread_id}: two workers wrote under one token: {list(marks)}"
