"""The answer to `why`: frozen values, and the paragraph that they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from aiodurable.models import ClaimState, LockHolder, RunStatus, WorkflowCheckpoint
from aiodurable.threads.rules import WhyRule

__all__ = ["NextStep", "QueueFacts", "RunFacts", "Why", "WhyAction", "WhyFacts"]

_PRINTED_WIDTH = 300
"""Characters of one name in the paragraph, at most: a thread_id or a node may be long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What the ledger says of one run, and what a worker sees of it.

    Attributes:
        run_id, graph, status, reason: of the run; `reason` as in `RunRecord`.
        attempts: how often it was tried.
        failures: how many attempts in a row have failed without progress.
        max_attempts: how often it may be tried; None: as its policy says.
        token: the fencing token of its last attempt; None: it never began.
        worker: host and process of its last attempt.
        process_seen: whether that process has a connection to this database; true where a standby
            is read, which does not know.
        created_at, started_at, finished_at, failed_at: see `RunRecord`.
        cancel_requested_at: when somebody cancelled it.
        claim_state: what a worker may do with it; None: nothing.
        claimed_by: the worker that claimed it last.
        queue, priority, fairness_key, concurrency_key, scheduled_at, schedule_id: see `RunRecord`.
        waiting_for: the signals that it waits for; None: it does not sleep.
        behind: the run that it waits for; None: none.
        on_busy: what it does to what the thread has left.
        graph_changed: whether the graph of the worker that claimed it last did not fit it.
    """

    run_id: str
    graph: str | None
    status: RunStatus
    reason: str | None
    attempts: int
    failures: int
    max_attempts: int | None
    token: int | None
    worker: str | None
    process_seen: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    failed_at: datetime | None
    cancel_requested_at: datetime | None
    claim_state: ClaimState | None
    claimed_by: str | None
    queue: str | None
    priority: int
    fairness_key: str | None
    concurrency_key: str | None
    scheduled_at: datetime | None
    schedule_id: str | None
    waiting_for: tuple[str, ...] | None
    behind: str | None
    on_busy: str | None
    graph_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFacts:
    """A queue as the next claim finds it.

    Attributes:
        name: the queue.
        paused: whether workers begin none of its runs.
        max_running, max_running_per_key, rate: its limits; None: none.
        tokens: how many runs may begin at once by its rate; None: no rate.
        at_work: runs at work, 10,000 at most.
        concurrency_key: the key that the next two are about; None: the run has none.
        at_work_of_key: runs at work of this key, 10,000 at most.
        oldest_of_key: when the oldest of them started.
    """

    name: str
    paused: bool
    max_running: int | None
    max_running_per_key: int | None
    rate: float | None
    tokens: float | None
    at_work: int
    concurrency_key: str | None
    at_work_of_key: int
    oldest_of_key: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyFacts:
    """What the database says of a thread, all of one moment but the locks.

    Attributes:
        at: the time, by the clock of Postgres.
        standby: whether a standby was read, which does not show the primary's locks.
        lock: who holds the thread's lock; None: nobody.
        token: the fence's token; None: no lease of the thread was ever taken, or it was removed.
        head: the id of the newest checkpoint; None: none.
        step, written_at, pending: see `WorkflowCheckpoint`.
        finished: the tasks of the newest checkpoint whose writes are stored.
        questions: the ids of the open questions.
        waits: the sleeps and waits that are open: a signal's name, or None for a sleep.
        runs: the newest runs, and the first that wait, at most 10 of either.
        queues: the queues in which runs of the thread wait.
        signals: the names of signals that no run has taken, of the first hundred.
        effects: the side effects of which nobody knows whether they happened.
        workers: workers of these tables that are connected; read from a standby, those that were
            seen within a minute.
    """

    at: datetime
    standby: bool
    lock: LockHolder | None
    token: int | None
    head: str | None
    step: int | None
    written_at: datetime | None
    pending: tuple[str, ...]
    finished: int
    questions: tuple[str, ...]
    waits: tuple[str | None, ...]
    runs: tuple[RunFacts, ...]
    queues: tuple[QueueFacts, ...]
    signals: tuple[str, ...]
    effects: tuple[str, ...]
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NextStep:
    """What will be done with the thread.

    Attributes:
        by: who does it: `call` is `run.ainvoke()`, `call_with_input` is `run.ainvoke(input)`,
            `holder` the process that holds the lease, `rescuer` any worker that looks for runs of
            dead processes; `nobody`: nothing happens without a person.
        what: a stable identifier. Of a call: `start`, `resume`, `finish_first`, `return`, or the
            name of the error that it raises. Of others: `begin`, `resume`, `make_ready`, `rescue`,
            `close`, `set_aside`, `take_back`, `accept`, `go_on`, `cancel`, `wait`.
        run_id: the run that it is about; None: none, or that of the thread.
        sentence: the same in words.
        at: when; None: at once, or when `when` comes about.
        when: the condition; None: none.
    """

    by: Literal["call", "call_with_input", "holder", "worker", "rescuer", "schedule", "nobody"]
    what: str
    sentence: str
    run_id: str | None = None
    at: datetime | None = None
    when: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyAction:
    """What a person can do.

    Attributes:
        name: `resume`, `retry`, `answer`, `signal`, `cancel`, `fork`, `delete`, `resume_queue`,
            `start_worker`, `start_now`.
        sentence: what it does.
        command: to type into a shell; words in capitals are to be filled in.
    """

    name: str
    sentence: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a thread stands as it does, and what happens next. `str()` gives a paragraph, without
    states, questions and errors.

    Attributes:
        status: its status.
        facts: what the database says of it.
        rule: the rule that decided the status.
        next: what will be done with it, and when.
        actions: what a person can do.
    """

    status: WorkflowCheckpoint
    facts: WhyFacts
    rule: WhyRule
    next: tuple[NextStep, ...]
    actions: tuple[WhyAction, ...]

    def __str__(self) -> str:
        status = self.status
        title = f"Thread {_short(status.thread_id)} is {status.status}"
        if status.reason:
            title += f" ({_short(status.reason)})"
        parts = [f"{title}. {self.rule.sentence}", _facts(self.facts)]
        if status.doubt:
            parts.append(f"This may be wrong: {status.doubt}.")
        parts.append("\n".join(["Next:", *(f"- {_next(step)}" for step in self.next)]))
        if self.actions:
            actions = [f"- {one.sentence}: {one.command}" for one in self.actions]
            parts.append("\n".join(["What you can do:", *actions]))
        return "\n\n".join(parts)


