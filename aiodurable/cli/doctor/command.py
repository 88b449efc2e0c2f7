"""The command `aiodurable doctor`: prints the findings as text or as JSON."""

from __future__ import annotations

import asyncio
import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import Exit
from aiodurable.cli.format import one_line
from aiodurable.jsonable import json_text

if TYPE_CHECKING:
    from aiodurable.cli.doctor.finding import Finding

__all__ = ["doctor"]

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_INDENT = " " * 21
_MOST_COLUMNS = 100


@click.command
@dsn_option
@click.option(
    "--for",
    "kind",
    type=click.Choice(("run", "read", "prune", "migrate")),
    default="run",
    show_default=True,
    help="What this role does.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def doctor(ctx: click.Context, dsn: str | None, kind: str, as_json: bool) -> None:
    """Check whether this host can use that Postgres, and say what to change.

    Checks the configuration, the connections, locks, server settings, capacity, clocks, tables and
    rights. Changes nothing and shows no password. Exit code 1: a check failed. Warnings do not
    count.
    """
    findings = asyncio.run(_examine(dsn, kind, as_json))
    failed = sum(finding.grade == "fail" for finding in findings)
    warned = sum(finding.grade == "warn" for finding in findings)
    if not as_json:
        warnings = f"{warned} warning{'' if warned == 1 else 's'}"
        click.echo(f"\n{len(findings)} checks: {failed} failed, {warnings}")
    if failed:
        ctx.exit(Exit.FAILED)


async def _examine(dsn: str | None, kind: str, as_json: bool) -> list[Finding]:
    from aiodurable.cli.doctor.runner import examine  # noqa: PLC0415 - loads LangGraph and both drivers
    from aiodurable.postgres.grants import Kind  # noqa: PLC0415 - as above

    findings: list[Finding] = []
    async for finding in examine(dsn, Kind(kind)):
        click.echo(json_text(asdict(finding)) if as_json else _lines(finding))
        findings.append(finding)
    return findings


def _lines(finding: Finding) -> str:
    width = min(shutil.get_terminal_size().columns, _MOST_COLUMNS)
    head = click.style(
        f"{finding.grade:<5}", fg=_COLOURS[finding.grade], bold=finding.grade == "fail"
    )
    text = textwrap.fill(
        one_line(finding.found),
        width,
        initial_indent=_INDENT,
        subsequent_indent=_INDENT,
        break_on_hyphens=False,
    )
    lines = f"{head} {finding.check:<14} {text.strip()}"
    if finding.advice:
        lines += "\n" + textwrap.fill(
            one_line(finding.advice),
            width,
            initial_indent=f"{_INDENT}→ ",
            subsequent_indent=f"{_INDENT}  ",
            break_on_hyphens=False,
        )
    return lines
