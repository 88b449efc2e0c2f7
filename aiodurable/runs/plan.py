"""The plan of a call: look up the runs it concerns in the ledger, then decide. Nothing starts
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from langgraph.types import Interrupt

from aiodurable.errors import InvalidArgumentError, RunInProgressError
from aiodurable.models import RunStatus, ThreadStatus, WorkflowCheckpoint
from aiodurable.runs.accepted import Accepted
from aiodurable.runs.answers import Answered, addressed, already_left, given_before
from aiodurable.runs.call import Call
from aiodurable.runs.decision import Action, asleep, decide, left_by_its_caller
from aiodurable.runs.lease import ThreadLease
from aiodurable.runs.ledger import Ledger
from aiodurable.runs.signals import Due
from aiodurable.runs.stored_result import StoredResult
from aiodurable.waits import payload_of

__all__ = ["Plan", "in_front_of_queue", "plan_call"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a call does.

    Attributes:
        action: the decision.
        stored: the result, for `Action.RETURN`.
        unfinished: the run to resume, or to begin; None: the unfinished work belongs to no run.
        answers: the new answers to deliver, by interrupt id.
        rolls_back: whether what the thread's unfinished run wrote is removed first.
        due: what the thread has slept or waited for long enough.
    """

    action: Action
    stored: StoredResult | None = None
    unfinished: Accepted | None = None
    answers: Mapping[str, Any] = field(default_factory=dict[str, Any])
    rolls_back: bool = False
    due: Due | None = None


async def plan_call(
    ledger: Ledger, lease: ThreadLease, thread: WorkflowCheckpoint, call: Call
) -> Plan:
    """Decide what `call` does with `thread`, read under `lease`; raises what `decide` and
    `addressed` raise.
    """
    named = await _named(ledger, thread, call.run_id)
    if named is not None and named.record.status is RunStatus.QUEUED:
        return await _plan_queued(ledger, thread, call, named)
    thread = in_front_of_queue(thread, given=call.given)
    unfinished = await _unfinished(ledger, thread, named)
    if call.answers:
        return await _plan_answer(ledger, lease, thread, call, named, unfinished)
    if named is not None and await _is_complete(ledger, lease, thread, named):
        await _refuse_another_input(ledger, named, call)
        if call.given or thread.status is ThreadStatus.COMPLETE or unfinished is not None:
            return Plan(Action.RETURN, StoredResult(named.record.checkpoint_id))
        named = None  # an update of the state left work that no run has begun
    same_run = (
        named is not None
        and unfinished is not None
        and named.record.run_id == unfinished.record.run_id
    )
    same_input = False
    on_unfinished = call.on_unfinished
    if call.takes_over and call.given and not same_run and on_unfinished == "resume":
        on_unfinished = "restart"
    if (
        call.given
        and unfinished is not None
        and on_unfinished != "restart"
        and (same_run or call.run_id is None)
    ):
        same_input = await ledger.same_input(unfinished, call.input)
        if same_run and not same_input:
            await _refuse_another_input(ledger, unfinished, call)
            same_input = True  # the input it was accepted with is no longer stored
    due = await ledger.signals.due(thread.thread_id, thread.waits) if thread.waits else None
    undelivered = unfinished is not None and unfinished.stored_answers[0] is not None
    goes_on = same_run and not call.given
    action = decide(
        thread,
        given=call.given,
        same=same_input,
        named=same_run,
        # an attempt could not deliver what it had stored: the row says which waits that ended
        due=(due is not None and bool(due.ended))
        or (undelivered and (bool(thread.waits) or goes_on)),
        left=same_run
        and unfinished is not None
        and left_by_its_caller(thread, unfinished.record.cancel_requested_at),
        on_unfinished=on_unfinished,
    )
    if action is Action.RETURN:
        return Plan(action, StoredResult(None, _asked(thread)))
    return Plan(action, unfinished=unfinished, due=due)


def in_front_of_queue(thread: WorkflowCheckpoint, *, given: bool) -> WorkflowCheckpoint:
    """The thread as a call with an input sees it: what waits in a queue begins after the call."""
    if thread.status is not ThreadStatus.QUEUED or not given:
        return thread
    before = ThreadStatus.NEW if thread.checkpoint_id is None else ThreadStatus.COMPLETE
    return replace(thread, status=before)


def _asked(thread: WorkflowCheckpoint) -> tuple[Any, ...]:
    """What LangGraph returned at the interrupts of this thread, sleeps included."""
    sleeps = (Interrupt(payload_of(one.name, one.until), one.id) for one in thread.waits)
    return (*thread.interrupts, *sleeps)


