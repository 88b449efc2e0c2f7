"""Runs that are accepted now and begun by a worker: `durable.runs`, `durable.queues` and
`durable.schedules`.

`new_run` checks what a run is accepted with, `acceptance` writes it, `waiting` waits for its end.
`slots` computes when a schedule fires; the scheduler of a worker accepts the runs.
"""

from aiodurable.queue.new_run import NewRun
from aiodurable.queue.queues import Queues, QueueStatus
from aiodurable.queue.resume_many import ResumeReport
from aiodurable.queue.runs import Runs
from aiodurable.queue.schedule_records import Schedule, SchedulePage, SlotRun
from aiodurable.queue.schedules import Schedules
from aiodurable.queue.search import RunFilters, RunPage
from aiodurable.runs.retry_policy import RetryPolicy, Snooze

__all__ = [
    "NewRun",
    "QueueStatus",
    "Queues",
    "ResumeReport",
    "RetryPolicy",
    "RunFilters",
    "RunPage",
    "Runs",
    "Schedule",
    "SchedulePage",
    "Schedules",
    "SlotRun",
    "Snooze",
]
