"""The filters of a search: `ThreadFilters` as callers write them, `Filter` once checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, TypedDict, Unpack

from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.thread_id import validate_text

__all__ = ["Age", "Filter", "Statuses", "ThreadFilters", "check_positive"]

_RESUMABLE = frozenset({ThreadStatus.FAILED, ThreadStatus.CRASHED, ThreadStatus.PAUSED})
_WITH_REASON = frozenset({ThreadStatus.PAUSED, ThreadStatus.QUARANTINED})

Age = timedelta | datetime
"""How long ago, or a moment with a time zone."""
StatusName = Literal[
    "new",
    "running",
    "crashed",
    "failed",
    "interrupted",
    "paused",
    "complete",
    "queued",
    "quarantined",
]
"""The text of a `ThreadStatus`."""
Statuses = ThreadStatus | StatusName | Iterable[ThreadStatus | StatusName]
"""One status or several."""


class ThreadFilters(TypedDict, total=False):
    """The filters of a search. A thread must pass all of them; None passes every thread.

    An invalid filter raises `InvalidArgumentError`: an unknown status, a negative age, a datetime
    without a time zone, a text with a NUL character.
    """

    status: Statuses | None
    """One status or several."""
    older_than: Age | None
    """Only threads that were not written to since: an age, or a moment with a time zone. The age of
    a thread is that of its newest checkpoint, by the clock of the host that wrote it; before the
    first checkpoint it is that of the run in the ledger."""
    newer_than: Age | None
    """Only threads that were written to since: an age, or a moment with a time zone."""
    graph: str | None
    """The name of the thread's graph. Threads whose graph is unknown do not pass."""
    prefix: str | None
    """The beginning of the thread_id."""
    error: str | None
    """A part of the error's text."""
    holder: str | None
    """Only running threads whose holder's `application_name` contains this text. For aiodurable it
    names host and process. Holders whose role has no right to take leases do not pass: they could
    give themselves any name."""
    orphaned: bool
    """Only threads with a run whose holder is gone: the ledger says running, and nobody holds the
    lease. A small index finds them, however many threads there are. Threads that only plain
    LangGraph ran have no run and are not found."""
    resumable: bool
    """Only threads that may go on without a person (`WorkflowCheckpoint.resumable`), found by small
    indexes. Of threads that only plain LangGraph ran, this finds failed ones and misses crashed
    ones, which no index covers."""
    reason: str | None
    """Only threads that are paused or quarantined for this reason, such as a `PauseReason`."""
    doubtful: bool | None
    """True: only threads with a `doubt`. False: only threads without one."""


@dataclass(frozen=True, slots=True)
class Filter:
    """The checked filters of a search; None passes every thread.

    Attributes:
        statuses: the statuses that pass.
        older_than: written at this moment or before.
        newer_than: written at this moment or after.
        graph, prefix, error, holder, orphaned, resumable, reason, doubtful: as in `ThreadFilters`.
    """

    statuses: frozenset[ThreadStatus]
    older_than: datetime | None = None
    newer_than: datetime | None = None
    graph: str | None = None
    prefix: str | None = None
    error: str | None = None
    holder: str | None = None
    orphaned: bool = False
    resumable: bool = False
    reason: str | None = None
    doubtful: bool | None = None

    @classmethod
    def of(cls, **filters: Unpack[ThreadFilters]) -> Self:
        """Check a caller's filters. Ages become moments here, once, so that all pages of a search
        use the same ones.

        Raises:
            InvalidArgumentError: an unknown status, a negative age, a datetime without a time zone.
        """
        statuses = _statuses(filters.get("status"))
        if filters.get("holder") is not None:
            statuses &= {ThreadStatus.RUNNING}
        if filters.get("orphaned"):
            statuses -= {ThreadStatus.RUNNING}
        if filters.get("resumable"):
            statuses &= _RESUMABLE
        if filters.get("reason") is not None:
            statuses &= _WITH_REASON
        rest: dict[str, Any] = {name: value for name, value in filters.items() if name != "status"}
        rest |= {name: _moment(name, rest.get(name)) for name in ("older_than", "newer_than")}
        for name in ("graph", "prefix", "error", "holder", "reason"):
            validate_text(**{name: rest.get(name)})
        for name in ("orphaned", "resumable", "doubtful"):
            _check_type(name, rest.get(name), bool)
        return cls(statuses, **rest)  # a misspelt filter is a TypeError here

    @property
    def in_sql(self) -> bool:
        """Whether the SQL alone decides. Error texts may be encrypted, and the client computes
        `resumable`, `holder`, `reason` and `doubtful`.
        """
        return (
            not self.resumable
            and (self.error, self.holder, self.reason, self.doubtful) == (None,) * 4
        )

    def passes(self, thread: WorkflowCheckpoint) -> bool:
        """Whether a thread passes the filters that the SQL does not check."""
        if self.error is not None and self.error not in (thread.error or ""):
            return False
        if self.resumable and not thread.resumable:
            return False
        if self.reason is not None and self.reason != thread.reason:
            return False
        if self.doubtful is not None and self.doubtful is (thread.doubt is None):
            return False
        if self.holder is None:
            return True
        holder = thread.holder
        return holder is not None and holder.authorized and self.holder in holder.application


def check_positive(**numbers: int | None) -> None:
    """Raise `InvalidArgumentError` unless each number is a positive int or None."""
    for name, number in numbers.items():
        _check_type(name, number, int)
        if number is not None and number < 1:
            raise InvalidArgumentError(f"{name} must be 1 or more, got {number}", argument=name)


def _check_type(name: str, value: object, kind: type) -> None:
    if value is not None and not isinstance(value, kind):
        raise InvalidArgumentError(
            f"{name} must be {kind.__name__} or None, got {type(value).__name__}", argument=name
        )


def _statuses(status: Statuses | None) -> frozenset[ThreadStatus]:
    """The requested statuses without `new`: a search finds no thread that has no rows."""
    try:
        wanted = ThreadStatus if status is None else [status] if isinstance(status, str) else status
        return frozenset(map(ThreadStatus, wanted)) - {ThreadStatus.NEW}
    except (TypeError, ValueError) as error:  # not iterable, or of something else
        raise InvalidArgumentError(
            f"status cannot be {status!r} ({error}): choose from {', '.join(ThreadStatus)}",
            argument="status",
        ) from None


def _moment(name: str, value: Age | None) -> datetime | None:
    if value is None:
        return None
    if isinstance(value, timedelta):
        if value < timedelta():
            raise InvalidArgumentError(
                f"{name} must not be a negative age, got {value}", argument=name
            )
        try:
            return datetime.now(UTC) - value
        except OverflowError:
            return datetime.min.replace(tzinfo=UTC)
    if not isinstance(value, datetime):  # pyright: ignore[reportUnnecessaryIsInstance]  # callers are not all type-checked
        raise InvalidArgumentError(
            f"{name} must be a timedelta or a datetime with a time zone, got"
            f" {type(value).__name__}",
            argument=name,
        )
    if value.utcoffset() is None:
        raise InvalidArgumentError(
            f"{name} must have a time zone, got {value.isoformat()}: try datetime.now(UTC)",
            argument=name,
        )
    return value
