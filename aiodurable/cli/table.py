"""Tables in the terminal: folded to its width, or with `--wide` one line per row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import click

__all__ = ["Column", "print_table", "terminal_width", "wide_option"]

_WIDEST = 2_000
"""Characters of a cell that `--wide` prints: an error's text may have millions."""

wide_option = click.option(
    "-w", "--wide", is_flag=True, help="More columns, and one line per row: nothing is folded."
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its first line.
        right: aligned to the right, as numbers are.
        folds: goes on in the next line where the terminal is too narrow. Ids fold rather than being
            cut, because people copy them.
    """

    heading: str
    right: bool = False
    folds: bool = False


def print_table(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, wide: bool = False
) -> None:
    """Print a table. The cells must be printable: see `aiodurable.cli.format`."""
    from rich.console import Console  # noqa: PLC0415 - 0.1 s, which --help saves
    from rich.table import Table  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.heading,
            overflow="fold",
            no_wrap=wide or not column.folds,
            justify="right" if column.right else "left",
        )
    for row in rows:
        table.add_row(*(Text(cell[:_WIDEST] if wide else cell) for cell in row))
    console = Console(width=len(columns) * _WIDEST) if wide else Console()
    console.print(table)


def terminal_width() -> int:
    """The columns of the terminal, as `print_table` uses them."""
    from rich.console import Console  # noqa: PLC0415 - as above

    return Console().width
