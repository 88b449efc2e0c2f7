"""Runs that are accepted now and begun by a worker: `durable.runs`, and the queues that they wait
in.
"""

from aiodurable.queue.new_run import NewRun
from aiodurable.queue.retry_policy import RetryPolicy, Snooze
from aiodurable.queue.search import RunFilters, RunPage
from aiodurable.queue.service import Runs

__all__ = ["NewRun", "RetryPolicy", "RunFilters", "RunPage", "Runs", "Snooze"]
