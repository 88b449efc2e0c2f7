"""The answers in the ledger's rows: which questions were answered, and what is left to deliver.

As for the rest of a row, only the newest attempt writes them; see `ledger`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol

from aiodurable.checkpoints.fences import Fence
from aiodurable.models import RunStatus
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.pool import PsycopgPool
from aiodurable.postgres.sql import load
from aiodurable.runs.answers import Answered, digest_of
from aiodurable.runs.ledger_writes import refusal
from aiodurable.runs.signals import TakenSignals
from aiodurable.runs.stored_value import dump_value

__all__ = ["AnswerRows"]

_SQL = load("answers")


class AnswerRows:
    """Reads and writes the answers of runs.

    Args:
        database: where the ledger is.
        serde: the saver's serializer, which encodes (and may encrypt) answers.
    """

    def __init__(self, database: PsycopgPool, serde: SerializerProtocol) -> None:
        self._database = database
        self._serde = serde

    async def read(self, thread_id: str) -> list[Answered]:
        """The recorded answers of the thread, oldest first."""
        rows = await self._database.read(_SQL["answered"], thread_id)
        return [
            Answered(
                row["interrupt_id"],
                row["answered_at"],
                row["digest"],
                row["token"],
                row["run_id"],
                RunStatus(row["status"]),
                row["checkpoint_id"],
            )
            for row in rows
        ]

    async def store(
        self,
        run_id: str,
        *,
        fence: Fence,
        new: Mapping[str, Any],
        all: Mapping[str, Any],
        closed: Sequence[str],
        serde: SerializerProtocol | None = None,
        signals: TakenSignals | None = None,
    ) -> None:
        """Record the answers that the attempt under `fence` is about to deliver.

        Args:
            run_id: the run.
            fence: its thread's fence.
            new: the new answers by interrupt id.
            all: the new answers, and those that an earlier attempt could not deliver.
            closed: see `Questions.closed_by`.
            serde: the graph's serializer for the ledger; None: the saver's.
            signals: those among them, which leave the mailbox.

        Raises:
            InvalidArgumentError: an answer cannot be serialised or contains a class that the graph
                may not build; nothing was written.
            LeaseLostError: another lease has replaced this one; nothing was written.
        """
        digests = [digest_of(interrupt_id, value) for interrupt_id, value in new.items()]
        stored = dump_value("answer", dict(all), serde or self._serde)
        given: tuple[Any, ...] = (list(new), digests, *stored, list(closed))
        statement = "answer"
        if signals is not None and signals.names:
            statement = "answer_with_signals"
            given += (fence.thread_id, *map(list, signals))
        what = f"store an answer to run {run_id!r}"
        stored_in = await patiently(
            lambda: self._database.fetch_one(_SQL[statement], run_id, *fence.standing, *given),
            what,
            fence.thread_id,
        )
        if stored_in is None:
            raise await refusal(self._database, fence, what)

    async def over(
        self,
        run_id: str,
        *,
        fence: Fence,
        withdrawn: Sequence[str] = (),
        kept: Mapping[str, Any] | None = None,
        serde: SerializerProtocol | None = None,
    ) -> None:
        """Record that no answer is left to deliver but those of `kept`, and that those to
        `withdrawn` were not used.
        """
        left = dump_value("answer", dict(kept) if kept else None, serde or self._serde)
        given = (run_id, *fence.standing, list(withdrawn), *left)
        await patiently(
            lambda: self._database.execute(_SQL["answers_over"], *given),
            f"record the answers of run {run_id!r}",
            fence.thread_id,
        )