async def _plan_queued(
    ledger: Ledger, thread: WorkflowCheckpoint, call: Call, queued: Accepted
) -> Plan:
    """Begin the run that has waited, unless an earlier one is not over."""
    await _refuse_another_input(ledger, queued, call)
    if thread.status in (ThreadStatus.NEW, ThreadStatus.COMPLETE, ThreadStatus.QUEUED):
        return Plan(Action.BEGIN, unfinished=queued)
    left = await ledger.queued.left(thread.thread_id, queued.record.run_id)
    if not left.passable:
        raise RunInProgressError(
            f"cannot begin run {queued.record.run_id!r} of thread {thread.thread_id!r}: an earlier"
            f" run of it is not over, the thread is {thread.status}; settle that one first",
            thread_id=thread.thread_id,
            status=thread.status,
        )
    return Plan(
        Action.BEGIN, unfinished=queued, rolls_back=left.unfinished and bool(left.roll_back)
    )


async def _plan_answer(
    ledger: Ledger,
    lease: ThreadLease,
    thread: WorkflowCheckpoint,
    call: Call,
    named: Accepted | None,
    unfinished: Accepted | None,
) -> Plan:
    answered, over = await ledger.answers.read(thread.thread_id), None
    if named is not None and (
        unfinished is None or unfinished.record.run_id != named.record.run_id
    ):
        over = named.record.run_id  # an answer to this run is for no question of another run
        answered = [given for given in answered if given.run_id == over]
    new = addressed(thread, call.answer, answered, token=lease.token, over=over)
    if not new and (stored := _result_of_repeated(thread, call.answer, answered)) is not None:
        return Plan(Action.RETURN, stored)
    return Plan(Action.RESUME, unfinished=unfinished, answers=new)


def _result_of_repeated(
    thread: WorkflowCheckpoint, value: Any, answered: Sequence[Answered]
) -> StoredResult | None:
    """The result of an answer that was given before; None: its run has to be resumed.

    Raises:
        AlreadyAnsweredError: that run has stopped since.
    """
    given = given_before(value, answered)
    if given.run_status is RunStatus.COMPLETE:
        return StoredResult(given.checkpoint_id)
    if given.run_id == thread.run_id:
        over = thread.status in (ThreadStatus.COMPLETE, ThreadStatus.INTERRUPTED)
        if over or asleep(thread):
            return StoredResult(None, _asked(thread))
        if thread.status in (ThreadStatus.CRASHED, ThreadStatus.FAILED):
            return None
    raise already_left(thread, given)


async def _named(ledger: Ledger, thread: WorkflowCheckpoint, run_id: str | None) -> Accepted | None:
    """The run that the call names, if the ledger has it: a run_id never runs twice."""
    if run_id is None:
        return None
    named = await ledger.get(run_id)
    if named is None:
        return None
    if named.record.thread_id != thread.thread_id:
        raise InvalidArgumentError(
            f"cannot use run_id {run_id!r} on thread {thread.thread_id!r}: it is a run of thread "
            f"{named.record.thread_id!r}; a run_id names one run of one thread",
            thread_id=thread.thread_id,
        )
    if named.record.status is RunStatus.SUPERSEDED:
        raise InvalidArgumentError(
            f"cannot use run_id {run_id!r} on thread {thread.thread_id!r} again: that run was given"
            " up for a new start; use another one",
            thread_id=thread.thread_id,
            argument="run_id",
        )
    return named


async def _unfinished(
    ledger: Ledger, thread: WorkflowCheckpoint, named: Accepted | None
) -> Accepted | None:
    """The unfinished run of the thread; None: there is none, or the work belongs to no run."""
    if thread.status in (ThreadStatus.NEW, ThreadStatus.COMPLETE):
        return None
    newest = named
    if named is None or named.record.run_id != thread.run_id:
        newest = await ledger.newest(thread.thread_id)
    return None if newest is None or newest.record.status is RunStatus.COMPLETE else newest


async def _is_complete(
    ledger: Ledger, lease: ThreadLease, thread: WorkflowCheckpoint, named: Accepted
) -> bool:
    """Whether the run is complete: as recorded, or by the tables if its process died before
    recording it.
    """
    if named.record.status is RunStatus.COMPLETE:
        return True
    if thread.status is not ThreadStatus.COMPLETE or thread.run_id != named.record.run_id:
        return False
    await ledger.complete_by_tables(
        named.record.run_id, fence=lease.fence, checkpoint_id=thread.checkpoint_id
    )
    return True


async def _refuse_another_input(ledger: Ledger, run: Accepted, call: Call) -> None:
    if (
        call.given
        and run.stored_input[0] is not None
        and not await ledger.same_input(run, call.input)
    ):
        raise InvalidArgumentError(
            f"cannot give run {run.record.run_id!r} of thread {run.record.thread_id!r} this input: "
            "it was accepted with another input; a run_id names one input, so use another one",
            thread_id=run.record.thread_id,
            argument="input",
        )
