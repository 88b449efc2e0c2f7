"""What a person sees: lines and a bar while it happens, then tables of what happened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from aiodurable.cli.format import one_line
from examples.demo.facts import Facts, Promise
from examples.demo.log import Entry

__all__ = ["Screen"]

_COLOURS = {"first": "cyan", "second": "green", "third": "yellow"}


class Screen:
    """The terminal, or whatever stdout is: without one the same lines come plain and the bar is
    left out.

    Args:
        total: how many sections there are to analyse.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
        )
        self._bar = Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._bar.add_task("sections", total=total)
        self._done: set[str] = set()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """A line about the whole."""
        self._console.print(Text(one_line(text)))

    def say(self, process: str, text: str) -> None:
        """A line about one process."""
        self._console.print(
            Text(f"{process:<7}", style=f"bold {_COLOURS[process]}"), Text(one_line(text)), sep=""
        )

    def heard(self, _process: str, entry: Entry) -> None:
        """Move the bar: a section was analysed."""
        if entry.what == "ended" and entry.step and entry.step.startswith("section"):
            self._done.add(entry.step)
            self._bar.update(self._task, completed=len(self._done))

    def committed(self, count: int, total: int) -> None:
        """Set the bar to what Postgres holds."""
        self._bar.update(self._task, completed=count, total=total)

    def summary(self, facts: Facts, promises: Sequence[Promise]) -> None:
        """Who ran what, which promises were kept, and how long the thread had nobody."""
        self._console.print()
        self._console.print(_who_ran_what(facts))
        self._console.print(_kept(promises))
        if facts.takeover_ms is not None:
            self._console.print(
                Text(f"From kill -9 to resumption: {facts.takeover_ms:.0f} ms", style="bold")
            )


def _table(title: str) -> Table:
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )


def _who_ran_what(facts: Facts) -> Table:
    table = _table("Which process ran which step")
    table.add_column("step, as the kill found it")
    for process in ("first", "second"):
        heading = f"{process}\n{facts.pids[process]}"
        table.add_column(heading, justify="right", style=_COLOURS[process], no_wrap=True)
    table.add_column("run twice?")
    began = {process: set(facts.began(process)) for process in ("first", "second")}
    twice = set(facts.ran_twice)
    for name, steps in _groups(facts):
        counts = (str(len(steps & began[process]) or "") for process in ("first", "second"))
        again = len(steps & twice)
        if not again:
            remark = Text("no")
        elif steps & facts.finished_before:
            remark = Text(f"{again} YES, though finished", style="bold red")
        else:
            remark = Text("yes: nodes run at least once")
        table.add_row(name, *counts, remark)
    return table


def _groups(facts: Facts) -> Iterator[tuple[str, set[str]]]:
    """The steps in the order in which they ran; sections in three kinds, by what the kill found of
    them.
    """
    sections = set(facts.section_steps)
    finished = facts.finished_before & sections
    in_flight = (sections & set(facts.began("first"))) - finished
    yield "read", {"read"}
    for steps, what in (
        (finished, "finished"),
        (in_flight, "in flight"),
        (sections - finished - in_flight, "not begun"),
    ):
        if steps:
            yield f"{len(steps)} section{'' if len(steps) == 1 else 's'}, {what}", steps
    yield "compare", {"compare"}
    yield "write", {"write"}


def _kept(promises: Sequence[Promise]) -> Table:
    table = _table("What was promised")
    table.add_column("")
    table.add_column("promise")
    table.add_column("found", overflow="fold")
    for promise in promises:
        kept = Text("kept", style="green") if promise.kept else Text("BROKEN", style="bold red")
        table.add_row(kept, promise.text, Text(one_line(promise.found)))
    return table
