"""The rules of `classify`, in words: which one decided the status of a thread."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from aiodurable.models import ThreadStatus, WorkflowCheckpoint
from aiodurable.postgres.fetch import Fetch
from aiodurable.threads.status import CLASSIFY, Classifier

__all__ = ["RULES", "Explained", "WhyRule", "explain"]

_OF_TABLES: Final = {
    ThreadStatus.NEW: "nothing_stored",
    ThreadStatus.FAILED: "node_raised",
    ThreadStatus.INTERRUPTED: "question_open",
    ThreadStatus.COMPLETE: "no_work_left",
}
"""The rule by which LangGraph's tables alone decide, by the status that follows."""


class WhyRule(NamedTuple):
    """The rule that decided a status.

    Attributes:
        id: a stable identifier, a key of `RULES`.
        sentence: what it says.
    """

    id: str
    sentence: str


RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lock_held": "Somebody holds the thread's lock, so it is running.",
        "input_lost": (
            "Nobody holds the lock, and the newest run is recorded as running, but no checkpoint"
            " has its input: its process is gone, so the thread has crashed."
        ),
        "input_kept": (
            "The newest run ended before a checkpoint had its input, so the ledger says how it"
            " ended."
        ),
        "run_quarantined": (
            "The newest checkpoint is unfinished and is that of a quarantined run, so the thread is"
            " quarantined."
        ),
        "run_cancelled": (
            "The newest checkpoint has the error of a run that somebody cancelled before it was"
            " tried again, so the thread is paused."
        ),
        "run_ended": (
            "Work is left at the newest checkpoint, without an error and without a question there,"
            " so the ledger says how its run ended."
        ),
        "run_asleep": (
            "All that is open at the newest checkpoint is a sleep or a wait for a signal, which no"
            " person has to answer, so the thread is paused."
        ),
        "work_left": (
            "Nobody holds the lock, work is left at the newest checkpoint, and neither an error nor"
            " the ledger says why it stopped, so the thread has crashed."
        ),
        "run_queued": (
            "Nothing of the thread is unfinished, and an accepted run of it has not begun, so it is"
            " queued."
        ),
        "nothing_stored": "The thread has no checkpoint and no run, so it is new.",
        "node_raised": (
            "A task of the newest checkpoint stored an error that no later attempt outlived, so the"
            " thread has failed."
        ),
        "question_open": (
            "A task of the newest checkpoint stored a question that nobody has answered, so the"
            " thread is interrupted."
        ),
        "no_work_left": (
            "The newest checkpoint triggers no node and has no error and no question, so the thread"
            " is complete."
        ),
    }
)
"""What each rule says, by its identifier. `verdicts` of `postgres/sql/threads.sql` applies them, in
this order.
"""


class Explained(NamedTuple):
    """A thread's status, and what decided it.

    Attributes:
        status: the status.
        rule: a key of `RULES`.
        finished: how many tasks of the newest checkpoint have finished.
    """

    status: WorkflowCheckpoint
    rule: str
    finished: int


async def explain(
    classifier: Classifier, thread_id: str, fetch: Fetch, *, ignore_lock: bool = False
) -> Explained:
    """One thread's status, and the rule that decided it.

    Args:
        classifier: of the database.
        thread_id: the thread.
        fetch: runs the statement, in a transaction; where a damaged row ends that, try again.
        ignore_lock: compute the status as if nobody held the lease; for its holder.
    """
    args = classifier.arguments([thread_id], ignore_lock=ignore_lock)
    (row,) = await classifier.fetch(fetch, CLASSIFY, *args, in_transaction=True)
    (status,) = (await classifier.decode([row])).values()
    rule = _OF_TABLES[row["status"]] if row["rule"] == "tables" else row["rule"]
    if status.status != row["status"]:  # what is open is a wait, as its value shows
        rule = "run_asleep"
    return Explained(status, rule, len(row["done"] or ()))
