"""The options by which a command selects threads, the same in every command."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from aiodurable.cli.durations import Duration

__all__ = ["status_option", "thread_filters"]

_OPTIONS: Final[dict[str, Callable[..., Any]]] = {
    "graph": click.option("--graph", metavar="NAME", help="Only threads of this graph."),
    "error": click.option(
        "--error", metavar="TEXT", help="Only threads whose error contains TEXT."
    ),
    "prefix": click.option(
        "--prefix", metavar="TEXT", help="Only threads whose id begins with TEXT."
    ),
    "older_than": click.option(
        "--older-than",
        type=Duration(),
        metavar="AGE",
        help="Not written to for this long: 90s, 15m, 2h, 7d.",
    ),
    "newer_than": click.option(
        "--newer-than", type=Duration(), metavar="AGE", help="Written to since: 90s, 15m, 2h, 7d."
    ),
}

Command = Callable[..., None]


def thread_filters(*names: str) -> Callable[[Command], Command]:
    """These options; the command gets them as one dict, `filters`, as `threads.search` takes them.

    Args:
        names: of `graph`, `error`, `prefix`, `older_than`, `newer_than`, in the order of the help.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_filters(**options: Any) -> None:
            filters = {name: options.pop(name) for name in names}
            command(filters=filters, **options)

        decorated: Command = with_filters
        for name in reversed(names):
            decorated = _OPTIONS[name](decorated)
        return decorated

    return decorate


def status_option(
    known: Sequence[str], help: str, *, default: Sequence[str] = ()
) -> Callable[[Command], Command]:
    """The option `--status`, which may be given several times; the command gets `statuses`.

    Args:
        known: which there are.
        help: what it says.
        default: those without it; shown in the help if there are any.
    """
    return click.option(
        "-s",
        "--status",
        "statuses",
        multiple=True,
        type=click.Choice(known),
        default=tuple(default),
        show_default=bool(default),
        help=help,
    )
