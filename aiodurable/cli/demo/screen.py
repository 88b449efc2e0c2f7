"""What a person sees: lines and a bar while it happens, then tables of what happened."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from aiodurable.cli.demo.facts import Facts, Promise
from aiodurable.cli.demo.log import Entry
from aiodurable.cli.wording import one_line

__all__ = ["Screen"]

_COLOURS = {"first": "cyan", "second": "green", "third": "yellow"}


class Screen:
    """The terminal, or whatever stdout is: without one the same lines come plain and the bar is left out.

    Args:
        total: how many sections there are to analyse.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("sections", total=total)
        self._done: set[str] = set()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """A line about the whole."""
        self._console.print(Text(one_line(text)))

    def say(self, process: str, text: str) -> None:
        """A line about one process."""
        self._console.print(Text(f"{process:<7}", style=f"bold {_COLOURS[process]}"), Text(one_line(text)), sep="")

    def heard(self, _process: str, entry: Entry) -> None:
        """Move the bar: a section was analysed."""
        if entry.what == "ended" and entry.step and entry.step.startswith("section"):
            self._done.add(entry.step)
            self._bar.update(self._task, completed=len(self._done))

    def committed(self, count: int, total: int) -> None:
        """Set the bar to what Postgres holds."""
        self._bar.update(self._task, completed=count, total=total)

    def summary(self, facts: Facts, promises: Sequence[Promise]) -> None:
        """Who ran what, and which promises were kept."""
        self._console.print()
        self._console.print(_who_ran_what(facts))
        self._console.print()
        self._console.print(_kept(promises))
        if facts.takeover_ms is not None:
            self._console.print()
            self._console.print(Text(f"From kill -9 to resumption: {facts.takeover_ms:.0f} ms", style="bold"))


def _who_ran_what(facts: Facts) -> Table:
    table = Table(title="Who ran which step", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("step")
    for process in ("first", "second"):
        table.add_column(f"{process}\n{facts.pids[process]}", justify="right", style=_COLOURS[process], no_wrap=True)
    table.add_column("run twice?")
    sections = set(facts.section_steps)
    others = [step for step in dict.fromkeys([*facts.began("first"), *facts.began("second")]) if step not in sections]
    before, after = [s for s in others if s == "read"], [s for s in others if s != "read"]
    finished = {step for step, _ in facts.held}
    groups = [
        *(({step}, step) for step in before),
        (finished & sections, f"{len(finished)} finished sections"),
        (sections - finished, f"{len(sections - finished)} other sections"),
        *(({step}, step) for step in after),
    ]
    for steps, name in groups:
        counts = [len(steps & set(facts.began(process))) for process in ("first", "second")]
        again = len(steps & set(facts.ran_twice))
        table.add_row(name, *(str(count or "") for count in counts), _again(again, bool(steps & facts.finished_before)))
    return table


def _again(count: int, finished: bool) -> str:
    if not count:
        return "no"
    return f"{count} BROKEN" if finished else f"{count}: in flight at the kill, so begun anew"


def _kept(promises: Sequence[Promise]) -> Table:
    table = Table(title="What was promised", title_justify="left", title_style="bold", pad_edge=False)
    table.add_column("")
    table.add_column("promise")
    table.add_column("found", overflow="fold")
    for promise in promises:
        kept = Text("kept", style="green") if promise.kept else Text("BROKEN", style="bold red")
        table.add_row(kept, promise.text, Text(one_line(promise.found)))
    return table
