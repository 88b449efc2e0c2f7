"""Claim runs: the rows that a worker is about to begin, and what becomes of those it does not."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiodurable.errors import StatementRefusedError
from aiodurable.models import MOST_CLAIMED_S, ClaimState
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.errors import is_conflict
from aiodurable.postgres.retry import QUEUE_ROW
from aiodurable.postgres.sql import load
from aiodurable.runs.busy import Newcomer, interrupt, locked_threads
from aiodurable.runs.retry_policy import RetryPolicy, stored_policy
from aiodurable.runs.services import Services

__all__ = ["Claimed", "Claims", "Signs"]

SQL: Final = load("worker")
_MOST_DUE: Final = 500
"""Rows that one look at what is due or limited reads."""
_MOST_BLOCKED: Final = 2000
"""Threads of which one look sees whether their next run may begin."""
_MOST_LIMITED: Final = 2000
"""Rows of one key without capacity that one statement sets aside."""
_NUMBERS = itertools.count(1)
_AT_WORK: Final = set[str]()
"""The workers of this process: each leaves the claims of the others alone."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """A run that this worker has claimed.

    Attributes:
        run_id, thread_id, graph, queue: of the run.
        status: how it stood: queued, or what it goes on from.
        concurrency_key: of the run; None: none.
        failures: how many attempts in a row have failed without progress.
        max_attempts: how many may; None: as its policy says.
        policy: its own retry policy; None: the worker's.
        timeout_s: how long an attempt may take.
        base_checkpoint_id: the thread's newest checkpoint when its last attempt began.
        beside_others: whether its last process died with other runs at work.
        too_late: whether it has waited longer than it may.
        waited_s: seconds since it was accepted or due; None: it did not wait for a worker.
    """

    run_id: str
    thread_id: str
    graph: str
    queue: str
    status: str
    concurrency_key: str | None
    failures: int
    max_attempts: int | None
    policy: RetryPolicy | None
    timeout_s: float | None
    base_checkpoint_id: str | None
    beside_others: bool
    too_late: bool
    waited_s: float | None = None


@dataclass(frozen=True, slots=True)
class Signs:
    """What there is to do.

    Attributes:
        ready: whether a run may be claimed.
        due_s: seconds until the next one is due; None: none is scheduled.
        slot_due_s: seconds until the next slot of a schedule is due; None: there is none.
        untidy: whether any waits for its thread or its limit, or for the worker that claimed it.
        running: whether any is at work, here or elsewhere.
    """

    ready: bool
    due_s: float | None
    slot_due_s: float | None
    untidy: bool
    running: bool

    @property
    def is_due(self) -> bool:
        """Whether a scheduled run is due."""
        return self.due_s is not None and self.due_s <= 0


class Claims:
    """The claims of one worker.

    Args:
        services: the open services.
        queues: those it serves.

    Attributes:
        again_s: seconds from the last claim until the next one, where nobody announces what that
            may begin: a queue had spent its rate, or another worker claimed from it; None: neither
            was so.
    """

    def __init__(self, services: Services, queues: Sequence[str]) -> None:
        self._services = services
        self._queues = tuple(queues)
        self._graphs = [bound.name for bound in services.graphs.registered if bound.name]
        self._cursors = dict.fromkeys(self._queues, "")
        self._limited = set[str]()
        self._turns = itertools.count()
        self._locked = Counter[str]()
        self._blocked_after = ""
        self._limited_after = ("", "")
        self._put_back = set[str]()
        self.again_s: float | None = None
        self._promotions = Batcher(self._promote, shared=True, name="aiodurable next runs")
        self._keys = Batcher(self._promote_keys, shared=True, name="aiodurable limited runs")
        self._process = services.ledger.worker
        self.worker = f"{self._process}#{next(_NUMBERS)}"
        _AT_WORK.add(self.worker)

    def close(self) -> None:
        """Leave what this worker has claimed and not begun to the others."""
        _AT_WORK.discard(self.worker)

    @property
    def graphs(self) -> list[str]:
        """The names of the graphs that it has."""
        return self._graphs

    async def claim(self, most: int) -> list[Claimed]:
        """Claim up to `most` runs that are ready."""
        self.again_s = None
        rows = list[Mapping[str, Any]]()
        for queues in self._in_turn():
            more = len(rows) < most
            if more and self._limited.isdisjoint(queues):
                arguments = self._claim_arguments(queues, most - len(rows), limited=False)
                rows += await self._fetch("claim", *arguments)
                continue
            while more and len(rows) < most:
                claimed, more = await self._claim_limited(queues[0], most - len(rows))
                rows += claimed
        for row in rows:
            self._cursors[row["queue"]] = row["fairness_key"]
        return [_claimed(row) for row in rows]

    def _in_turn(self) -> list[list[str]]:
        """The queues that one statement claims from: all those without limits, and each other one.
        Each of these groups comes first in its turn: where more is ready than may be begun, the
        last one gets nothing.
        """
        free = [queue for queue in self._queues if queue not in self._limited]
        groups = [free] if free else []
        groups += ([queue] for queue in self._queues if queue in self._limited)
        first = next(self._turns) % len(groups)
        return groups[first:] + groups[:first]

    async def _claim_limited(self, queue: str, most: int) -> tuple[list[Mapping[str, Any]], bool]:
        """Claim within the limits of a queue, whose row is locked meanwhile. Nothing, where another
        transaction has locked it.

        Returns:
            The rows, and whether keys without capacity stood before others: these come next.
        """
        async with self._services.checkpoints.database.transaction() as fetch:
            (limit,) = await fetch(SQL["limits"], queue)
            if limit["limited"] and not limit["mine"]:
                self._locked[queue] += 1
                self._again_within(QUEUE_ROW.pause_s(self._locked[queue]))
                return [], False
            self._locked[queue] = 0
            if limit["paused"]:
                return [], False
            running = Counter[str | None]()
            if limit["max_running"] is not None or limit["max_running_per_key"] is not None:
                for row in await fetch(SQL["at_work_of"], queue):
                    running[row["concurrency_key"]] = row["count"]
            if limit["max_running"] is not None:
                most = min(most, limit["max_running"] - running.total())
            if limit["tokens"] is not None:
                most = min(most, math.floor(limit["tokens"]))
                if limit["tokens"] < 1:
                    self._again_within((1 - limit["tokens"]) / limit["rate"])
            if most < 1:
                return [], False
            rows = await fetch(SQL["claim"], *self._claim_arguments([queue], most, limited=True))
            per_key, over = limit["max_running_per_key"], list[Mapping[str, Any]]()
            if per_key is not None:
                rows, over = _within(rows, per_key, running)
                if over:
                    run_ids = [row["run_id"] for row in over]
                    await fetch(
                        SQL["put_back"], run_ids, self.worker, ClaimState.LIMITED, None, None
                    )
                    full = sorted({row["concurrency_key"] for row in over})
                    await fetch(SQL["limit_full"], queue, full, _MOST_LIMITED)
            if rows and limit["tokens"] is not None:
                await fetch(SQL["spend"], queue, len(rows))
            return list(rows), bool(over)

    def _again_within(self, seconds: float) -> None:
        self.again_s = seconds if self.again_s is None else min(seconds, self.again_s)

    def _claim_arguments(self, queues: list[str], most: int, *, limited: bool) -> tuple[Any, ...]:
        cursors = [self._cursors[queue] for queue in queues]
        return (queues, cursors, self._graphs, self.worker, most, limited)

    async def put_back(
        self,
        claimed: Sequence[Claimed],
        state: ClaimState | None,
        after_s: float | None = None,
        *,
        misfit: str | None = None,
    ) -> bool:
        """Leave claimed runs that were not begun to somebody else, or to later. Whether any was
        put back: not one that was cancelled, given to another worker, or whose row another
        transaction has locked.

        Args:
            claimed: the runs.
            state: what a worker may do with them then; None: nothing.
            after_s: seconds until they are due; None: they are not scheduled.
            misfit: how the graph does not fit them, for their rows; None: that is not why.
        """
        run_ids = [one.run_id for one in claimed]
        left = await self._fetch("put_back", run_ids, self.worker, state, after_s, misfit)
        if state is ClaimState.BLOCKED:
            self._put_back.update(one.thread_id for one in claimed)
        return bool(left)

    async def set_aside(
        self,
        run_id: str,
        *,
        reason: str | None,
        error: str | None = None,
        traceback: str | None = None,
    ) -> bool:
        """Quarantine a claimed run that cannot be begun, or whose processes died too often. Whether
        it was set aside; see `put_back`.
        """
        return bool(await self._fetch("set_aside", run_id, self.worker, reason, error, traceback))

    async def give_back(self, mine: Sequence[str]) -> None:
        """Leave what this worker has claimed, and knows nothing of any more, to the others: those
        of other processes take it for at work as long as this process lives.
        """
        await self._fetch(
            "abandoned", self._process, self.worker, list(mine), list(_AT_WORK), MOST_CLAIMED_S
        )

    async def ended(self, claimed: Claimed) -> None:
        """Make ready what waited for this run."""
        await self._promotions(claimed.thread_id)
        if claimed.concurrency_key is not None:
            await self._keys((claimed.queue, claimed.concurrency_key))

    async def tidy(self, mine: Sequence[str], *, free: int = _MOST_DUE) -> Signs:
        """Make ready what is due, and what waits for nothing that is left; what is to do then.

        Args:
            mine: the runs that this worker knows of.
            free: how many it may begin: others are woken for the rest.
        """
        await self._promote_due(free)
        await self._services.ledger.signals.wake_unheard()
        await self.give_back(mine)
        await self._promote_blocked()
        after, self._limited_after = self._limited_after, ("", "")
        if keys := await self._fetch("limited_keys", *after, _MOST_DUE):
            found = [(key["queue"], key["concurrency_key"]) for key in keys]
            self._limited_after = found[-1] if len(found) == _MOST_DUE else ("", "")
            await self._promote_keys(found)
        return await self.signs()

    async def _promote_due(self, free: int) -> None:
        """Make ready what is due. What has to wait for a locked row hides nothing behind it."""
        left = list[str]()
        while True:
            due = await self._fetch("due", _MOST_DUE, free, left)
            interrupting = [run for run in due if run["interrupts"]]
            stays = await self._interrupt_for(interrupting) if interrupting else []
            left += stays
            if not stays or len(due) < _MOST_DUE:
                return

    async def _promote_blocked(self) -> None:
        """Look again at what this worker could not begin, and at the next threads of all."""
        put_back, self._put_back = self._put_back, set[str]()
        try:
            rows = await self._fetch("blocked_threads", self._blocked_after, _MOST_BLOCKED)
            threads = [row["thread_id"] for row in rows]
            if threads or put_back:
                await self._services.ledger.queued.promote(
                    [*put_back.difference(threads), *threads]
                )
        except BaseException:  # a cancellation too: they are looked at next time
            self._put_back |= put_back
            raise
        self._blocked_after = threads[-1] if len(threads) == _MOST_BLOCKED else ""

    async def signs(self) -> Signs:
        """What there is to do."""
        (row,) = await self._fetch("signs", list(self._queues))
        self._limited = set(row["limited_queues"])
        return Signs(row["ready"], row["due_s"], row["slot_due_s"], row["untidy"], row["running"])

    async def _interrupt_for(self, due: Sequence[Mapping[str, Any]]) -> list[str]:
        """Have what their threads have left make way for runs that are due, unless another worker
        has done so. Returns the run_ids of those that stay due: another transaction has locked a
        run of their thread.
        """
        try:
            async with self._services.checkpoints.database.transaction() as fetch:
                locked = await locked_threads(fetch, {run["thread_id"] for run in due})
                stay = [run["run_id"] for run in due if run["thread_id"] in locked]
                free = [run["run_id"] for run in due if run["thread_id"] not in locked]
                if free and (runs := await fetch(SQL["interrupts_now"], free)):
                    runs = sorted(runs, key=lambda run: (run["scheduled_at"], run["position"]))
                    await interrupt(
                        fetch,
                        (Newcomer(run["thread_id"], run["run_id"], run["on_busy"]) for run in runs),
                    )
        except StatementRefusedError as error:
            if not is_conflict(error):
                raise
            return [run["run_id"] for run in due]  # a row came in front, and was locked, meanwhile
        return stay

    async def _promote(self, thread_ids: Sequence[str]) -> dict[str, bool]:
        await self._services.ledger.queued.promote(thread_ids)
        return dict.fromkeys(thread_ids, True)

    async def _promote_keys(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], bool]:
        await self._fetch("promote_limited", *map(list, zip(*keys, strict=True)))
        return dict.fromkeys(keys, True)

    async def _fetch(self, statement: str, *arguments: Any) -> list[Any]:
        return await self._services.checkpoints.direct.fetch(SQL[statement], *arguments)


def _within(
    rows: Sequence[Mapping[str, Any]], per_key: int, running: Counter[str | None]
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """The rows that their concurrency keys leave capacity for, and the others."""
    kept, over = list[Mapping[str, Any]](), list[Mapping[str, Any]]()
    for row in rows:
        key = row["concurrency_key"]
        if key is not None and running[key] >= per_key:
            over.append(row)
        else:
            running[key] += 1
            kept.append(row)
    return kept, over


def _claimed(row: Mapping[str, Any]) -> Claimed:
    return Claimed(
        row["run_id"],
        row["thread_id"],
        row["graph"],
        row["queue"],
        row["status"],
        row["concurrency_key"],
        row["failures"],
        row["max_attempts"],
        stored_policy(row["retry_policy"]),
        row["timeout_s"],
        row["base_checkpoint_id"],
        row["beside_others"],
        row["too_late"],
        row["waited_s"],
    )
