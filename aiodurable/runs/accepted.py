"""Accepted runs: rows of the ledger, with the stored values that a resumption decodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.models import EarlierAttempt, RunRecord, RunStatus
from aiodurable.runs.stored_value import StoredValue, load_value

__all__ = ["Accepted", "Loaded", "Needed", "accepted_of", "record_of"]


@dataclass(frozen=True, slots=True)
class Accepted:
    """A run as the ledger keeps it, with what is needed to go on with it.

    Attributes:
        record: the row.
        stored_input: the input it was accepted with, as it is stored; nothing for a thread that
            plain LangGraph began.
        stored_context: the context it was accepted with, likewise.
        stored_config: what of the caller's config it was accepted with, likewise.
        stored_answers: those that LangGraph may not have stored yet, by interrupt id, likewise.
        consumed: whether there is nothing to pass in: a checkpoint of this run exists, so that the
            input is part of the thread, or it never had one.
    """

    record: RunRecord
    stored_input: StoredValue
    stored_context: StoredValue
    stored_config: StoredValue
    stored_answers: StoredValue
    consumed: bool

    @property
    def needed(self) -> Needed:
        """What a resumption reads of it."""
        fresh = () if self.consumed else (self.stored_input,)
        always = (self.stored_context, self.stored_config, self.stored_answers)
        return Needed(self.record.status is RunStatus.COMPLETE, self.consumed, (*always, *fresh))

    def load(self, serde: SerializerProtocol) -> Loaded:
        """Decode what a run that goes on needs. Decoding constructs the classes that the row names,
        so nothing else calls it.

        Args:
            serde: the graph's own for the ledger, which knows the graph's classes.
        """
        return Loaded(
            None if self.consumed else load_value(serde, self.stored_input),
            load_value(serde, self.stored_context),
            load_value(serde, self.stored_config) or {},
            load_value(serde, self.stored_answers) or {},
        )


class Loaded(NamedTuple):
    """The values that a run was accepted with, and the answers it has still to deliver.

    Attributes:
        input: None where it is part of the thread.
    """

    input: Any
    context: Any
    config: RunnableConfig
    answers: Mapping[str, Any]


class Needed(NamedTuple):
    """What a resumption reads of a run.

    Attributes:
        complete: whether it is complete, so that nothing of it is read.
        consumed: whether its input is part of the thread.
        values: its context, config and undelivered answers, and its input where that is not
            consumed.
    """

    complete: bool
    consumed: bool
    values: tuple[StoredValue, ...]


def accepted_of(row: Mapping[str, Any]) -> Accepted:
    """The run of a row that a resumption can read."""
    return Accepted(
        record_of(row),
        stored_input=(row["input_type"], row["input"]),
        stored_context=(row["context_type"], row["context"]),
        stored_config=(row["config_type"], row["config"]),
        stored_answers=(row["answers_type"], row["answers"]),
        consumed=row["consumed"] or row["input_type"] is None,
    )


_COLUMNS: Final = {"token": "fencing_token", "worker": "attempted_by", "reason": "status_reason"}
"""Fields of a record whose columns have another name."""
_ALWAYS: Final = tuple(RunRecord.__dataclass_fields__)[:16]
"""Fields that each statement reads; those of a queue come after them."""


def record_of(row: Mapping[str, Any]) -> RunRecord:
    """The record of a row; columns that a statement does not read have their defaults."""
    values = {name: row[_COLUMNS.get(name, name)] for name in _ALWAYS}
    values["status"] = RunStatus(row["status"])
    values["earlier_attempts"] = tuple(map(_earlier, row["earlier_attempts"]))
    return RunRecord(**values)


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
