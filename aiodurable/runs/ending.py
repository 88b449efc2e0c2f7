"""What becomes of a run whose attempt has ended: a worker decides, the ledger's row says it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from aiodurable.runs.outcome import Outcome

__all__ = ["DecideEnding", "Ending"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How the row ends, in one statement with what comes next.

    Attributes:
        outcome: how the attempt ended.
        error: what is kept of it; None: nothing.
        again_after_s: when a worker may claim the run again, in seconds; 0: at once; None: never.
        failures: how many attempts in a row have failed without progress; None: as before.
    """

    outcome: Outcome
    error: BaseException | None
    again_after_s: float | None = None
    failures: int | None = None


DecideEnding: TypeAlias = Callable[[Outcome, BaseException | None, bool], Ending]
"""From the outcome, the exception, and whether the attempt has made progress."""
