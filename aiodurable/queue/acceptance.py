"""Accept runs: write their rows, in one statement for all that come at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from aiodurable.errors import InvalidArgumentError, RunInProgressError
from aiodurable.lock_keys import own_lock_key
from aiodurable.models import RunRecord
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.caller import Fetch, transaction_of
from aiodurable.queue.new_run import NewRun, Row
from aiodurable.queue.records import SQL, queued_record
from aiodurable.runs.accepted import Accepted
from aiodurable.runs.cancellation import CHANNEL
from aiodurable.runs.services import Services

__all__ = ["Acceptance"]

_RUN_ID, _THREAD_ID, _GRAPH, _DEDUP_KEY, _ON_BUSY = 0, 1, 3, 20, 21
"""Places in a row."""


class Acceptance:
    """Writes the rows of new runs.

    Args:
        services: the open services.
        namespace: that of the locks.
    """

    def __init__(self, services: Services, namespace: str) -> None:
        self.services = services
        self.namespace = namespace
        self._creates = Batcher(self._create, name="aiodurable runs accepted")

    async def one(self, new: NewRun, row: Row) -> RunRecord:
        """Accept one run; what other calls accept at this moment goes along."""
        if row[_ON_BUSY] != "enqueue":
            async with self._transaction() as fetch:
                (record,) = await self.together(fetch, [new], [row])
            return record
        written = await self._creates(row)
        if written is not None:
            return queued_record(written)
        found = await self._existing(self.services.checkpoints.direct.fetch, [new], [row])
        return found[row[_RUN_ID]]

    async def many(self, new: Sequence[NewRun], rows: Sequence[Row]) -> list[RunRecord]:
        """Accept several runs, all or none of them."""
        async with self._transaction() as fetch:
            return await self.together(fetch, new, rows)

    async def on(self, conn: Any, new: Sequence[NewRun], rows: Sequence[Row]) -> list[RunRecord]:
        """Accept several runs in the transaction that `conn` is in."""
        async with transaction_of(conn, self.services.checkpoints.database.dsn) as fetch:
            return await self.together(fetch, new, rows)

    async def together(
        self, fetch: Fetch, new: Sequence[NewRun], rows: Sequence[Row]
    ) -> list[RunRecord]:
        """Accept several runs with `fetch`.

        Raises:
            InvalidArgumentError: one of their run_ids is that of another run.
            RunInProgressError: a thread has a run that is not over, and `on_busy` is "reject".
        """
        for key in sorted(
            own_lock_key(f"create {row[_THREAD_ID]}", self.namespace)
            for row in rows
            if row[_ON_BUSY] != "enqueue"
        ):
            await fetch(SQL["alone"], key)
        written = await fetch(SQL["create"], *map(list, zip(*rows, strict=True)))
        records = {row["run_id"]: queued_record(row) for row in written}
        for row in rows:
            if row[_ON_BUSY] == "interrupt" and row[_RUN_ID] in records:
                await fetch(SQL["interrupt"], row[_THREAD_ID], row[_RUN_ID], CHANNEL)
        left = [(a, row) for a, row in zip(new, rows, strict=True) if row[_RUN_ID] not in records]
        if left:
            records |= await self._existing(fetch, *map(list, zip(*left, strict=True)))
        return [records[row[_RUN_ID]] for row in rows]

    def _transaction(self) -> AbstractAsyncContextManager[Fetch]:
        return self.services.checkpoints.database.transaction()

    async def _create(self, rows: Sequence[Row]) -> dict[Row, Mapping[str, Any]]:
        written = await self.services.checkpoints.direct.fetch(
            SQL["create"], *map(list, zip(*rows, strict=True))
        )
        by_run = {row["run_id"]: row for row in written}
        return {row: by_run[row[_RUN_ID]] for row in rows if row[_RUN_ID] in by_run}

    async def _existing(
        self, fetch: Fetch, new: Sequence[NewRun], rows: Sequence[Row]
    ) -> dict[str, RunRecord]:
        """The runs that are there already, by the run_ids that were to be accepted."""
        found = await fetch(
            SQL["existing"], [row[_RUN_ID] for row in rows], [row[_DEDUP_KEY] for row in rows]
        )
        existing = {row["n"]: row for row in found}
        records = dict[str, RunRecord]()
        for n, (a, row) in enumerate(zip(new, rows, strict=True), start=1):
            if n not in existing:
                raise RunInProgressError(
                    f"cannot accept a run of thread {row[_THREAD_ID]!r}: the thread has a run that"
                    ' is not over, and on_busy is "reject"; wait for that one, or create with'
                    ' on_busy="enqueue"',
                    thread_id=row[_THREAD_ID],
                )
            record = queued_record(existing[n])
            if existing[n]["named"]:
                await self._check_same(record, existing[n], a, row)
            records[row[_RUN_ID]] = record
        return records

    async def _check_same(
        self, record: RunRecord, stored: Mapping[str, Any], new: NewRun, row: Row
    ) -> None:
        """Refuse the run_id of another run."""
        differs = (
            "thread"
            if record.thread_id != row[_THREAD_ID]
            else "graph"
            if record.graph != row[_GRAPH]
            else None
        )
        if differs is None and stored["input_type"] is not None:
            kept = (stored["input_type"], stored["input"])
            nothing = (None, None)
            accepted = Accepted(
                record, kept, nothing, nothing, nothing, consumed=record.attempts > 0
            )
            if not await self.services.ledger.same_input(accepted, new.input):
                differs = "input"
        if differs is not None:
            raise InvalidArgumentError(
                f"cannot accept run {record.run_id!r} of thread {row[_THREAD_ID]!r}: a run of this"
                f" run_id was accepted with another {differs}; a run_id names one run, so use"
                " another one",
                thread_id=row[_THREAD_ID],
                argument="run_id",
            )
