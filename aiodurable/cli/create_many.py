"""`aiodurable runs create-many FILE`: accept the runs of a file."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from itertools import islice
from typing import Any, TextIO

import click

from aiodurable.cli.advice import with_commands
from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.exit_codes import Exit, FailedCommand, exit_of
from aiodurable.cli.progress import shown_progress
from aiodurable.errors import AiodurableError
from aiodurable.postgres.own_thread import in_own_thread

__all__ = ["create_many"]

_BATCH = 500
"""Lines in one transaction."""
_REQUIRED = {"thread_id", "graph", "input"}
_NUMBER = (int, float)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "thread_id": str,
    "graph": str,
    "input": object,
    "run_id": str,
    "on_busy": str,
    "after": _NUMBER,
    "priority": int,
    "fairness_key": str,
    "concurrency_key": str,
    "queue": str,
    "max_attempts": int,
    "timeout": _NUMBER,
    "start_timeout": _NUMBER,
    "dedup_key": str,
    "context": object,
    "metadata": dict,
    "summary": str,
}


@click.command("create-many", short_help="Accept the runs of a file.")
@click.argument("file", type=click.File(encoding="utf-8"))
@dsn_option
def create_many(dsn: str | None, file: TextIO) -> None:
    """Accept the runs of FILE, one JSON object in each line; `-` is stdin.

    Each object has thread_id, graph and input, and may have the other arguments of
    `durable.runs.create` by name. With a run_id in each line the same file may be given again: what
    was accepted is not accepted twice.
    """
    if file.name == "<stdin>":
        file = _apart(file)
    accepted = asyncio.run(_accept(dsn, file))
    click.echo(f"{accepted:,} runs accepted")


def _apart(stdin: TextIO) -> TextIO:
    """What stdin gives, in a file of its own: the end of the process would wait for who reads
    `sys.stdin`.
    """
    with suppress(OSError):  # it may be no file
        return open(stdin.fileno(), encoding="utf-8", closefd=False)
    return stdin


async def _accept(dsn: str | None, file: TextIO) -> int:
    from aiodurable.queue.new_run import NewRun  # noqa: PLC0415 - loads LangGraph

    def read() -> list[str]:
        return [*islice(file, _BATCH)]

    accepted, first = 0, 1
    async with open_read_only(dsn) as durable:
        with shown_progress() as progress:
            # not in the loop's executor: after Ctrl-C that would wait for the end of stdin
            while lines := await in_own_thread(read, name="aiodurable lines"):
                last = first + len(lines) - 1
                try:
                    new = [
                        NewRun(**_fields(text, line))
                        for line, text in enumerate(lines, first)
                        if text.strip()
                    ]
                    accepted += len(await durable.runs.create_many(new))
                except (AiodurableError, click.UsageError) as error:
                    code = exit_of(error) if isinstance(error, AiodurableError) else Exit.USAGE
                    raise FailedCommand(
                        f"{with_commands(str(error))}; no run of the lines {first} to {last} was"
                        " accepted, and all before them were",
                        code,
                    ) from error
                first = last + 1
                progress(f"{accepted:,} runs accepted")
    return accepted


def _fields(text: str, line: int) -> dict[str, Any]:
    try:
        fields: Any = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"cannot read line {line}: it is no JSON: {error}") from error
    if not isinstance(fields, dict) or not fields.keys() >= _REQUIRED:
        raise click.UsageError(
            f"cannot read line {line}: it must be an object with {', '.join(sorted(_REQUIRED))}"
        )
    if unknown := sorted(fields.keys() - _TYPES.keys()):
        raise click.UsageError(
            f"cannot read line {line}: unknown {', '.join(map(repr, unknown))}; there are"
            f" {', '.join(_TYPES)}"
        )
    for name, value in fields.items():
        if not isinstance(value, _TYPES[name]):
            raise click.UsageError(
                f"cannot read line {line}: {name} cannot be {type(value).__name__}"
            )
    return fields
