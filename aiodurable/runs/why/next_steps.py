"""What happens next: a call by `decide` itself, the rest by the conditions of `worker.sql`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Final

from aiodurable.errors import WorkflowAlreadyRunningError, WorkflowExecutionError
from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.runs.decision import Action, decide
from aiodurable.runs.plan import in_front_of_queue
from aiodurable.runs.why.answer import NextStep, QueueFacts
from aiodurable.runs.why.facts import Found, SeenRun

__all__ = ["next_steps"]

_OF_ACTIONS: Final = {
    Action.START: "starts a new run",
    Action.RESUME: "goes on from the newest checkpoint",
    Action.BEGIN: "begins the run that waits",
    Action.FINISH_FIRST: "first finishes the unfinished run, unless the input is that run's own",
    Action.RETURN: "returns what is stored",
}


def next_steps(found: Found) -> tuple[NextStep, ...]:
    """Who does what next, and when."""
    steps = [*_of_processes(found), *_of_schedules(found)]
    if not steps:
        steps.append(_of_nobody(found))
    return (*_of_calls(found), *steps)


def _of_calls(found: Found) -> Iterator[NextStep]:
    for given in (False, True):
        name = "run.ainvoke(input)" if given else "run.ainvoke()"
        what, says = _of_call(found, given=given)
        if found.facts.standby:
            says += ", unless somebody holds the lock on the primary"
        yield NextStep(
            by="call_with_input" if given else "call", what=what, sentence=f"{name} {says}"
        )


def _of_call(found: Found, *, given: bool) -> tuple[str, str]:
    lock = found.facts.lock
    if lock is not None:
        what = WorkflowAlreadyRunningError.__name__
        return what, f"raises {what}, or waits with on_busy: {lock} holds the lock"
    try:
        thread = in_front_of_queue(found.called, given=given)
        action = decide(thread, given=given, due=found.due)
    except WorkflowExecutionError as error:
        what = type(error).__name__
        return what, f"raises {what}"
    return action.name.lower(), _OF_ACTIONS[action]


def _of_processes(found: Found) -> Iterator[NextStep]:
    for run in found.runs:
        facts = run.facts
        if facts.claim_state is not None:
            yield _of_waiting(found, run)
        elif facts.status is RunStatus.RUNNING:
            yield _of_running(found, run)
    if found.facts.lock is not None and not any(
        one.facts.status is RunStatus.RUNNING and one.facts.claim_state is None
        for one in found.runs
    ):
        yield NextStep(
            by="holder",
            what="go_on",
            sentence=f"{found.facts.lock} holds the lock, and goes on or releases it",
        )


def _of_running(found: Found, run: SeenRun) -> NextStep:
    """A run that the ledger has as running, and that no worker may claim."""
    facts, cancelled = run.facts, run.facts.cancel_requested_at is not None
    if found.facts.lock is not None:
        what = "ends it at its next heartbeat, as somebody cancelled it" if cancelled else "goes on"
        return NextStep(
            by="holder",
            what="cancel" if cancelled else "go_on",
            run_id=facts.run_id,
            sentence=f"The process that holds the lock {what}",
        )
    if facts.graph is None:
        return NextStep(
            by="nobody",
            what="wait",
            run_id=facts.run_id,
            sentence="No worker rescues it: its graph has no name",
        )
    then = (
        "closes it as cancelled"
        if cancelled
        else f"lets a worker that has graph {facts.graph!r} resume it"
    )
    when = "at the next look of a worker, within a second"
    if found.facts.standby:
        when = "if its process is gone, which a standby does not know"
    elif run.process_left:
        when = (
            f"{found.grace_s:g} s after it was first seen without a lock: its process may take it"
            " again"
        )
    return NextStep(
        by="rescuer",
        what="close" if cancelled else "rescue",
        run_id=facts.run_id,
        sentence=f"A worker {then}",
        when=f"{when}{_unseen(found)}",
    )


def _of_waiting(found: Found, run: SeenRun) -> NextStep:
    match run.facts.claim_state:
        case ClaimState.SCHEDULED:
            return _of_scheduled(found, run)
        case ClaimState.BLOCKED:
            return _of_blocked(found, run)
        case ClaimState.LIMITED:
            return _of_limited(found, run)
        case ClaimState.CLAIMED:
            return _of_claimed(found, run)
        case _:
            return _of_ready(found, run)


def _of_ready(found: Found, run: SeenRun) -> NextStep:
    facts, queue = run.facts, _queue_of(found, run)
    verb = "begin" if facts.token is None else "resume"
    begins = f"a worker that serves queue {facts.queue!r} and has graph {facts.graph!r}"
    wait = _limit(found, queue)
    if wait is not None:
        return NextStep(
            by="worker",
            what="wait",
            run_id=facts.run_id,
            sentence=f"It is ready for {begins}, which may not begin it yet",
            at=None if wait[1] is None else found.facts.at + wait[1],
            when=wait[0],
        )
    if run.too_late and facts.status is RunStatus.QUEUED:
        sentence = f"A{begins[1:]} sets it aside: it has waited longer than it may"
        return NextStep(by="worker", what="set_aside", run_id=facts.run_id, sentence=sentence)
    return NextStep(
        by="worker",
        what=verb,
        run_id=facts.run_id,
        sentence=f"A{begins[1:]} {verb}s it",
        when=f"as soon as it has capacity{_unseen(found)}",
    )


def _limit(found: Found, queue: QueueFacts | None) -> tuple[str, timedelta | None] | None:
    """What keeps a run that is ready from being claimed, and for how long, if a time ends it."""
    if queue is None:
        return None
    if queue.paused:
        return f"when queue {queue.name!r} is resumed: somebody paused it", None
    if queue.max_running is not None and queue.at_work >= queue.max_running:
        share = f"{queue.at_work} of {queue.max_running} are at work"
        return f"when a run of queue {queue.name!r} ends: {share}", None
    if queue.tokens is not None and queue.rate is not None and queue.tokens < 1:
        span = timedelta(seconds=(1 - queue.tokens) / queue.rate)
        return f"its queue begins {queue.rate:g} runs a second", span
    key = _key_is_full(found, queue)
    return None if key is None else (key, None)


def _key_is_full(found: Found, queue: QueueFacts | None) -> str | None:
    if (
        queue is None
        or queue.concurrency_key is None
        or queue.max_running_per_key is None
        or queue.at_work_of_key < queue.max_running_per_key
    ):
        return None
    oldest = ""
    if queue.oldest_of_key is not None:
        oldest = f", the oldest for {_seconds(found.facts.at - queue.oldest_of_key)}"
    return (
        f"when a run of key {queue.concurrency_key!r} ends: {queue.at_work_of_key} of"
        f" {queue.max_running_per_key} are at work{oldest}"
    )


def _of_limited(found: Found, run: SeenRun) -> NextStep:
    full = _key_is_full(found, _queue_of(found, run))
    return NextStep(
        by="worker",
        what="make_ready" if full is None else "wait",
        run_id=run.facts.run_id,
        sentence="A worker makes it ready",
        when=full or f"at its next look, within a second{_unseen(found)}",
    )


def _of_blocked(found: Found, run: SeenRun) -> NextStep:
    behind = run.facts.behind
    when = (
        f"at its next look, within a second{_unseen(found)}"
        if run.free or behind is None
        else f"when run {behind!r}, accepted before it, is over"
    )
    return NextStep(
        by="worker",
        what="make_ready" if run.free else "wait",
        run_id=run.facts.run_id,
        sentence="A worker makes it ready",
        when=when,
    )


def _of_claimed(found: Found, run: SeenRun) -> NextStep:
    facts = run.facts
    if run.claim_void:
        return NextStep(
            by="worker",
            what="take_back",
            run_id=facts.run_id,
            sentence=f"A worker takes back the claim of {facts.claimed_by}, which is gone",
            when=f"at its next look, within a second{_unseen(found)}",
        )
    return NextStep(
        by="worker",
        what="begin" if facts.token is None else "resume",
        run_id=facts.run_id,
        sentence=f"Worker {facts.claimed_by} is about to begin it",
    )


def _of_scheduled(found: Found, run: SeenRun) -> NextStep:
    facts = run.facts
    verb = "begin" if facts.token is None else "resume"
    if facts.graph_changed:
        return NextStep(
            by="worker",
            what=verb,
            run_id=facts.run_id,
            sentence=f"The graph changed: a worker {verb}s it, if its version of graph"
            f" {facts.graph!r} fits. No worker that has claimed it so far has one; aiodurable check"
            " says what does not fit",
            at=facts.scheduled_at,
            when=None if found.facts.workers else f"when a worker looks{_unseen(found)}",
        )
    if facts.waiting_for:
        names = ", ".join(map(repr, facts.waiting_for))
        sentence, when = "A worker resumes it", f"when signal {names} is sent"
        if found.due:
            when = f"at the next look of a worker, as it is due{_unseen(found)}"
        return NextStep(
            by="worker",
            what="resume",
            run_id=facts.run_id,
            sentence=sentence,
            at=facts.scheduled_at,
            when=when,
        )
    what = f"A worker {verb}s it"
    if facts.waiting_for is None and facts.status is RunStatus.FAILED:
        what = f"A worker makes attempt {facts.attempts + 1}"
    when = None if found.facts.workers else f"when a worker looks{_unseen(found)}"
    return NextStep(
        by="worker",
        what=verb,
        run_id=facts.run_id,
        sentence=what,
        at=facts.scheduled_at,
        when=when if facts.scheduled_at is not None else "never by itself: it has no time",
    )


def _of_schedules(found: Found) -> Iterator[NextStep]:
    for schedule_id, at in sorted(found.schedules.items(), key=lambda one: one[0]):
        yield NextStep(
            by="schedule",
            what="accept" if at is not None else "wait",
            sentence=f"Schedule {schedule_id!r} accepts another run of it",
            at=at,
            when=None if at is not None else "when it is resumed: somebody paused it",
        )


def _of_nobody(found: Found) -> NextStep:
    status = found.thread.status.status
    if status in (ThreadStatus.COMPLETE, ThreadStatus.NEW):
        sentence = "No work is left: nothing happens until somebody calls it or accepts a run"
    elif found.thread.status.resumable:
        sentence = "No worker has it: a call goes on with it, and so does threads resume-many"
    else:
        sentence = "Nothing goes on by itself: it waits for a person"
    return NextStep(by="nobody", what="wait", sentence=sentence)


def _queue_of(found: Found, run: SeenRun) -> QueueFacts | None:
    for queue in found.facts.queues:
        if (queue.name, queue.concurrency_key) == (run.facts.queue, run.facts.concurrency_key):
            return queue
    return None


def _unseen(found: Found) -> str:
    return "" if found.facts.workers else " (no worker is seen at this moment)"


def _seconds(span: timedelta) -> str:
    return f"{max(0.0, span.total_seconds()):.0f} s"
