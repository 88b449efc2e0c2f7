"""What a node can learn of the run that executes it."""

from __future__ import annotations

from dataclasses import dataclass

from aiodurable.errors import ConfigurationError
from aiodurable.idempotency import node_config

__all__ = ["RUN_KEY", "CurrentRun", "current_run", "fencing_token"]

RUN_KEY = "__pregel_aiodurable_run"
"""Where a run puts its `CurrentRun` in `config["configurable"]`. As with `SESSION_KEY`, LangGraph
neither stores nor streams it.
"""


@dataclass(frozen=True, slots=True)
class CurrentRun:
    """The run that executes a node.

    Attributes:
        thread_id: its thread.
        run_id: its id in the ledger.
        attempt: the number of this attempt, from 1; 0 where the graph was called with
            `DurableRun.config`, which the ledger does not record.
        graph: the name under which its graph is registered; None: it is not.
        worker: host and process that execute it.
        fencing_token: the number of the thread's lease. It grows with every lease, so a system that
            remembers the largest one it has seen can refuse a process that lost its lease.
    """

    thread_id: str
    run_id: str
    attempt: int
    graph: str | None
    worker: str
    fencing_token: int


def current_run() -> CurrentRun:
    """The run that executes this node, task or tool. Reads the config: no statement.

    Raises:
        ConfigurationError: it was called outside a node or task of a run.
    """
    return _found("current_run()")


def fencing_token() -> int:
    """The fencing token of the run that executes this node, task or tool; see `CurrentRun`.

    Raises:
        ConfigurationError: it was called outside a node or task of a run.
    """
    return _found("fencing_token()").fencing_token


def _found(what: str) -> CurrentRun:
    found: CurrentRun | None = node_config().get(RUN_KEY)
    if found is None:
        raise ConfigurationError(
            f"cannot answer {what}: it is about the run that executes a node; call it inside a node"
            " or a task of a graph that runs through Durable.run or a worker"
        )
    return found
