"""Match answers to questions: each answer reaches its own question once, or none.

LangGraph gives a bare answer to the next interrupt, whichever that is. Here every answer carries
the id of its interrupt. The ledger keeps which ids were answered, when, and a digest of the answer;
and the answers themselves until LangGraph has stored them, which it does once their node has used
them.
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
"""LangGraph's key in `config["configurable"]`: refuse an unknown interrupt id before writing
anything.
"""

_ID = re.compile(r"[0-9a-f]{32}")
"""The form of LangGraph's interrupt ids: an XXH3 digest of 128 bits."""

_SERDE = JsonPlusSerializer()


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer that the ledger has recorded.

    Attributes:
        interrupt_id: the question.
        at: when, by the database's clock.
        digest: see `digest_of`.
        token: the fencing token of the lease under which it was given.
        run_id: the run that continued with it.
        run_status: that run's status in the ledger.
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
        """Whether `value` is the recorded answer."""
        return self.digest == digest_of(self.interrupt_id, value)


def digest_of(interrupt_id: str, value: Any) -> str:
    """A digest that is equal for equal answers to one question; the order of dict keys does not
    matter.

    Raises:
        InvalidArgumentError: the answer cannot be serialised.
    """
    try:
        stored = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except (TypeError, ValueError):
        try:
            stored = b"".join(
                (part.encode() if isinstance(part, str) else part)
                for part in _SERDE.dumps_typed(value)
            )
        except Exception as error:  # serializers raise what they like
            raise InvalidArgumentError(
                f"cannot take the answer: {type(error).__name__} while serialising"
                f" {type(value).__name__}; pass plain data, dataclasses, pydantic models or"
                " messages",
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
    """The new answers by interrupt id; empty if all of them are repeated deliveries.

    Args:
        thread: the thread's status under the lease.
        value: an answer to the one open question, or a dict of interrupt ids.
        answered: the recorded answers of this thread, or of the run `over`, oldest first.
        token: the lease's fencing token. A caller that saw the question under its own lease may
            give the same answer twice.
        over: the run that the caller names, if it has ended: the thread's open questions are not
            its.

    Raises:
        ThreadNotFoundError: the thread does not exist.
        NothingToAnswerError: no question is open, or not this one.
        AlreadyAnsweredError: the question has another answer, or this answer may have been meant
            for an earlier question.
        ThreadInterruptedError: a bare answer while several questions are open.
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
            raise _already(thread, given, "it has another answer")
    return new


def given_before(value: Any, answered: Sequence[Answered]) -> Answered:
    """The newest recorded answer among those in `value`, all of which are repeated deliveries."""
    ids = cast("dict[str, Any]", value).keys() if _names_interrupts(value) else None
    return next(
        given
        for given in reversed(answered)
        if (given.interrupt_id in ids if ids else given.was(value))
    )


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
            f"cannot answer thread {thread.thread_id!r}: {len(opened)} questions are open, and the"
            f" answer names none; answer with a dict of interrupt ids: {', '.join(sorted(opened))}",
            thread_id=thread.thread_id,
            interrupts=thread.interrupts,
        )
    if opened:
        (interrupt_id,) = opened
        if same is not None and same.token != token:
            raise _already(
                thread,
                same,
                "it has the same answer, so this may be a second delivery; if it is meant for the"
                f" question that is open now, answer with a dict of its id: {interrupt_id!r}",
            )
        digest_of(interrupt_id, value)
        return {interrupt_id: value}
    if same is not None:
        return {}
    of_it = "" if over is None else f" of run {over!r}"
    if answered and answered[-1].run_id == (over or thread.run_id):
        raise _already(thread, answered[-1], "it has another answer")
    raise _nothing(thread, f"no question{of_it} is open", ())


def _names_interrupts(value: Any) -> bool:
    keys = list(cast("dict[Any, Any]", value)) if isinstance(value, dict) else []
    return bool(keys) and all(isinstance(key, str) and _ID.fullmatch(key) for key in keys)


def _already(thread: WorkflowCheckpoint, given: Answered, why: str) -> AlreadyAnsweredError:
    return AlreadyAnsweredError(
        f"cannot answer question {given.interrupt_id} of thread {thread.thread_id!r}, closed since "
        f"{given.at.isoformat(timespec='seconds')}: {why}",
        thread_id=thread.thread_id,
        interrupt_ids=(given.interrupt_id,),
        answered_at=given.at,
    )


def _nothing(
    thread: WorkflowCheckpoint, why: str, interrupt_ids: Sequence[str]
) -> NothingToAnswerError:
    return NothingToAnswerError(
        f"cannot answer thread {thread.thread_id!r}, which is {thread.status}: {why}; "
        "get_checkpoint_status(thread_id).interrupts lists its questions",
        thread_id=thread.thread_id,
        status=thread.status,
        interrupt_ids=interrupt_ids,
    )


def already_left(thread: WorkflowCheckpoint, given: Answered) -> AlreadyAnsweredError:
    """The error for a repeated answer to a run that has stopped since."""
    return _already(
        thread,
        given,
        f"it has the same answer, and the thread is {thread.status} since: run.ainvoke() goes on",
    )
