"""Reads what the database says of a thread, in one snapshot; writes nothing and takes no lease."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from aiodurable.models import MOST_CLAIMED_S, ClaimState, RunStatus, WorkflowCheckpoint
from aiodurable.postgres.errors import is_bad_value
from aiodurable.postgres.fetch import Fetch
from aiodurable.postgres.sql import load
from aiodurable.runs.services import Services
from aiodurable.runs.why.answer import QueueFacts, RunFacts, WhyFacts
from aiodurable.threads.rules import Explained, explain

__all__ = ["Found", "SeenRun", "read"]

_SQL: Final = load("why")
_MOST_RUNS: Final = 10


@dataclass(frozen=True, slots=True)
class SeenRun:
    """A run, and what the conditions of `worker.sql` say of it.

    Attributes:
        facts: the run.
        process_left: whether its process may still have it again.
        claim_void: whether another worker may take its claim back.
        free: whether nothing of its thread is in front of it.
        too_late: whether it has waited longer than it may.
    """

    facts: RunFacts
    process_left: bool
    claim_void: bool
    free: bool
    too_late: bool


@dataclass(frozen=True, slots=True)
class Found:
    """All that `why` goes by.

    Attributes:
        thread: the status that everybody sees.
        called: the status that a call reads under the lease.
        due: whether a sleep or a wait of the thread is over.
        runs: of the thread.
        schedules: when the schedules of its runs that are about this thread fire next, by id; None:
            paused.
        facts: for the answer.
        grace_s: how long a process may take to have its lock again.
    """

    thread: Explained
    called: WorkflowCheckpoint
    due: bool
    runs: tuple[SeenRun, ...]
    schedules: Mapping[str, datetime | None]
    facts: WhyFacts
    grace_s: float


async def read(services: Services, thread_id: str) -> Found:
    """Read a thread."""
    try:
        return await _read(services, thread_id)
    except Exception as error:
        if not is_bad_value(error):
            raise
    return await _read(services, thread_id)  # the classifier is careful from now on


async def _read(services: Services, thread_id: str) -> Found:
    classifier = services.threads.classifier
    async with services.checkpoints.database.snapshot() as fetch:
        (row,) = await fetch(_SQL["thread"], thread_id)
        thread = await explain(classifier, thread_id, fetch)
        called = await explain(classifier, thread_id, fetch, ignore_lock=True)
        seen = await _runs(fetch, thread_id, services.recovery_grace_s)
        waits = called.status.waits
        due = None
        if waits:
            due = await services.ledger.signals.due(thread_id, waits, fetch=fetch)
        waiting = [one.facts for one in seen if one.facts.claim_state is not None]
        queues = await _queues(fetch, waiting)
        made_by = sorted({one.facts.schedule_id for one in seen if one.facts.schedule_id})
        schedules = await fetch(_SQL["schedules"], made_by) if made_by else []
    status = thread.status
    facts = WhyFacts(
        at=row["at"],
        standby=row["standby"],
        lock=status.holder,
        token=row["token"] or None,
        head=status.checkpoint_id,
        step=status.step,
        written_at=None if status.checkpoint_id is None else status.updated_at,
        pending=status.pending,
        finished=thread.finished,
        questions=tuple(str(getattr(one, "id", "")) for one in status.interrupts),
        waits=tuple(wait.name for wait in status.waits),
        runs=tuple(one.facts for one in seen),
        queues=queues,
        signals=tuple(sorted(row["signals"])),
        effects=tuple(row["effects"]),
        workers=row["workers"],
    )
    return Found(
        thread,
        called.status,
        due is not None and bool(due.ended),
        seen,
        {
            one["schedule_id"]: None if one["paused_at"] is not None else one["next_at"]
            for one in schedules
            if one["thread_id"] == thread_id and (one["paused_at"] or one["next_at"])
        },
        facts,
        services.recovery_grace_s,
    )


async def _runs(fetch: Fetch, thread_id: str, grace_s: float) -> tuple[SeenRun, ...]:
    rows = await fetch(_SQL["runs"], thread_id, grace_s, MOST_CLAIMED_S, _MOST_RUNS)
    return tuple(map(_seen, rows))


def _seen(row: Mapping[str, Any]) -> SeenRun:
    state = None if row["claim_state"] is None else ClaimState(row["claim_state"])
    last = row["last_run_id"] if row["last_status"] != RunStatus.COMPLETE else None
    behind = row["earlier_run_id"] or last
    facts = RunFacts(
        run_id=row["run_id"],
        graph=row["graph"],
        status=RunStatus(row["status"]),
        reason=row["status_reason"],
        attempts=row["attempts"],
        failures=row["failures"],
        max_attempts=row["max_attempts"],
        token=row["fencing_token"],
        worker=row["attempted_by"],
        process_seen=row["process_seen"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        failed_at=row["failed_at"],
        cancel_requested_at=row["cancel_requested_at"],
        claim_state=state,
        claimed_by=row["claimed_by"],
        queue=row["queue"],
        priority=row["priority"] or 0,
        fairness_key=row["fairness_key"] or None,
        concurrency_key=row["concurrency_key"],
        scheduled_at=row["scheduled_at"],
        schedule_id=row["schedule_id"],
        waiting_for=None if row["waiting_for"] is None else tuple(row["waiting_for"]),
        behind=behind if state is ClaimState.BLOCKED and behind != row["run_id"] else None,
        on_busy=row["on_busy"],
        graph_changed=row["graph_changed"],
    )
    return SeenRun(
        facts,
        bool(row["process_left"]),
        bool(row["claim_void"]),
        bool(row["free"]) and row["earlier_run_id"] is None,
        bool(row["too_late"]),
    )


async def _queues(fetch: Fetch, waiting: Sequence[RunFacts]) -> tuple[QueueFacts, ...]:
    """The queues of these runs, one for each concurrency key."""
    asked = list(dict.fromkeys((run.queue, run.concurrency_key) for run in waiting if run.queue))
    if not asked:
        return ()
    rows = await fetch(_SQL["queues"], *map(list, zip(*asked, strict=True)))
    return tuple(
        QueueFacts(
            name=row["name"],
            paused=row["paused"],
            max_running=row["max_running"],
            max_running_per_key=row["max_running_per_key"],
            rate=row["rate"],
            tokens=row["tokens"],
            at_work=row["at_work"],
            concurrency_key=row["key"],
            at_work_of_key=row["at_work_of_key"],
            oldest_of_key=row["oldest_of_key"],
        )
        for row in rows
    )
