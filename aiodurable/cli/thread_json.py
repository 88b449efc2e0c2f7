"""A thread's status as JSON: the same keys in `status --json` and `list --json`."""

from __future__ import annotations

import json
from typing import Any

from aiodurable.model import WorkflowCheckpoint

__all__ = ["thread_json"]


def thread_json(thread: WorkflowCheckpoint) -> str:
    """One object on one line. Times are ISO 8601; the questions' values as JSON where they can be, else as `repr`."""
    holder = thread.holder
    fields: dict[str, Any] = {
        "thread_id": thread.thread_id,
        "status": thread.status,
        "graph": thread.graph,
        "checkpoint_id": thread.checkpoint_id,
        "step": thread.step,
        "pending": thread.pending,
        "failed_node": thread.failed_node,
        "error": thread.error,
        "interrupts": [
            {"id": getattr(question, "id", None), "value": getattr(question, "value", question)}
            for question in thread.interrupts
        ],
        "updated_at": thread.updated_at and thread.updated_at.isoformat(),
        "holder": holder
        and {
            "application": holder.application,
            "client": holder.client,
            "backend_pid": holder.pid,
            "since": holder.since and holder.since.isoformat(),
        },
        "run_id": thread.run_id,
        "attempts": thread.attempts,
        "reason": thread.reason,
    }
    return json.dumps(fields, default=repr)
