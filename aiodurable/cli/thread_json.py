"""A thread's status as JSON, with the same keys in every command."""

from __future__ import annotations

from typing import Any

from aiodurable.jsonable import json_text
from aiodurable.models import WorkflowCheckpoint

__all__ = ["thread_fields", "thread_json"]


def thread_json(thread: WorkflowCheckpoint) -> str:
    """One object on one line. Never raises, whatever values the thread has."""
    return json_text(thread_fields(thread))


def thread_fields(thread: WorkflowCheckpoint) -> dict[str, Any]:
    """The fields by name. Times are ISO 8601, durations are seconds."""
    holder = thread.holder
    return {
        "thread_id": thread.thread_id,
        "status": thread.status,
        "graph": thread.graph,
        "checkpoint_id": thread.checkpoint_id,
        "step": thread.step,
        "pending": thread.pending,
        "failed_node": thread.failed_node,
        "failed_path": thread.failed_path,
        "error": thread.error,
        "interrupts": [
            {"id": getattr(question, "id", None), "value": getattr(question, "value", question)}
            for question in thread.interrupts
        ],
        "updated_at": thread.updated_at and thread.updated_at.isoformat(),
        "age_s": thread.age and round(thread.age.total_seconds(), 3),
        "holder": (
            holder
            and {
                "role": holder.role,
                "authorized": holder.authorized,
                "application": holder.application,
                "client": holder.client,
                "backend_pid": holder.pid,
                "since": holder.since and holder.since.isoformat(),
            }
        ),
        "run_id": thread.run_id,
        "attempts": thread.attempts,
        "started_at": thread.started_at and thread.started_at.isoformat(),
        "finished_at": thread.finished_at and thread.finished_at.isoformat(),
        "failed_at": thread.failed_at and thread.failed_at.isoformat(),
        "reason": thread.reason,
        "doubt": thread.doubt,
        "resumable": thread.resumable,
    }
