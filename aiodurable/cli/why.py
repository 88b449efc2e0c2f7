"""`aiodurable why THREAD`: why a thread stands as it does, and what happens next."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.advice import stored_with_commands
from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import lines, one_line
from aiodurable.cli.thread_argument import thread_argument

if TYPE_CHECKING:
    from aiodurable.runs.why import Why

__all__ = ["why"]


@click.command
@thread_argument
@click.option(
    "--verbose", is_flag=True, help="Also the text of the error and the questions, as `show` does."
)
@dsn_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def why(ctx: click.Context, thread_id: str, verbose: bool, dsn: str | None, as_json: bool) -> None:
    """Say why THREAD stands as it does: what its lock, the ledger and its newest checkpoint say,
    which rule decided, what a call, a worker or a schedule will do next and when, and what you can
    do.

    Changes nothing, and works on a standby, too. Exit code 3: nothing is known of the thread.
    """
    found = asyncio.run(_read(thread_id, dsn))
    if as_json:
        from aiodurable.jsonable import json_text  # noqa: PLC0415 - loads LangGraph's types

        click.echo(json_text(_fields(found, verbose=verbose)))
    else:
        click.echo(lines(str(found)))
        if verbose:
            _print_texts(found)
        elif found.status.error or found.status.interrupts:
            click.echo("--verbose shows its error and its questions", err=True)
    if found.status.status == "new":
        ctx.exit(Exit.NOT_FOUND)


async def _read(thread_id: str, dsn: str | None) -> Why:
    async with open_read_only(dsn) as durable:
        return await durable.threads.why(thread_id)


def _fields(found: Why, *, verbose: bool) -> dict[str, Any]:
    from aiodurable.cli.thread_json import thread_fields  # noqa: PLC0415 - as above

    status = thread_fields(found.status)
    if not verbose:
        status.pop("error")
        status.pop("interrupts")
    return {
        "status": status,
        "rule": {"id": found.rule.id, "sentence": found.rule.sentence},
        "facts": found.facts,
        "next": found.next,
        "actions": found.actions,
    }


def _print_texts(found: Why) -> None:
    from aiodurable.jsonable import shown  # noqa: PLC0415 - as above

    if found.status.error is not None:
        click.echo(f"\nerror: {one_line(stored_with_commands(found.status.error))}")
    for question in found.status.interrupts:
        click.echo(f"\nasks: {one_line(shown(getattr(question, 'value', question)))}")
