"""Durable LangGraph workflows on Postgres alone: not lost, not run twice.

async with Durable("postgresql://…", graphs={"report": builder}) as durable:
    async with durable.run(thread_id, "report") as run:
        result = await run.ainvoke({"topic": "tides"})
"""

from importlib import import_module
from typing import Any

# A name's room is entered when the name is first used (PEP 562): `import aiodurable` alone costs next to nothing, and
# LangGraph with two drivers well over a second. Type checkers read the same names in __init__.pyi.
_ROOMS = {
    "checkpoints": (
        "AsyncCheckpointerPool",
        "DurableSaver",
        "create_checkpointer",
    ),
    "durable": ("Durable",),
    "current": (
        "cancel",
        "delete",
        "durable_run",
        "find_failed_workflows",
        "find_workflows",
        "fork",
        "get_checkpoint_status",
        "history",
        "needs_resume",
        "prune",
        "resume_workflow",
        "retry",
    ),
    "errors": (
        "AiodurableError",
        "AlreadyAnsweredError",
        "CheckpointNotFoundError",
        "CircuitOpenError",
        "ClosedError",
        "ConfigurationError",
        "GraphChangedError",
        "GraphNotRegisteredError",
        "HistoryLostError",
        "InvalidArgumentError",
        "LeaseLostError",
        "LockBusyError",
        "LockCapacityError",
        "LockError",
        "LockTimeoutError",
        "NotResumableError",
        "NothingToAnswerError",
        "OutOfResourcesError",
        "PoolerNotSupportedError",
        "PostgresUnavailableError",
        "ResultPrunedError",
        "ResumeLimitError",
        "RunCancelledError",
        "SchemaMismatchError",
        "ThreadInterruptedError",
        "ThreadNotFoundError",
        "ThreadPausedError",
        "WorkflowAlreadyRunningError",
        "WorkflowExecutionError",
    ),
    "idempotency": ("idempotency_key",),
    "locks": (
        "Lease",
        "PostgresLockManager",
        "create_lock_manager_with_retry",
    ),
    "models": (
        "UNFINISHED",
        "LockHolder",
        "PauseReason",
        "RunRecord",
        "RunStatus",
        "StoredObject",
        "ThreadStatus",
        "WorkflowCheckpoint",
    ),
    "runs.check": ("ThreadCheck",),
    "runs.graph_check": (
        "Problem",
        "ProblemKind",
    ),
    "runs.health": ("Health",),
    "runs.run": ("DurableRun",),
    "settings": ("Settings",),
    "threads": (
        "Pruned",
        "ThreadCounts",
        "ThreadFilters",
        "ThreadPage",
        "ThreadStep",
    ),
    "workflow": (
        "LockableWorkflowMixin",
        "WorkflowExecutor",
        "with_workflow_lock",
    ),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}

# Derived, so that the two cannot disagree.
__all__ = list(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