def _next(step: NextStep) -> str:
    when = [] if step.at is None else [f"at {_time(step.at)}"]
    if step.when is not None:
        when.append(step.when)
    return f"{step.sentence}{', ' if when else ''}{' or '.join(when)}."


def _facts(facts: WhyFacts) -> str:
    said = ["Nobody holds its lock" if facts.lock is None else f"Its lock is held by {facts.lock}"]
    if facts.standby:
        said = ["A standby does not show its lock"]
    said.append("no lease has a fence" if facts.token is None else f"its fence is at {facts.token}")
    if facts.head is None:
        said.append("it has no checkpoint")
    else:
        when = "" if facts.written_at is None else f", written {_time(facts.written_at)}"
        nodes = ", ".join(map(_short, facts.pending)) or "no node"
        done = f" ({facts.finished} of its tasks finished)" if facts.finished else ""
        said.append(f"its newest checkpoint is that of step {facts.step}{when}: {nodes} next{done}")
    if facts.questions:
        said.append(f"{len(facts.questions)} questions are open")
    if facts.effects:
        names = ", ".join(map(_short, facts.effects))
        said.append(f"nobody knows whether these side effects happened: {names}")
    return f"{'; '.join(said)}. {_runs(facts.runs)}"


def _runs(runs: Sequence[RunFacts]) -> str:
    if not runs:
        return "The ledger has no run of it."
    lines = list[str]()
    for run in runs[:3]:
        state = "" if run.claim_state is None else f", {run.claim_state}"
        reason = "" if run.reason is None else f" ({_short(run.reason)})"
        by = "" if run.worker is None else f" by {_short(run.worker)}"
        seen = "" if run.worker is None or run.process_seen else ", which has no connection"
        tries = "" if not run.attempts else f", attempt {run.attempts}{by}{seen}"
        lines.append(f"run {_short(run.run_id)} is {run.status}{reason}{state}{tries}")
    more = f"; {len(runs) - 3} more" if len(runs) > 3 else ""
    return f"In the ledger {'; '.join(lines)}{more}."


def _short(name: str) -> str:
    shown = "".join(c if c.isprintable() else "?" for c in name[:_PRINTED_WIDTH])
    return shown if len(name) <= _PRINTED_WIDTH else f"{shown}…"


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S %Z}"
