"""Every action by the name that is in its address: `/act/NAME`."""

from __future__ import annotations

from collections.abc import Mapping

from aiodurable.dashboard.actions.act import Act
from aiodurable.dashboard.actions.on_checkpoints import PRUNE
from aiodurable.dashboard.actions.on_many_threads import BULK
from aiodurable.dashboard.actions.on_questions import ANSWER
from aiodurable.dashboard.actions.on_queues import PAUSE_QUEUE, RESUME_QUEUE, SCALE_QUEUE
from aiodurable.dashboard.actions.on_runs import CANCEL_RUN, RETRY_RUN
from aiodurable.dashboard.actions.on_schedules import (
    BACKFILL_SCHEDULE,
    PAUSE_SCHEDULE,
    RESUME_SCHEDULE,
    TRIGGER_SCHEDULE,
)
from aiodurable.dashboard.actions.on_threads import CANCEL, DELETE, FORK, RESUME, RETRY

__all__ = ["ACTS"]

ACTS: Mapping[str, Act] = {
    "resume": RESUME,
    "retry": RETRY,
    "fork": FORK,
    "cancel": CANCEL,
    "answer": ANSWER,
    "delete": DELETE,
    "retry_run": RETRY_RUN,
    "cancel_run": CANCEL_RUN,
    "prune": PRUNE,
    "pause_queue": PAUSE_QUEUE,
    "resume_queue": RESUME_QUEUE,
    "scale_queue": SCALE_QUEUE,
    "pause_schedule": PAUSE_SCHEDULE,
    "resume_schedule": RESUME_SCHEDULE,
    "trigger_schedule": TRIGGER_SCHEDULE,
    "backfill_schedule": BACKFILL_SCHEDULE,
    **BULK,
}
