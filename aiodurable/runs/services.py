"""The services that a run uses, opened by `Durable`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiodurable.checkpoints import AsyncCheckpointerPool
from aiodurable.events import Observer
from aiodurable.locks import PostgresLockManager
from aiodurable.runs.cancellation import Cancellations
from aiodurable.runs.graphs import Graphs
from aiodurable.runs.ledger import Ledger
from aiodurable.runs.retry_policy import RetryPolicy
from aiodurable.threads import ThreadReader

__all__ = ["Services"]


@dataclass(frozen=True, slots=True)
class Services:
    """The open services, and how runs use them.

    Attributes:
        graphs: those that the `Durable` was given, by name.
        recovery_grace_s: seconds within which a lost lock may be reacquired before its lease counts
            as lost; 0: a lost lock is a lost lease.
        observers: called with every event.
        retry_policies: by graph, for runs that were accepted without a policy.
        repair_tool_calls: graphs whose open tool calls get a result before a worker begins a run.
    """

    locks: PostgresLockManager
    checkpoints: AsyncCheckpointerPool
    threads: ThreadReader
    ledger: Ledger
    cancellations: Cancellations
    graphs: Graphs
    recovery_grace_s: float
    observers: Sequence[Observer]
    retry_policies: Mapping[str, RetryPolicy]
    repair_tool_calls: frozenset[str]
