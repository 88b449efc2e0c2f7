"""Writes the options of every command as a page of the docs: python3 dev.py run python -m
tests.support.commands_page
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import click

from aiodurable.cli.commands import cli

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "reference" / "commands.md"

_HEAD = """# Every command and its options

What `aiodurable COMMAND --help` prints. [The command line](cli.md) has what the commands share: where Postgres is, exit codes,
JSON, `--app`. All commands have `--help`; `--dsn` and `--dsn-file` are left out below.
"""
_LEFT_OUT = {"--dsn", "--dsn-file", "--help", "--json"}
_JSON = "`--json`: "
BAR = r"\|"
"""A bar in a cell of a table, also in code."""


def commands(
    group: click.Group = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """The commands by their words, without the groups; `threads status` once."""
    for name in sorted(group.commands):
        command = group.commands[name]
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def page() -> str:
    """The whole page."""
    found = dict(commands())
    return _HEAD + "".join(
        _section(path, command)
        for path, command in found.items()
        if len(path) == 1 or found.get(path[1:]) is not command
    )


def _section(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(("aiodurable", *path)))
    usage = " ".join(command.collect_usage_pieces(context))
    text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    rows = "".join(map(_row, _options(command)))
    table = f"\n| option | |\n|---|---|\n{rows}" if rows else ""
    line = f"\n{_JSON}{_json(command)}\n" if _json(command) else ""
    head = f"\n## {' '.join(path)}\n\n```\naiodurable {' '.join(path)} {usage}\n```\n\n"
    return f"{head}{text}\n{table}{line}"


def _options(command: click.Command) -> list[click.Option]:
    return [
        parameter
        for parameter in command.params
        if isinstance(parameter, click.Option) and not _LEFT_OUT & {*parameter.opts}
    ]


def _json(command: click.Command) -> str:
    """What the option `--json` prints; empty: the command has none."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and "--json" in parameter.opts:
            help_ = parameter.help or ""
            return help_[0].lower() + help_[1:]
    return ""


def _row(option: click.Option) -> str:
    context = click.Context(click.Command("any"))
    written = option.get_help_record(context)
    names, text = ("", "") if written is None else written
    cells = (f"`{names}`", " ".join(text.split()).replace("<", "&lt;"))
    return f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(page())
