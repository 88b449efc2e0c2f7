"""Going through all threads, a page at a time: keyset-paged by thread_id, nothing is held between two pages."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from aiodurable.errors import ConfigurationError
from aiodurable.model import ThreadStatus, WorkflowCheckpoint

__all__ = ["NEEDS_ATTENTION", "Filter"]

NEEDS_ATTENTION = frozenset(
    {ThreadStatus.FAILED, ThreadStatus.CRASHED, ThreadStatus.INTERRUPTED, ThreadStatus.QUARANTINED}
)
"""The threads that need a person or a resumption."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a search is for; None passes all.

    Attributes:
        statuses: any of these; all but `new` unless asked.
        older_than: written at this moment or before.
        newer_than: written at this moment or after.
        graph: the name of its graph.
        error: a part of the text of its error.
        limit: at most so many.
    """

    statuses: frozenset[ThreadStatus]
    older_than: datetime | None
    newer_than: datetime | None
    graph: str | None
    error: str | None
    limit: int | None

    @classmethod
    def of(
        cls,
        *,
        status: ThreadStatus | str | Iterable[ThreadStatus | str] | None,
        older_than: timedelta | datetime | None,
        newer_than: timedelta | datetime | None,
        graph: str | None,
        error: str | None,
        limit: int | None,
    ) -> Self:
        """Check what a caller asked for. Ages become moments once, here, so that all pages mean the same.

        Raises:
            ConfigurationError: an unknown status, a negative age, a datetime without a time zone, a limit below 1.
        """
        if limit is not None and limit < 1:
            raise ConfigurationError(f"limit must be 1 or more, got {limit}: leave it out for all threads")
        return cls(
            statuses=_statuses(status),
            older_than=_moment("older_than", older_than),
            newer_than=_moment("newer_than", newer_than),
            graph=graph,
            error=error,
            limit=limit,
        )

    def passes(self, thread: WorkflowCheckpoint) -> bool:
        """What SQL cannot check: an error's text may be stored encrypted."""
        return self.error is None or (thread.error is not None and self.error in thread.error)


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
