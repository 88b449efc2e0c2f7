"""Going through threads, a page at a time: keyset-paged by thread_id, nothing is held between two pages.

A page takes two steps: candidates from the narrowest index that misses none, then their statuses, told anew for each page.

- Errors, questions and unfinished runs have partial indexes; a search for such statuses alone looks nowhere else.
- Checkpoint ids tell their time; a search for what was written within a day begins at the first id of that time.
- Crashed and complete threads look like any other until their head is read: all threads are gone through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from aiodurable.errors import ConfigurationError
from aiodurable.keys import lock_key
from aiodurable.model import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.connections import Database
from aiodurable.postgres.queries import load
from aiodurable.threads.status import Classifier

__all__ = ["NEEDS_ATTENTION", "Filter", "Search"]

NEEDS_ATTENTION = (ThreadStatus.FAILED, ThreadStatus.CRASHED, ThreadStatus.INTERRUPTED, ThreadStatus.QUARANTINED)
"""The threads that need a person or a resumption."""

_NOTED = frozenset(
    {
        ThreadStatus.FAILED,
        ThreadStatus.INTERRUPTED,
        ThreadStatus.QUARANTINED,
        ThreadStatus.PAUSED,
        ThreadStatus.QUEUED,
    }
)
"""Statuses that only a thread with an error, a question or an unfinished run can have."""

_RUNNING = frozenset({ThreadStatus.RUNNING})
_SQL = load("threads")
_PAGES = (100, 1000)
"""Threads looked at for the first page, and at most for a later one; each page is twice the one before."""
_RECENT = timedelta(days=1)
_CLOCKS = timedelta(minutes=1)
"""How far a checkpoint's id and its `ts` may lie apart; both come from the writer's clock, one after the other."""
_GREGORIAN = datetime(1582, 10, 15, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Filter:
    """What a search is for; None passes all.

    Attributes:
        statuses: any of these; all but `new` unless asked.
        older_than: written at this moment or before.
        newer_than: written at this moment or after.
        graph: the name of its graph.
        prefix: how its thread_id begins.
        error: a part of the text of its error.
        holder: a part of what its holder's `application_name` says.
        after: its thread_id comes after this one, as the database sorts text.
        limit: at most so many.
    """

    statuses: frozenset[ThreadStatus]
    older_than: datetime | None
    newer_than: datetime | None
    graph: str | None
    prefix: str | None
    error: str | None
    holder: str | None
    after: str | None
    limit: int | None

    @classmethod
    def of(
        cls,
        *,
        status: ThreadStatus | str | Iterable[ThreadStatus | str] | None = None,
        older_than: timedelta | datetime | None = None,
        newer_than: timedelta | datetime | None = None,
        graph: str | None = None,
        prefix: str | None = None,
        error: str | None = None,
        holder: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> Self:
        """Check what a caller asked for. Ages become moments once, here, so that all pages mean the same.

        Raises:
            ConfigurationError: an unknown status, a negative age, a datetime without a time zone, a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit must be 1 or more, got {limit}: leave it out for all threads")
        return cls(
            statuses=_statuses(status) & _RUNNING if holder is not None else _statuses(status),
            older_than=_moment("older_than", older_than),
            newer_than=_moment("newer_than", newer_than),
            graph=graph,
            prefix=prefix,
            error=error,
            holder=holder,
            after=after,
            limit=limit,
        )

    def admits(self, thread_id: str) -> bool:
        """What can be told from the name alone."""
        return self.prefix is None or thread_id.startswith(self.prefix)

    def passes(self, thread: WorkflowCheckpoint) -> bool:
        """What SQL does not check: an error's text may be stored encrypted."""
        if self.error is not None and self.error not in (thread.error or ""):
            return False
        return self.holder is None or (thread.holder is not None and self.holder in thread.holder.application)


