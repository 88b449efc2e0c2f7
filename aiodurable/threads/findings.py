"""What `verify` can find: each kind of finding, why it matters and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ["KINDS", "PASSING", "Finding", "finding_of"]


class _Kind(NamedTuple):
    what: str
    why_it_matters: str
    what_to_do: str


_FORK: Final = "threads.fork(thread_id, checkpoint_id=…) makes a thread of the line that is right"
_WORKER: Final = (
    "see the logs of the workers: one of them should have done this within seconds; restart one"
)
_RAISE: Final = (
    "INSERT INTO aiodurable_fences (thread_id, token)"
    " SELECT thread_id, max(fencing_token) FROM aiodurable_runs WHERE thread_id = '…'"
    " GROUP BY thread_id ON CONFLICT (thread_id) DO UPDATE"
    " SET token = greatest(aiodurable_fences.token, excluded.token), lease_id = 0"
)

KINDS: Final[Mapping[str, _Kind]] = MappingProxyType(
    {
        "forked_line": _Kind(
            "two checkpoints follow the same one:",
            "two processes ran the thread at the same time, or somebody gave an older checkpoint a"
            " new input, as LangGraph allows; the newest line is what goes on, the other one's work"
            " is lost to it",
            "nothing if that was on purpose; else compare both lines:"
            f" threads.history(thread_id) has them; {_FORK}",
        ),
        "missing_parent": _Kind(
            "a checkpoint names a parent that is not there:",
            "the history has a hole, and state that builds on older checkpoints cannot be read",
            "restore the rows from a backup, or fork from a checkpoint that can be read",
        ),
        "out_of_order": _Kind(
            "a checkpoint's id is not larger than its parent's:",
            "ids order the line: the newest checkpoint is taken for an older one",
            f"synchronise the clocks of the hosts that run plain LangGraph; {_FORK}",
        ),
        "unreadable_checkpoint": _Kind(
            "the newest checkpoint has no step, time, format or versions:",
            "LangGraph cannot load the thread",
            "restore the row from a backup, or delete the thread",
        ),
        "missing_value": _Kind(
            "the value of a channel of the newest checkpoint is not there:",
            "the graph goes on without that part of the state",
            "restore checkpoint_blobs from a backup, or fork from an older checkpoint",
        ),
        "writes_of_no_checkpoint": _Kind(
            "writes belong to a checkpoint that is not there:",
            "what these tasks did is never used; a run of plain LangGraph with durability"
            ' "async" or "exit" that was killed leaves them, or a checkpoint was removed',
            "nothing if the thread is as it should be; else delete the checkpoint_writes of this"
            " checkpoint_id, and no others",
        ),
        "rows_of_no_thread": _Kind(
            "rows of a thread that has no checkpoint and no run are left in",
            "they take space, and a new thread of this name would find them",
            "delete them with threads.delete(thread_id)",
        ),
        "token_beyond_fence": _Kind(
            "a run has a larger token than the fence of its thread:",
            "the fence was lost or set back: a writer of the past may not be refused",
            f"raise it: {_RAISE}; a run at work there loses its lease, and is resumed",
        ),
        "runs_tied": _Kind(
            "another run of the thread has the same token and number:",
            "nothing says which of them is the newest",
            "find out which one came later by its checkpoints, and raise its seq",
        ),
        "two_running": _Kind(
            "more than one run of the thread is running:",
            "only one may make progress: an index that must forbid this is gone",
            "run `aiodurable db check`; cancel all but the one that holds the lock",
        ),
        "running_without_token": _Kind(
            "a running run has no token:",
            "it was begun without a lease, so its writes are not fenced",
            "cancel the run, and retry it",
        ),
        "missing_result": _Kind(
            "the checkpoint at which a complete run ended is not there:",
            "history was lost after the run was reported as complete: a failover, a restore, or"
            " another program removed it",
            "restore the thread from a backup; else its caller has a result that nothing shows",
        ),
        "input_not_used": _Kind(
            "a complete run has an input that no checkpoint has:",
            "the input had no effect, or its checkpoints were lost",
            "restore the thread from a backup, or run the input again",
        ),
        "dedup_twice": _Kind(
            "another run that is not over has the same deduplication key:",
            "the same work is done twice: an index that must forbid this is gone",
            "run `aiodurable db check`; cancel one of the runs",
        ),
        "claim_stuck": _Kind(
            "a worker that is gone, or has begun nothing for a minute, has claimed a run:",
            "the run does not begin",
            _WORKER,
        ),
        "blocked_stuck": _Kind(
            "a run waits for its thread, and nothing is in front of it:",
            "the run does not begin",
            _WORKER,
        ),
        "limited_stuck": _Kind(
            "a run waits for a concurrency key that has capacity:",
            "the run does not begin",
            _WORKER,
        ),
        "scheduled_stuck": _Kind(
            "a run is due for more than a minute, and not ready:",
            "the run does not begin",
            _WORKER,
        ),
        "schedule_without_next": _Kind(
            "a schedule that has not ended has no next time:",
            "it never fires again",
            "pause and resume the schedule: that computes its next time",
        ),
        "schedule_stuck": _Kind(
            "a schedule is due for more than a minute, and has not fired:",
            "its runs are not accepted",
            _WORKER,
        ),
    }
)
"""The kinds, by their stable names."""

PASSING: Final = frozenset(
    {
        "writes_of_no_checkpoint",
        "missing_value",
        "claim_stuck",
        "blocked_stuck",
        "limited_stuck",
        "scheduled_stuck",
        "schedule_stuck",
    }
)
"""The kinds that a running process may be about to end."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that must not be.

    Attributes:
        thread_id: the thread; None: it is about a schedule.
        kind: a stable name.
        place: where: a namespace and a checkpoint, a run, a table or a schedule.
        what: that in a sentence.
        why_it_matters: what follows from it.
        what_to_do: how to mend it.
    """

    thread_id: str | None
    kind: str
    place: str
    what: str
    why_it_matters: str
    what_to_do: str


def finding_of(kind: str, thread_id: str | None, place: str) -> Finding:
    """A finding of a kind."""
    known = KINDS[kind]
    return Finding(
        thread_id,
        kind,
        place,
        f"{known.what} {place}",
        known.why_it_matters,
        known.what_to_do,
    )
