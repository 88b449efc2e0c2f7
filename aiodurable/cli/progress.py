"""Reports progress of long work: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import click

__all__ = ["Progress", "shown_progress"]

_LINE_S = 5.0


class Progress(Protocol):
    """Reports how far the work is."""

    def __call__(self, words: str, share: float | None = None) -> None:
        """Show `words`, printable text, and a bar that is full at `share` 1; None: not known."""
        ...


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Show progress on stderr while the block runs: a bar if that is a terminal, else a line at
    most each five seconds.
    """
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console  # noqa: PLC0415 - 0.1 s, which --help saves
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - as above
    from rich.progress import Progress as Bar  # noqa: PLC0415 - as above

    text = TextColumn("{task.description}", markup=False)
    with Bar(BarColumn(20), text, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)

        def progress(words: str, share: float | None = None) -> None:
            total = None if share is None else 1
            bar.update(task, total=total, completed=share or 0, description=words)

        yield progress
        bar.update(task, total=1, completed=1)


class _Lines:
    def __init__(self) -> None:
        self._printed_at = time.monotonic()

    def __call__(self, words: str, share: float | None = None) -> None:
        if time.monotonic() - self._printed_at >= _LINE_S:
            self._printed_at = time.monotonic()
            of = "" if share is None else f" ({share:.0%})"
            click.echo(f"so far {words}{of}", err=True)
