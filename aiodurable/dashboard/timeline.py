"""The timeline of a thread: its steps, newest first, with the attempt and the worker of each.

Bars stand beside each other in the order of time. A step that took far longer than the others, such
as one that waited for an answer for a day, is cut, so that the others can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from aiodurable.models import EarlierAttempt, RunRecord, RunStatus
from aiodurable.threads import ThreadStep

__all__ = ["Attempt", "Row", "attempts_of", "rows_of"]

_COLOURS = 6
_CUT_AT = 12.0
"""A bar is as long as so many median ones at most."""
_NARROWEST = 0.4
"""Of a hundred."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a run.

    Attributes:
        number: counts from 1.
        outcome: `failed`, `crashed` or `quarantined`; of the last one the status of its run.
        worker, started, ended, error, traceback: as in `EarlierAttempt`.
        last: whether no attempt followed.
    """

    number: int
    outcome: str
    worker: str | None
    started: datetime | None
    ended: datetime | None
    error: str | None
    traceback: str | None
    last: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One step in the timeline.

    Attributes:
        step: the step.
        attempt: the attempt that wrote it; None where that is unknown.
        start: where its bar begins, 0 to 100.
        width: how long it is, 0 to 100.
        cut: whether it is longer than drawn.
        colour: a number from 0 for its worker.
    """

    step: ThreadStep
    attempt: int | None
    start: float
    width: float
    cut: bool
    colour: int


def attempts_of(run: RunRecord) -> list[Attempt]:
    """The attempts of a run that are known, oldest first."""
    earlier = run.earlier_attempts
    before = max(run.attempts - 1 - len(earlier), 0)
    found = [_earlier(before + index, attempt) for index, attempt in enumerate(earlier, start=1)]
    if run.attempts:
        found.append(
            Attempt(
                number=run.attempts,
                outcome=run.status.value,
                worker=run.worker,
                started=run.started_at,
                ended=None if run.status is RunStatus.RUNNING else run.finished_at,
                error=run.error,
                traceback=run.traceback,
                last=True,
            )
        )
    return found


def rows_of(steps: Sequence[ThreadStep], attempts: Sequence[Attempt]) -> list[Row]:
    """The rows of the timeline, in the order of `steps`, newest first."""
    lengths = [_seconds(step) for step in steps]
    known = [length for length in lengths if length > 0]
    longest = median(known) * _CUT_AT if known else 1.0
    drawn = [min(length, longest) for length in lengths]
    total = sum(drawn) or 1.0
    colours: dict[str | None, int] = {}
    rows: list[Row] = []
    end = 100.0
    for step, length, bar in zip(steps, lengths, drawn, strict=True):
        width = 100 * bar / total
        start = end - width
        end = start
        colour = colours.setdefault(step.worker, len(colours) % _COLOURS)
        rows.append(
            Row(
                step=step,
                attempt=_attempt_at(step.written_at, attempts),
                start=round(max(min(start, 100 - _NARROWEST), 0), 2),
                width=round(max(width, _NARROWEST), 2),
                cut=length > bar,
                colour=colour,
            )
        )
    return rows


def _earlier(number: int, attempt: EarlierAttempt) -> Attempt:
    return Attempt(
        number=number,
        outcome=attempt.outcome,
        worker=attempt.worker,
        started=attempt.started,
        ended=attempt.ended,
        error=attempt.error,
        traceback=attempt.traceback,
        last=False,
    )


def _seconds(step: ThreadStep) -> float:
    return 0.0 if step.duration is None else max(step.duration.total_seconds(), 0.0)


def _attempt_at(at: datetime | None, attempts: Sequence[Attempt]) -> int | None:
    if at is None:
        return None
    began = [
        attempt.number
        for attempt in attempts
        if attempt.started is not None and attempt.started <= at
    ]
    return began[-1] if began else None
