from aiodurable.checkpoints import (
    AsyncCheckpointerPool as AsyncCheckpointerPool,
)
from aiodurable.checkpoints import (
    DurableSaver as DurableSaver,
)
from aiodurable.checkpoints import (
    create_checkpointer as create_checkpointer,
)
from aiodurable.current import (
    cancel as cancel,
)
from aiodurable.current import (
    delete as delete,
)
from aiodurable.current import (
    durable_run as durable_run,
)
from aiodurable.current import (
    find_failed_workflows as find_failed_workflows,
)
from aiodurable.current import (
    find_workflows as find_workflows,
)
from aiodurable.current import (
    fork as fork,
)
from aiodurable.current import (
    get_checkpoint_status as get_checkpoint_status,
)
from aiodurable.current import (
    history as history,
)
from aiodurable.current import (
    needs_resume as needs_resume,
)
from aiodurable.current import (
    prune as prune,
)
from aiodurable.current import (
    resume_workflow as resume_workflow,
)
from aiodurable.current import (
    retry as retry,
)
from aiodurable.durable import (
    Durable as Durable,
)
from aiodurable.errors import (
    AiodurableError as AiodurableError,
)
from aiodurable.errors import (
    AlreadyAnsweredError as AlreadyAnsweredError,
)
from aiodurable.errors import (
    CheckpointNotFoundError as CheckpointNotFoundError,
)
from aiodurable.errors import (
    CircuitOpenError as CircuitOpenError,
)
from aiodurable.errors import (
    ClosedError as ClosedError,
)
from aiodurable.errors import (
    ConfigurationError as ConfigurationError,
)
from aiodurable.errors import (
    GraphChangedError as GraphChangedError,
)
from aiodurable.errors import (
    GraphNotRegisteredError as GraphNotRegisteredError,
)
from aiodurable.errors import (
    HistoryLostError as HistoryLostError,
)
from aiodurable.errors import (
    InvalidArgumentError as InvalidArgumentError,
)
from aiodurable.errors import (
    LeaseLostError as LeaseLostError,
)
from aiodurable.errors import (
    LockBusyError as LockBusyError,
)
from aiodurable.errors import (
    LockCapacityError as LockCapacityError,
)
from aiodurable.errors import (
    LockError as LockError,
)
from aiodurable.errors import (
    LockTimeoutError as LockTimeoutError,
)
from aiodurable.errors import (
    NothingToAnswerError as NothingToAnswerError,
)
from aiodurable.errors import (
    NotResumableError as NotResumableError,
)
from aiodurable.errors import (
    OutOfResourcesError as OutOfResourcesError,
)
from aiodurable.errors import (
    PoolerNotSupportedError as PoolerNotSupportedError,
)
from aiodurable.errors import (
    PostgresUnavailableError as PostgresUnavailableError,
)
from aiodurable.errors import (
    ResultPrunedError as ResultPrunedError,
)
from aiodurable.errors import (
    ResumeLimitError as ResumeLimitError,
)
from aiodurable.errors import (
    RunCancelledError as RunCancelledError,
)
from aiodurable.errors import (
    SchemaMismatchError as SchemaMismatchError,
)
from aiodurable.errors import (
    ThreadInterruptedError as ThreadInterruptedError,
)
from aiodurable.errors import (
    ThreadNotFoundError as ThreadNotFoundError,
)
from aiodurable.errors import (
    ThreadPausedError as ThreadPausedError,
)
from aiodurable.errors import (
    WorkflowAlreadyRunningError as WorkflowAlreadyRunningError,
)
from aiodurable.errors import (
    WorkflowExecutionError as WorkflowExecutionError,
)
from aiodurable.idempotency import (
    idempotency_key as idempotency_key,
)
from aiodurable.locks import (
    Lease as Lease,
)
from aiodurable.locks import (
    PostgresLockManager as PostgresLockManager,
)
from aiodurable.locks import (
    create_lock_manager_with_retry as create_lock_manager_with_retry,
)
from aiodurable.models import (
    UNFINISHED as UNFINISHED,
)
from aiodurable.models import (
    LockHolder as LockHolder,
)
from aiodurable.models import (
    PauseReason as PauseReason,
)
from aiodurable.models import (
    RunRecord as RunRecord,
)
from aiodurable.models import (
    RunStatus as RunStatus,
)
from aiodurable.models import (
    StoredObject as StoredObject,
)
from aiodurable.models import (
    ThreadStatus as ThreadStatus,
)
from aiodurable.models import (
    WorkflowCheckpoint as WorkflowCheckpoint,
)
from aiodurable.runs.check import (
    ThreadCheck as ThreadCheck,
)
from aiodurable.runs.graph_check import (
    Problem as Problem,
)
from aiodurable.runs.graph_check import (
    ProblemKind as ProblemKind,
)
from aiodurable.runs.health import (
    Health as Health,
)
from aiodurable.runs.run import (
    DurableRun as DurableRun,
)
from aiodurable.settings import (
    Settings as Settings,
)
from aiodurable.threads import (
    Pruned as Pruned,
)
from aiodurable.threads import (
    ThreadCounts as ThreadCounts,
)
from aiodurable.threads import (
    ThreadFilters as ThreadFilters,
)
from aiodurable.threads import (
    ThreadPage as ThreadPage,
)
from aiodurable.threads import (
    ThreadStep as ThreadStep,
)
from aiodurable.workflow import (
    LockableWorkflowMixin as LockableWorkflowMixin,
)
from aiodurable.workflow import (
    WorkflowExecutor as WorkflowExecutor,
)
from aiodurable.workflow import (
    with_workflow_lock as with_workflow_lock,
)

__all__ = [
    "UNFINISHED",
    "AiodurableError",
    "AlreadyAnsweredError",
    "AsyncCheckpointerPool",
    "CheckpointNotFoundError",
    "CircuitOpenError",
    "ClosedError",
    "ConfigurationError",
    "Durable",
    "DurableRun",
    "DurableSaver",
    "GraphChangedError",
    "GraphNotRegisteredError",
    "Health",
    "HistoryLostError",
    "InvalidArgumentError",
    "Lease",
    "LeaseLostError",
    "LockBusyError",
    "LockCapacityError",
    "LockError",
    "LockHolder",
    "LockTimeoutError",
    "LockableWorkflowMixin",
    "NotResumableError",
    "NothingToAnswerError",
    "OutOfResourcesError",
    "PauseReason",
    "PoolerNotSupportedError",
    "PostgresLockManager",
    "PostgresUnavailableError",
    "Problem",
    "ProblemKind",
    "Pruned",
    "ResultPrunedError",
    "ResumeLimitError",
    "RunCancelledError",
    "RunRecord",
    "RunStatus",
    "SchemaMismatchError",
    "Settings",
    "ThreadCheck",
    "ThreadCounts",
    "ThreadFilters",
    "ThreadInterruptedError",
    "ThreadNotFoundError",
    "ThreadPage",
    "ThreadPausedError",
    "ThreadStatus",
    "ThreadStep",
    "WorkflowAlreadyRunningError",
    "WorkflowCheckpoint",
    "WorkflowExecutionError",
    "WorkflowExecutor",
    "cancel",
    "create_checkpointer",
    "create_lock_manager_with_retry",
    "delete",
    "durable_run",
    "find_failed_workflows",
    "find_workflows",
    "fork",
    "get_checkpoint_status",
    "history",
    "idempotency_key",
    "needs_resume",
    "prune",
    "resume_workflow",
    "retry",
    "with_workflow_lock",
]
