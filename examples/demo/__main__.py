"""`python3 dev.py demo [FILE_OR_FOLDER]`, or `python -m examples.demo` where the project is
installed for editing.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from aiodurable.cli.database import dsn_option, is_configured
from aiodurable.cli.exit_codes import FailedCommand, exit_of
from aiodurable.errors import AiodurableError, ConfigurationError
from examples.demo import documents

__all__ = ["demo"]


@click.command(short_help="Kill a workflow with SIGKILL; another process finishes it.")
@click.argument(
    "source",
    metavar="[FILE_OR_FOLDER]",
    required=False,
    type=click.Path(exists=True, path_type=Path),
)
@dsn_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    default="aiodurable-demo.md",
    show_default=True,
    help="Where the report goes.",
)
def demo(source: Path | None, dsn: str | None, output: Path) -> None:
    """Kill a workflow with SIGKILL in the middle and see another process finish it.

    The workflow reads documents (a text, a folder of them; this project's own by default), analyses
    their sections in parallel and writes a report in Markdown. Where no Postgres is configured, an
    embedded one is started for it.

    Exits with 1 if a promise was not kept.
    """
    try:
        _play(source, dsn, output.resolve())
    except AiodurableError as error:
        raise FailedCommand(str(error), exit_of(error)) from error


def _play(source: Path | None, dsn: str | None, output: Path) -> None:
    from rich.console import Console  # noqa: PLC0415 - 0.1 s that --help need not take

    from examples.demo import facts, story  # noqa: PLC0415 - loads LangGraph: 0.8 s, and refuses Windows
    from examples.demo.screen import Screen  # noqa: PLC0415 - loads rich

    paths, sections = _documents(source, output)
    given = story.Play(
        dsn=dsn, embedded=not is_configured(dsn), paths=paths, sections=sections, output=output
    )
    with Screen(Console(), len(sections)) as screen:
        screen.note(_task(sections))
        found = asyncio.run(story.play(given, screen))
    promises = facts.check(found)
    screen.summary(found, promises)
    click.echo(f"The report: {output}")
    if broken := [promise.text for promise in promises if not promise.kept]:
        raise FailedCommand(f"not kept: {'; '.join(broken)}")


def _documents(source: Path | None, output: Path) -> tuple[list[Path], list[documents.Section]]:
    """What to read, without the report of an earlier demo."""
    try:
        paths = [path for path in documents.find(source) if path != output]
        sections = documents.read(paths)
    except OSError as error:
        raise FailedCommand(f"a document cannot be read: {error}") from error
    if not sections:
        raise ConfigurationError(
            f"wanted text to work on, found no word in {source or 'the documents'}"
        )
    if not output.parent.is_dir():
        raise ConfigurationError(f"wanted a folder for the report, found none at {output.parent}")
    return paths, sections


def _task(sections: list[documents.Section]) -> str:
    count = len({section["document"] for section in sections})
    most = (
        f"; no more than {documents.MAX_SECTIONS} are read"
        if len(sections) == documents.MAX_SECTIONS
        else ""
    )
    return (
        f"{len(sections)} sections of {count} document{'' if count == 1 else 's'} to analyse{most}"
    )


if __name__ == "__main__":
    demo(prog_name="python3 dev.py demo")
