"""What a person can do with a thread: what the library itself would not refuse."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from aiodurable.errors import ThreadPausedError
from aiodurable.models import ClaimState, RunStatus, ThreadStatus
from aiodurable.runs.decision import asleep, may_go_on
from aiodurable.runs.why.answer import WhyAction
from aiodurable.runs.why.facts import Found, SeenRun

__all__ = ["actions"]

_APP = "--app MODULE:ATTRIBUTE"
_COMMAND = "aiodurable threads"


def actions(found: Found) -> tuple[WhyAction, ...]:
    """The actions that fit, the most likely one first."""
    return (*_of_thread(found), *_of_runs(found))


def _of_thread(found: Found) -> Iterator[WhyAction]:
    thread, name = found.thread.status, found.thread.status.thread_id
    match thread.status:
        case ThreadStatus.NEW | ThreadStatus.QUEUED:
            return
        case ThreadStatus.RUNNING:
            if any(one.facts.status is RunStatus.RUNNING for one in found.runs):
                yield _cancel(name, "End the run that is at work")
            return
        case ThreadStatus.INTERRUPTED:
            yield WhyAction(
                name="answer",
                sentence="Answer its questions",
                command=_typed(f"{_COMMAND} answer", name, more="ANSWER", options=_APP),
            )
        case ThreadStatus.QUARANTINED:
            yield _retry(name)
        case ThreadStatus.CRASHED | ThreadStatus.FAILED | ThreadStatus.PAUSED:
            if asleep(thread):
                yield from _of_asleep(found, name)
            else:
                yield _resume(found, name)
            if thread.status is ThreadStatus.FAILED:
                yield _retry(name)
        case ThreadStatus.COMPLETE:
            pass
    if thread.checkpoint_id is not None:
        yield WhyAction(
            name="fork",
            sentence="Start a new thread from one of its checkpoints",
            command=_typed(f"{_COMMAND} fork", name, more="NEW_THREAD"),
        )


def _resume(found: Found, name: str) -> WhyAction:
    try:
        may_go_on(found.called)
    except ThreadPausedError:
        return WhyAction(
            name="resume",
            sentence="Go on although it was stopped on purpose",
            command=_typed(f"{_COMMAND} resume", name, options=f"--past-gate {_APP}"),
        )
    return WhyAction(
        name="resume",
        sentence="Go on from its newest checkpoint, in this process",
        command=_typed(f"{_COMMAND} resume", name, options=_APP),
    )


def _retry(name: str) -> WhyAction:
    return WhyAction(
        name="retry",
        sentence="Try it again in this process, when the cause is mended",
        command=_typed(f"{_COMMAND} retry", name, options=_APP),
    )


def _of_asleep(found: Found, name: str) -> Iterator[WhyAction]:
    if found.due:
        yield WhyAction(
            name="resume",
            sentence="Go on in this process: it is due",
            command=_typed(f"{_COMMAND} resume", name, options=_APP),
        )
    for signal in dict.fromkeys(filter(None, found.facts.waits)):
        yield WhyAction(
            name="signal",
            sentence=f"Send signal {signal!r}",
            command=_typed(f"{_COMMAND} signal", name, signal, more="VALUE"),
        )
    yield _cancel(name, "Give up the sleep or the wait")


def _cancel(name: str, sentence: str) -> WhyAction:
    return WhyAction(name="cancel", sentence=sentence, command=_typed(f"{_COMMAND} cancel", name))


def _of_runs(found: Found) -> Iterator[WhyAction]:
    for seen in found.runs:
        run = seen.facts
        if run.status is RunStatus.QUEUED:
            yield WhyAction(
                name="cancel",
                sentence=f"Give up run {run.run_id!r}, which has not begun",
                command=_typed("aiodurable runs cancel", run.run_id),
            )
        if run.queue is not None and run.status in (RunStatus.FAILED, RunStatus.QUARANTINED):
            yield WhyAction(
                name="retry",
                sentence=f"Give run {run.run_id!r} to the workers again, with all its attempts",
                command=_typed("aiodurable runs retry", run.run_id),
            )
    for queue in dict.fromkeys(one.name for one in found.facts.queues if one.paused):
        yield WhyAction(
            name="resume_queue",
            sentence=f"Let workers begin runs of queue {queue!r} again",
            command=_typed("aiodurable queues resume", queue),
        )
    waits = [one.facts for one in _ready(found)]
    if waits and not found.facts.workers:
        queues = " ".join(f"--queue {_word(name)}" for name in {run.queue or "" for run in waits})
        yield WhyAction(
            name="start_worker",
            sentence="Start a worker",
            command=f"aiodurable worker MODULE:ATTRIBUTE {queues}",
        )


def _ready(found: Found) -> list[SeenRun]:
    """The runs that wait for nothing but a worker."""
    return [one for one in found.runs if one.facts.claim_state is ClaimState.READY]


def _typed(command: str, *names: str, more: str = "", options: str = "") -> str:
    """A command with names from the database. One that begins with a dash is no option."""
    words = " ".join([*map(_word, names), *([more] if more else [])])
    dashed = any(name.startswith("-") for name in names)
    return " ".join(
        filter(None, (command, options, "--", words) if dashed else (command, words, options))
    )


def _word(text: str) -> str:
    """One argument of bash; without characters that a terminal obeys."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = (
        c if c.isprintable() and c not in "\\'" else "".join(f"\\x{b:02x}" for b in c.encode())
        for c in text
    )
    return f"$'{''.join(escaped)}'"
