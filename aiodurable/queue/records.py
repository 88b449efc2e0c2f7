"""Reads rows of `postgres/sql/queue.sql`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from aiodurable.errors import RunNotFoundError
from aiodurable.models import ClaimState, RunRecord
from aiodurable.postgres.sql import load
from aiodurable.runs.accepted import record_of

__all__ = ["SQL", "not_found", "queued_record"]

SQL: Final = load("queue")

_SAME: Final = (
    "queue",
    "concurrency_key",
    "scheduled_at",
    "max_attempts",
    "timeout_s",
    "start_timeout_s",
    "dedup_key",
    "cancel_requested_at",
    "summary",
    "schedule_id",
)


def queued_record(row: Mapping[str, Any]) -> RunRecord:
    """The record of a row, with what concerns its queue."""
    metadata = row["metadata"]
    return replace(
        record_of(row),
        **{name: row[name] for name in _SAME},
        claim_state=None if row["claim_state"] is None else ClaimState(row["claim_state"]),
        priority=row["priority"] or 0,
        fairness_key=row["fairness_key"] or None,
        metadata=json.loads(metadata) if isinstance(metadata, str) else metadata,
    )


def not_found(run_id: str) -> RunNotFoundError:
    """The error for a run that the ledger does not have."""
    return RunNotFoundError(
        f"cannot find run {run_id!r}: it was never accepted, or was pruned; check the id",
        run_id=run_id,
    )
