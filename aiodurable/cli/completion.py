"""`aiodurable completion SHELL`: print the script that completes the commands in a shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from aiodurable.cli.exit_codes import FailedCommand

__all__ = ["completion"]

_VARIABLE = "_AIODURABLE_COMPLETE"


@click.command
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script with which SHELL completes commands, options and thread ids.

    In bash, `eval "$(aiodurable completion bash)"`. Ids come from the database that the command
    would use, if one is configured; those that a shell would not take as one plain word are left
    out.
    """
    found = get_completion_class(shell)
    if found is None:
        raise FailedCommand(f"cannot complete in {shell}: this version of click does not know it")
    click.echo(found(ctx.find_root().command, {}, "aiodurable", _VARIABLE).source())