class Search:
    """Goes through the threads of a database.

    Args:
        database: where they are.
        classifier: tells their statuses.
        namespace: that of the locks.
    """

    def __init__(self, database: Database, classifier: Classifier, *, namespace: str) -> None:
        self._database = database
        self._classifier = classifier
        self._namespace = namespace

    async def threads(self, wanted: Filter) -> AsyncIterator[WorkflowCheckpoint]:
        """The threads that pass, in the database's order of their ids."""
        left = wanted.limit
        async for thread_ids in self.candidates(wanted):
            for thread in await self._classifier.classify(
                thread_ids,
                statuses=wanted.statuses,
                older_than=wanted.older_than,
                newer_than=wanted.newer_than,
                graph=wanted.graph,
            ):
                if not wanted.passes(thread):
                    continue
                yield thread
                if left is not None and (left := left - 1) == 0:
                    return

    async def counts(self, wanted: Filter) -> dict[ThreadStatus, int]:
        """How many threads there are of each status."""
        found: dict[ThreadStatus, int] = {}
        async for thread_ids in self.candidates(wanted):
            for status, count in (await self._classifier.count(thread_ids)).items():
                if status in wanted.statuses:
                    found[status] = found.get(status, 0) + count
        return found

    async def candidates(self, wanted: Filter) -> AsyncIterator[list[str]]:
        """Pages of threads among which are all that can pass."""
        if not wanted.statuses:
            return
        block, *bound = _source(wanted)
        last, size = wanted.after or "", _PAGES[0]
        while rows := await self._database.fetch(_SQL[block], last, size, *bound):
            last = rows[-1]["thread_id"]
            thread_ids = [row["thread_id"] for row in rows if wanted.admits(row["thread_id"])]
            if wanted.statuses == _RUNNING:
                thread_ids = await self._held(thread_ids)
            if thread_ids:
                yield thread_ids
            size = min(size * 2, _PAGES[1])

    async def _held(self, thread_ids: list[str]) -> list[str]:
        held = {row["key"] for row in await self._database.fetch(_SQL["held_keys"])}
        return [thread_id for thread_id in thread_ids if lock_key(thread_id, self._namespace) in held]


def _source(wanted: Filter) -> tuple[str, *tuple[str | list[str], ...]]:
    """The block of candidates, and its bound."""
    if wanted.statuses <= _NOTED:
        noted = {ThreadStatus.FAILED: "__error__", ThreadStatus.INTERRUPTED: "__interrupt__"}
        return ("threads_noted", [channel for status, channel in noted.items() if status in wanted.statuses])
    if wanted.newer_than is not None and wanted.newer_than > datetime.now(UTC) - _RECENT:
        return ("threads_recent", _first_id(wanted.newer_than - _CLOCKS))
    return ("threads_all",)


def _first_id(moment: datetime) -> str:
    """The beginning of every UUIDv6 made at this moment: 60 bits of tenths of microseconds (RFC 9562, section 5.6)."""
    digits = f"{(moment - _GREGORIAN) // timedelta(microseconds=1) * 10:015x}"
    return f"{digits[:8]}-{digits[8:12]}-6{digits[12:]}"


def _statuses(status: ThreadStatus | str | Iterable[ThreadStatus | str] | None) -> frozenset[ThreadStatus]:
    if status is None:
        return frozenset(ThreadStatus) - {ThreadStatus.NEW}
    try:
        return frozenset(map(ThreadStatus, [status] if isinstance(status, str) else status))
    except ValueError as error:
        raise ConfigurationError(f"{error}: choose from {', '.join(ThreadStatus)}") from None


def _moment(name: str, value: timedelta | datetime | None) -> datetime | None:
    if isinstance(value, timedelta):
        if value < timedelta():
            raise ConfigurationError(f"{name} must not be a negative age, got {value}")
        return datetime.now(UTC) - value
    if isinstance(value, datetime) and value.utcoffset() is None:
        raise ConfigurationError(f"{name} must have a time zone, got {value.isoformat()}: try datetime.now(UTC)")
    return value
