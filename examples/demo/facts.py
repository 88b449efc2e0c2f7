"""What happened, and whether the promises were kept: checked against facts alone, not against what
the demo meant to do.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aiodurable.models import ThreadStatus
from examples.demo.log import Entry

__all__ = ["Facts", "Promise", "check"]


@dataclass(frozen=True, slots=True)
class Facts:
    """What the processes said and what Postgres holds.

    Attributes:
        pids: the process id of the first, second and third process.
        exit_codes: how the first and the second ended.
        logs: what they said.
        section_steps: the names of the steps that analyse a section, in order.
        held: the section steps whose results Postgres held when the first process was dead, with
            the process that made each.
        results: the section steps in the thread's final state, with the process that made each
            result.
        killed_at: when the first was killed, in seconds of the monotonic clock.
        status: the thread's status at the end.
        attempts: how often the ledger says that its run was tried.
        report: the report as it was written, None if there is none.
        undisturbed: the report that a calm run writes.
    """

    pids: Mapping[str, int]
    exit_codes: Mapping[str, int]
    logs: Mapping[str, Sequence[Entry]]
    section_steps: Sequence[str]
    held: Sequence[tuple[str, int]]
    results: Sequence[tuple[str, int]]
    killed_at: float
    status: str
    attempts: int
    report: str | None
    undisturbed: str

    def began(self, process: str) -> list[str]:
        """The steps that a process began, in order."""
        return [entry.step for entry in self.logs[process] if entry.what == "began" and entry.step]

    @property
    def finished_before(self) -> set[str]:
        """The steps whose results were in Postgres before the kill."""
        # Sections begin only when the checkpoint after "read" is committed.
        return {"read", *(step for step, _ in self.held)}

    @property
    def ran_twice(self) -> list[str]:
        """The steps that both processes began, in order."""
        again = set(self.began("second"))
        return [step for step in self.began("first") if step in again]

    @property
    def resumed_at(self) -> float | None:
        """When the second process began its first step."""
        return min(
            (entry.at for entry in self.logs["second"] if entry.what == "began"), default=None
        )

    @property
    def takeover_ms(self) -> float | None:
        """From the kill to the first step of the process that went on."""
        return None if self.resumed_at is None else (self.resumed_at - self.killed_at) * 1000


@dataclass(frozen=True, slots=True)
class Promise:
    """One thing the demo shows.

    Attributes:
        text: what was promised.
        kept: whether it is so.
        found: what was found.
    """

    text: str
    kept: bool
    found: str


def check(facts: Facts) -> list[Promise]:
    """Hold the promises against the facts."""
    return list(_promises(facts))


def _promises(facts: Facts) -> Iterator[Promise]:
    total, held = len(facts.section_steps), len(facts.held)
    code = facts.exit_codes["first"]
    yield Promise(
        "SIGKILL in the middle of the work",
        code == -signal.SIGKILL and held > 0 and "write" not in facts.began("first"),
        f"exit {code}, {held} of {total} sections done",
    )
    yield Promise(
        "another process finishes",
        facts.exit_codes["second"] == 0 and facts.status == ThreadStatus.COMPLETE,
        f"exit {facts.exit_codes['second']}, thread {facts.status}",
    )
    yield Promise("never two at a time", *_one_at_a_time(facts))
    again = [step for step in facts.ran_twice if step in facts.finished_before]
    named = ", ".join(again[:3]) + (f" and {len(again) - 3} more" if len(again) > 3 else "")
    yield Promise(
        "nothing finished runs again",
        not again,
        f"{len(facts.finished_before)} steps finished, again: {named or 'none'}",
    )
    kept = sum(pair in facts.results and pair[1] == facts.pids["first"] for pair in facts.held)
    yield Promise(
        "no result of the first is lost",
        kept == held,
        f"{kept} of its {held} are in the result",
    )
    steps = [step for step, _ in facts.results]
    yield Promise(
        "each section counts once",
        sorted(steps) == sorted(facts.section_steps),
        f"{len(steps)} results for {len(set(steps))} of {total} sections",
    )
    yield Promise("a third is refused, and learns who holds it", *_refused(facts))
    yield Promise("one run in the ledger", *_one_run(facts))
    same = facts.report is not None and facts.report == facts.undisturbed
    found = (
        "no report"
        if facts.report is None
        else "the same, byte for byte"
        if same
        else "another text"
    )
    yield Promise("the report of an undisturbed run", same, found)


def _one_at_a_time(facts: Facts) -> tuple[bool, str]:
    takeover = facts.takeover_ms
    if takeover is None:
        return False, "the second process began no step"
    return (
        takeover > 0,
        f"second began {abs(takeover):.0f} ms {'after' if takeover > 0 else 'BEFORE'} the kill",
    )


def _refused(facts: Facts) -> tuple[bool, str]:
    refusal = next(
        (entry.details for entry in facts.logs["third"] if entry.what == "refused"), None
    )
    if refusal is None:
        return False, "it was not refused"
    if len(facts.logs["third"]) > 1:
        return False, "it was refused, and had the thread all the same"
    holder, second = refusal.get("holder") or "nobody", facts.pids["second"]
    named = refusal.get("error") == "WorkflowAlreadyRunningError" and holder.rpartition(":")[
        2
    ] == str(second)
    return named, f"{refusal.get('error')}: {holder}"


def _one_run(facts: Facts) -> tuple[bool, str]:
    started = [
        entry.details
        for process in facts.logs.values()
        for entry in process
        if entry.what == "started"
    ]
    runs = {details.get("run_id") for details in started}
    one = len(runs) == 1 and len(started) == 2 and facts.attempts == 2
    return one, f"{len(runs)} run{'' if len(runs) == 1 else 's'}, {facts.attempts} attempts"
