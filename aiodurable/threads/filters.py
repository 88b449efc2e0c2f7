"""What narrows a search. Spelled out once: `ThreadFilters` is what callers write, `Filter` what was
understood.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Self, TypedDict, Unpack

from aiodurable.errors import InvalidArgumentError
from aiodurable.models import ThreadStatus, WorkflowCheckpoint

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
    """The filters of a search; a thread must pass all that are given, and None passes every thread.

    What cannot be meant is a `InvalidArgumentError`: an unknown status, a negative age, a datetime
    without a time zone.
    """

    status: Statuses | None
    """One status or several."""
    older_than: Age | None
    """An age, or a moment with a time zone: nothing was written since. Ages are those of the newest
    checkpoint, by the clock of the host that wrote it; before the first one, of the run in the
    ledger."""
    newer_than: Age | None
    """An age, or a moment with a time zone: something was written since."""
    graph: str | None
    """The name of its graph, where that is known."""
    prefix: str | None
    """How its thread_id begins."""
    error: str | None
    """A part of the text of its error."""
    holder: str | None
    """A part of its holder's `application_name`, which for aiodurable's names host and process: it
    is running. A name that a role without the right to take leases gives itself is not searched."""
    orphaned: bool
    """Only threads with a run whose holder is gone: the ledger says running, and nobody holds the
    lease. They are found by a small index, however many threads there are; threads that only plain
    LangGraph has seen are not among them."""
    resumable: bool
    """Only threads that may go on without a person (`WorkflowCheckpoint.resumable`), found by small
    indexes. Of those that only plain LangGraph has seen, the failed ones: a crash leaves nothing
    there that an index could know."""
    reason: str | None
    """Why it is paused or quarantined, such as a `PauseReason`."""
    doubtful: bool | None
    """True: only threads with a `doubt`; False: only those without."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a search is for; None passes all.

    Attributes:
        statuses: any of these.
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
    def of(cls, **asked: Unpack[ThreadFilters]) -> Self:
        """Check what a caller asked for. Ages become moments once, here, so that all pages mean the
        same.

        Raises:
            InvalidArgumentError: an unknown status, a negative age, a datetime without a time zone.
        """
        statuses = _statuses(asked.get("status"))
        if asked.get("holder") is not None:
            statuses &= {ThreadStatus.RUNNING}
        if asked.get("orphaned"):
            statuses -= {ThreadStatus.RUNNING}
        if asked.get("resumable"):
            statuses &= _RESUMABLE
        if asked.get("reason") is not None:
            statuses &= _WITH_REASON
        rest: dict[str, Any] = {name: value for name, value in asked.items() if name != "status"}
        rest |= {name: _moment(name, rest.get(name)) for name in ("older_than", "newer_than")}
        for name in ("graph", "prefix", "error", "holder", "reason"):
            _check_type(name, rest.get(name), str)
        for name in ("orphaned", "resumable", "doubtful"):
            _check_type(name, rest.get(name), bool)
        return cls(statuses, **rest)  # a misspelt filter is a TypeError here

    @property
    def in_sql(self) -> bool:
        """Whether Postgres can check all of it: error texts may be encrypted, and the client
        computes other parts.
        """
        return (
            not self.resumable
            and (self.error, self.holder, self.reason, self.doubtful) == (None,) * 4
        )

    def passes(self, thread: WorkflowCheckpoint) -> bool:
        """What Postgres did not check."""
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
    """Refuse what is no whole number, or below 1. Raises `InvalidArgumentError`."""
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
    """Those that a thread which is found can have: nothing is known of new ones."""
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
