"""Durable LangGraph workflows on Postgres alone: not lost, not run twice.

async with Durable("postgresql://…", graphs={"report": builder}) as durable:
    async with durable.run("report", thread_id) as run:
        result = await run.ainvoke({"topic": "tides"})
"""

from aiodurable.checkpoints import AsyncCheckpointerPool, DurableSaver, create_checkpointer
from aiodurable.durable import (
    Durable,
    durable_run,
    find_failed_workflows,
    get_checkpoint_status,
    needs_resume,
    resume_workflow,
)
from aiodurable.errors import (
    AiodurableError,
    CircuitOpenError,
    ClosedError,
    ConfigurationError,
    GraphNotRegisteredError,
    LeaseLostError,
    LockBusyError,
    LockCapacityError,
    LockError,
    LockTimeoutError,
    NotResumableError,
    PoolerNotSupportedError,
    PostgresUnavailableError,
    ResumeLimitError,
    SchemaMismatchError,
    ThreadInterruptedError,
    ThreadNotFoundError,
    WorkflowAlreadyRunningError,
    WorkflowExecutionError,
)
from aiodurable.idempotency import idempotency_key
from aiodurable.locks import Lease, PostgresLockManager, create_lock_manager_with_retry
from aiodurable.model import LockHolder, RunRecord, RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.run import DurableRun
from aiodurable.settings import Settings
from aiodurable.workflow import LockableWorkflowMixin, WorkflowExecutor, with_workflow_lock

__all__ = [
    "AiodurableError",
    "AsyncCheckpointerPool",
    "CircuitOpenError",
    "ClosedError",
    "ConfigurationError",
    "Durable",
    "DurableRun",
    "DurableSaver",
    "GraphNotRegisteredError",
    "Lease",
    "LeaseLostError",
    "LockBusyError",
    "LockCapacityError",
    "LockError",
    "LockHolder",
    "LockTimeoutError",
    "LockableWorkflowMixin",
    "NotResumableError",
    "PoolerNotSupportedError",
    "PostgresLockManager",
    "PostgresUnavailableError",
    "ResumeLimitError",
    "RunRecord",
    "RunStatus",
    "SchemaMismatchError",
    "Settings",
    "ThreadInterruptedError",
    "ThreadNotFoundError",
    "ThreadStatus",
    "WorkflowAlreadyRunningError",
    "WorkflowCheckpoint",
    "WorkflowExecutionError",
    "WorkflowExecutor",
    "create_checkpointer",
    "create_lock_manager_with_retry",
    "durable_run",
    "find_failed_workflows",
    "get_checkpoint_status",
    "idempotency_key",
    "needs_resume",
    "resume_workflow",
    "with_workflow_lock",
]
