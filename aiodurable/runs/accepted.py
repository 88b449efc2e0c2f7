"""Accepted runs: rows of the ledger with the stored values that a resumption decodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.models import EarlierAttempt, RunRecord, RunStatus
from aiodurable.runs.retry_policy import Retries
from aiodurable.runs.stored_value import StoredValue, load_value

__all__ = ["Accepted", "Loaded", "Needed", "accepted_of", "record_of"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run in the ledger, with the stored values that a resumption needs.

    Attributes:
        record: the row.
        stored_input: its input; empty if the run adopted the work of plain LangGraph.
        stored_context: its context.
        stored_config: the stored part of its config.
        stored_answers: the answers, by interrupt id, that LangGraph may not have stored yet.
        consumed: whether the graph needs no input: a checkpoint of this run has consumed it, or it
            has none.
        retries: what becomes of it where it fails; None: it is not a queue's.
    """

    record: RunRecord
    stored_input: StoredValue
    stored_context: StoredValue
    stored_config: StoredValue
    stored_answers: StoredValue
    consumed: bool
    retries: Retries | None = None

    @property
    def needed(self) -> Needed:
        """The values that a resumption decodes."""
        fresh = () if self.consumed else (self.stored_input,)
        always = (self.stored_context, self.stored_config, self.stored_answers)
        return Needed(self.record.status is RunStatus.COMPLETE, self.consumed, (*always, *fresh))

    def load(self, serde: SerializerProtocol) -> Loaded:
        """Decode the values for a resumption. Only a resumption may call this, because it builds
        the classes that the row names.

        Args:
            serde: the graph's serializer for the ledger, which allows the graph's classes.
        """
        return Loaded(
            None if self.consumed else load_value(serde, self.stored_input),
            load_value(serde, self.stored_context),
            load_value(serde, self.stored_config) or {},
            load_value(serde, self.stored_answers) or {},
        )


class Loaded(NamedTuple):
    """The decoded values of a run, and the answers that it has not delivered.

    Attributes:
        input: None if a checkpoint has consumed it.
    """

    input: Any
    context: Any
    config: RunnableConfig
    answers: Mapping[str, Any]


class Needed(NamedTuple):
    """The values that a resumption decodes.

    Attributes:
        complete: whether the run is complete, so that nothing is decoded.
        consumed: whether a checkpoint has consumed its input.
        values: its context, config and undelivered answers, and its input unless that is consumed.
    """

    complete: bool
    consumed: bool
    values: tuple[StoredValue, ...]


def accepted_of(row: Mapping[str, Any]) -> Accepted:
    """Decode a row that has all columns for a resumption."""
    return Accepted(
        record_of(row),
        stored_input=(row["input_type"], row["input"]),
        stored_context=(row["context_type"], row["context"]),
        stored_config=(row["config_type"], row["config"]),
        stored_answers=(row["answers_type"], row["answers"]),
        consumed=row["consumed"] or row["input_type"] is None,
        retries=Retries.of_row(row),
    )


_RENAMED: Final = {"token": "fencing_token", "worker": "attempted_by", "reason": "status_reason"}
_COLUMNS: Final = {
    name: _RENAMED.get(name, name) for name in tuple(RunRecord.__dataclass_fields__)[:16]
}
"""The columns of the fields that each statement reads; those of a queue come after them."""


def record_of(row: Mapping[str, Any]) -> RunRecord:
    """The record of a row; columns that a statement does not read have their defaults."""
    values = {name: row[column] for name, column in _COLUMNS.items()}
    values["status"] = RunStatus(row["status"])
    values["earlier_attempts"] = tuple(map(_earlier, row["earlier_attempts"]))
    return RunRecord(
        **values,
        traceparent=row.get("traceparent"),
        cancel_requested_at=row.get("cancel_requested_at"),
    )


def _earlier(stored: Any) -> EarlierAttempt:
    """An earlier attempt; asyncpg gives JSON as text, psycopg as an object."""
    attempt: dict[str, Any] = json.loads(stored) if isinstance(stored, str) else stored
    times = {
        name: None if (at := attempt.get(name)) is None else datetime.fromisoformat(at)
        for name in ("started", "ended")
    }
    return EarlierAttempt(
        worker=attempt.get("worker"),
        outcome=attempt["outcome"],
        error=attempt.get("error"),
        traceback=attempt.get("traceback"),
        **times,
    )
