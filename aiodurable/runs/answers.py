"""What an answer is for: each reaches the question it was given to, once, or none at all.

LangGraph takes a bare answer for whichever question comes next. Here every answer has the id of its
question, and the ledger keeps the ids that were answered, when, and a digest of the answer; and the
answers themselves until LangGraph has stored them, which it does once their node has used them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from aiodurable.errors import (
    AlreadyAnsweredError,
    InvalidArgumentError,
    NothingToAnswerError,
    ThreadInterruptedError,
)
from aiodurable.models import RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.decision import not_found

__all__ = ["STRICT_RESUME", "Answered", "addressed", "already_left", "digest_of", "given_before"]

STRICT_RESUME = "__pregel_strict_resume"
"""LangGraph's key in `config["configurable"]`: an id that is not asked is refused before anything is written."""

_ID = re.compile(r"[0-9a-f]{32}")
"""What LangGraph takes for an interrupt id: an XXH3 digest of 128 bits."""

_SERDE = JsonPlusSerializer()


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that was given.

    Attributes:
        interrupt_id: the question.
        at: when, by the database's clock.
        digest: see `digest_of`.
        token: the fencing token of the lease under which it was given.
        run_id: the run that went on with it.
        run_status: what the ledger says of that run.
        checkpoint_id: the checkpoint at which that run ended.
    """

    interrupt_id: str
    at: datetime
    digest: str
    token: int
    run_id: str
    run_status: RunStatus
    checkpoint_id: str | None

    def was(self, value: Any) -> bool:
        """Whether the answer was this one."""
        return self.digest == digest_of(self.interrupt_id, value)


def digest_of(interrupt_id: str, value: Any) -> str:
    """Tells whether two answers to one question are the same; the order of a dict's keys does not count.

    Raises:
        InvalidArgumentError: the answer cannot be stored.
    """
    try:
        stored = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        try:
            stored = b"".join((part.encode() if isinstance(part, str) else part) for part in _SERDE.dumps_typed(value))
        except Exception as error:  # serializers raise what they like
            raise InvalidArgumentError(
                f"could not take the answer: {type(error).__name__} while serialising {type(value).__name__}; "
                "give plain data, dataclasses, pydantic models or messages",
                argument="value",
            ) from error
    return hashlib.blake2b(stored, key=interrupt_id.encode()[:64], digest_size=16).hexdigest()


def addressed(
    thread: WorkflowCheckpoint,
    value: Any,
    answered: Sequence[Answered],
    *,
    token: int,
    over: str | None = None,
) -> Mapping[str, Any]:
    """The answers by interrupt id that are new; empty: all of them were given before, exactly so.

    Args:
        thread: as it stands under the lease.
        value: an answer to the one open question, or a dict of interrupt ids.
        answered: what was answered on this thread, or by the run that is `over`, oldest first.
        token: of the lease. A caller that has seen the question under its own lease may give an answer twice.
        over: a run that the caller names and that asks no more: what the thread asks is not for it.

    Raises:
        ThreadNotFoundError: nothing is known of the thread.
        NothingToAnswerError: the thread asks nothing, or not this.
        AlreadyAnsweredError: the question was answered otherwise, or the answer may have been meant for an earlier one.
        ThreadInterruptedError: a bare answer, and several questions are open.
    """
    if thread.status is ThreadStatus.NEW:
        raise not_found(thread.thread_id)
    asks = thread.status is ThreadStatus.INTERRUPTED and over is None
    opened = {question.id for question in thread.interrupts} if asks else set[str]()
    of_it = "" if over is None else f" of run {over!r}"
    if not _names_interrupts(value):
        return _bare(thread, value, answered, opened, token=token, over=over)
    known = {given.interrupt_id: given for given in answered}
    new: dict[str, Any] = {}
    for interrupt_id, answer in cast("dict[str, Any]", value).items():
        if interrupt_id in opened:
            digest_of(interrupt_id, answer)
            new[interrupt_id] = answer
        elif (given := known.get(interrupt_id)) is None:
            raise _nothing(thread, f"no question {interrupt_id}{of_it} is open", (interrupt_id,))
        elif not given.was(answer):
            raise _already(thread, given, "it was answered otherwise")
    return new


def given_before(value: Any, answered: Sequence[Answered]) -> Answered:
    """The newest of the answers in `value`, all of which were given before."""
    ids = cast("dict[str, Any]", value).keys() if _names_interrupts(value) else None
    return next(given for given in reversed(answered) if (given.interrupt_id in ids if ids else given.was(value)))


def _bare(
    thread: WorkflowCheckpoint,
    value: Any,
    answered: Sequence[Answered],
    opened: set[str],
    *,
    token: int,
    over: str | None,
) -> Mapping[str, Any]:
    same = next((given for given in reversed(answered) if given.was(value)), None)
    if len(opened) > 1:
        raise ThreadInterruptedError(
            f"could not answer thread {thread.thread_id!r}: it asks {len(opened)} questions, and one bare answer came; "
            f"answer with a dict of interrupt ids: {', '.join(sorted(opened))}",
            thread_id=thread.thread_id,
            interrupts=thread.interrupts,
        )
    if opened:
        (interrupt_id,) = opened
        if same is not None and same.token != token:
            raise _already(
                thread,
                same,
                f"the same answer was given to it, and may have been delivered twice; if it is meant for the question "
                f"that is open now, answer by its id: {{{interrupt_id!r}: …}}",
            )
        digest_of(interrupt_id, value)
        return {interrupt_id: value}
    if same is not None:
        return {}
    of_it = "" if over is None else f" of run {over!r}"
    if answered and answered[-1].run_id == (over or thread.run_id):
        raise _already(thread, answered[-1], "it was answered otherwise")
    raise _nothing(thread, f"no question{of_it} is open", ())


def _names_interrupts(value: Any) -> bool:
    keys = list(cast("dict[Any, Any]", value)) if isinstance(value, dict) else []
    return bool(keys) and all(isinstance(key, str) and _ID.fullmatch(key) for key in keys)


def _already(thread: WorkflowCheckpoint, given: Answered, why: str) -> AlreadyAnsweredError:
    return AlreadyAnsweredError(
        f"could not answer question {given.interrupt_id} of thread {thread.thread_id!r}, closed since "
        f"{given.at.isoformat(timespec='seconds')}: {why}",
        thread_id=thread.thread_id,
        interrupt_ids=(given.interrupt_id,),
        answered_at=given.at,
    )


def _nothing(thread: WorkflowCheckpoint, why: str, interrupt_ids: Sequence[str]) -> NothingToAnswerError:
    return NothingToAnswerError(
        f"could not answer thread {thread.thread_id!r}, which is {thread.status}: {why}; "
        "get_checkpoint_status(thread_id).interrupts are its questions",
        thread_id=thread.thread_id,
        status=thread.status,
        interrupt_ids=interrupt_ids,
    )


def already_left(thread: WorkflowCheckpoint, given: Answered) -> AlreadyAnsweredError:
    """For an answer that was given before to a run that has stopped since."""
    return _already(
        thread, given, f"the same answer was given, and the thread is {thread.status} since: call ainvoke()"
    )
