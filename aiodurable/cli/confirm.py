"""Asks before something that cannot be undone, or that takes long."""

from __future__ import annotations

import sys

import click

__all__ = ["confirm"]


def confirm(question: str, *, otherwise: str = "") -> None:
    """Ask on the terminal, and end the command unless the answer is yes.

    Args:
        question: what is asked.
        otherwise: what else to pass where there is no terminal, such as ", or --dry-run".

    Raises:
        UsageError: there is no terminal.
        Abort: the answer is no.
    """
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"cannot ask for confirmation without a terminal: pass --yes{otherwise}"
        )
    click.confirm(question, abort=True, err=True)
