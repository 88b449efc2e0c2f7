"""Accept runs: write their rows, in one statement for all that come at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any, Final, TypeVar

from aiodurable.errors import InvalidArgumentError, RunInProgressError
from aiodurable.lock_keys import own_lock_key
from aiodurable.models import ClaimState, RunRecord
from aiodurable.postgres.batcher import Batcher
from aiodurable.postgres.caller import transaction_of
from aiodurable.postgres.fetch import Fetch
from aiodurable.postgres.locked_rows import patiently
from aiodurable.postgres.sql import load
from aiodurable.queue.new_run import NewRun, Row
from aiodurable.queue.records import SQL, queued_record
from aiodurable.runs.accepted import Accepted
from aiodurable.runs.busy import INTERRUPTING, Newcomer, interrupt, locked_threads
from aiodurable.runs.services import Services

__all__ = ["Acceptance"]

T = TypeVar("T")

_OWN: Final = load("queue", "own_transaction")
"""The statements for transactions of the library's own, which wait for a locked row only shortly.
In a transaction of the caller's its own lock_timeout says how long.
"""
_TRIES: Final = 5
"""A dedup_key is free again when its run ends, maybe between two statements."""


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
        if row.on_busy != "enqueue":
            (record,) = await self.many([new], [row])
            return record
        for _ in range(_TRIES):
            written = await _patiently(lambda: self._creates(row), [row])
            if written is not None:
                return queued_record(written)
            found = await self._existing(self.services.checkpoints.direct.fetch, [new], [row])
            if row.run_id in found:
                return found[row.run_id]
        raise _refused(row)

    async def many(self, new: Sequence[NewRun], rows: Sequence[Row]) -> list[RunRecord]:
        """Accept several runs, all or none of them."""

        async def write() -> list[RunRecord]:
            async with self._transaction() as fetch:
                return await self._together(fetch, new, rows, _OWN)

        return await _patiently(write, rows)

    async def apart(self, rows: Sequence[Row]) -> dict[str, RunRecord]:
        """Do as `written`, in a transaction of its own."""

        async def write() -> dict[str, RunRecord]:
            async with self._transaction() as fetch:
                return await self.written(fetch, rows)

        return await _patiently(write, rows)

    async def on(self, conn: Any, new: Sequence[NewRun], rows: Sequence[Row]) -> list[RunRecord]:
        """Accept several runs in the transaction that `conn` is in."""
        async with transaction_of(conn, self.services.checkpoints.database.dsn) as fetch:
            return await self._together(fetch, new, rows, SQL)

    async def _together(
        self, fetch: Fetch, new: Sequence[NewRun], rows: Sequence[Row], sql: Mapping[str, str]
    ) -> list[RunRecord]:
        """Accept several runs with `fetch`.

        Raises:
            InvalidArgumentError: one of their run_ids is that of another run.
            RunInProgressError: a thread has a run that is not over, and `on_busy` is "reject".
        """
        records, left = dict[str, RunRecord](), list(zip(new, rows, strict=True))
        for _ in range(_TRIES):
            records |= await self.written(fetch, [row for _, row in left], sql)
            left = [(a, row) for a, row in left if row.run_id not in records]
            if left:
                records |= await self._existing(fetch, *map(list, zip(*left, strict=True)))
                left = [(a, row) for a, row in left if row.run_id not in records]
            if not left:
                return [records[row.run_id] for row in rows]
        raise _refused(left[0][1])

    async def written(
        self, fetch: Fetch, rows: Sequence[Row], sql: Mapping[str, str] = _OWN
    ) -> dict[str, RunRecord]:
        """Write the rows of several runs, and return those written by run_id: not those whose
        run_id or dedup_key there was, nor those that `on_busy` rejects.
        """
        for key in sorted(self._alone_key(row.thread_id) for row in rows if _is_alone(row.on_busy)):
            await fetch(sql["alone"], key)
        written = await fetch(sql["create"], *map(list, zip(*rows, strict=True)))
        records = {row["run_id"]: queued_record(row) for row in written}
        await self._interrupt(fetch, rows, records)
        return records

    async def locked(self, fetch: Fetch, threads: Iterable[tuple[str | None, str]]) -> set[str]:
        """Of these threads, each with an on_busy, those for which `written` would wait: another
        transaction has locked a run that is to make way, or accepts one that looks at the thread as
        this one does. None: a new thread. The others are locked until the end of the transaction of
        `fetch`.
        """
        known = [(thread_id, on_busy) for thread_id, on_busy in threads if thread_id is not None]
        keys = {self._alone_key(thread_id): thread_id for thread_id, how in known if _is_alone(how)}
        if not keys:
            return set()
        busy = {keys[row["key"]] for row in await fetch(SQL["alone_now"], sorted(keys))}
        return busy | await locked_threads(fetch, {a for a, how in known if how in INTERRUPTING})

    def _alone_key(self, thread_id: str) -> int:
        return own_lock_key(f"create {thread_id}", self.namespace)

    async def _interrupt(
        self, fetch: Fetch, rows: Sequence[Row], records: dict[str, RunRecord]
    ) -> None:
        """Have what the threads have in front make way for the runs that interrupt it, and not what
        comes after them. Those that are due later do so when they are due.
        """
        newcomers = [
            Newcomer(row.thread_id, row.run_id, row.on_busy)
            for row in rows
            if row.on_busy in INTERRUPTING
            and (record := records.get(row.run_id)) is not None
            and record.claim_state is not ClaimState.SCHEDULED
        ]
        if newcomers:
            last = {newcomer.thread_id: newcomer.run_id for newcomer in newcomers}
            spared, passed = list[str](), set[str]()
            for row in rows:
                if row.thread_id in passed:
                    spared.append(row.run_id)
                elif last.get(row.thread_id) == row.run_id:
                    passed.add(row.thread_id)
            await interrupt(fetch, newcomers, spared=spared)
            promoted = await self.services.ledger.queued.promote(sorted(last), fetch=fetch)
            for run_id in promoted & records.keys():
                records[run_id] = replace(records[run_id], claim_state=ClaimState.READY)

    def _transaction(self) -> AbstractAsyncContextManager[Fetch]:
        return self.services.checkpoints.database.transaction()

    async def _create(self, rows: Sequence[Row]) -> dict[Row, Mapping[str, Any]]:
        written = await self.services.checkpoints.direct.fetch(
            _OWN["create"], *map(list, zip(*rows, strict=True))
        )
        by_run = {row["run_id"]: row for row in written}
        return {row: by_run[row.run_id] for row in rows if row.run_id in by_run}

    async def _existing(
        self, fetch: Fetch, new: Sequence[NewRun], rows: Sequence[Row]
    ) -> dict[str, RunRecord]:
        """The runs that are there already, by the run_ids that were to be accepted. Not one whose
        dedup_key was that of a run which has ended since: it can be accepted now.
        """
        found = await fetch(
            SQL["existing"], [row.run_id for row in rows], [row.dedup_key for row in rows]
        )
        existing = {row["n"]: row for row in found}
        records = dict[str, RunRecord]()
        for n, (a, row) in enumerate(zip(new, rows, strict=True), start=1):
            if n not in existing:
                if row.on_busy == "reject":
                    raise _refused(row)
                continue
            record = queued_record(existing[n])
            if existing[n]["named"]:
                await self._check_same(record, existing[n], a, row)
            records[row.run_id] = record
        return records

    async def _check_same(
        self, record: RunRecord, stored: Mapping[str, Any], new: NewRun, row: Row
    ) -> None:
        """Refuse the run_id of another run."""
        differs = (
            "thread"
            if record.thread_id != row.thread_id
            else "graph"
            if record.graph != row.graph
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
                f"cannot accept run {record.run_id!r} of thread {row.thread_id!r}: a run of this"
                f" run_id was accepted with another {differs}; a run_id names one run, so use"
                " another one",
                thread_id=row.thread_id,
                argument="run_id",
            )


def _is_alone(on_busy: str) -> bool:
    """Whether two that are accepted so to a thread must not pass each other."""
    return on_busy != "enqueue"


async def _patiently(write: Callable[[], Awaitable[T]], rows: Sequence[Row]) -> T:
    threads = {row.thread_id for row in rows}
    thread_id = threads.pop() if len(threads) == 1 else None
    what = "accept the runs" if thread_id is None else f"accept a run of thread {thread_id!r}"
    return await patiently(
        write,
        what,
        thread_id,
        row="a run of the thread, or accepts one of this run_id or dedup_key",
    )


def _refused(row: Row) -> RunInProgressError:
    what = f"cannot accept a run of thread {row.thread_id!r}: "
    why = (
        'the thread has a run that is not over, and on_busy is "reject"; wait for that one, or'
        ' create with on_busy="enqueue"'
        if row.on_busy == "reject"
        else "runs with its dedup_key come and go; try again"
    )
    return RunInProgressError(what + why, thread_id=row.thread_id)
