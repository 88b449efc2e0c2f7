"""`aiodurable pg`: a Postgres of one's own that stays until it is stopped."""

from __future__ import annotations

import os
from pathlib import Path

import click

from aiodurable.cli.exit_codes import Exit, FailedCommand

__all__ = ["pg"]


def default_data() -> Path:
    """Where the cluster is kept by default. As root Postgres runs as another user, who cannot enter
    /root.
    """
    if os.name == "posix" and os.geteuid() == 0:
        return Path("/var/lib/aiodurable/postgres")
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "aiodurable" / "postgres"


_data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="AIODURABLE_PG_DATA",
    default=default_data,
    help=(
        "The folder of its data. Default: AIODURABLE_PG_DATA, or aiodurable/postgres in your data"
        " folder."
    ),
)


@click.group(short_help="A Postgres server of your own.")
def pg() -> None:
    """A Postgres server of your own, from a wheel or the system's programs."""


@pg.command
@_data_option
def start(data: Path) -> None:
    """Start it, unless it runs, and print its URL."""
    from aiodurable import embedded  # noqa: PLC0415 - refuses Windows when imported

    url = embedded.start_server(data)
    click.echo(url)
    click.echo(
        f"Postgres runs on {data} until `aiodurable pg stop`. To use it: export"
        f" AIODURABLE_DSN='{url}'",
        err=True,
    )


@pg.command
@_data_option
def stop(data: Path) -> None:
    """Stop it, if it runs. Its data stay."""
    from aiodurable import embedded  # noqa: PLC0415 - as above

    click.echo("stopped" if embedded.stop_server(data) else f"no server runs on {data}", err=True)


@pg.command
@_data_option
def url(data: Path) -> None:
    """Print its URL; exit code 3 if it does not run."""
    from aiodurable import embedded  # noqa: PLC0415 - as above

    if found := embedded.server_url(data):
        click.echo(found)
    else:
        raise FailedCommand(f"no server runs on {data}: aiodurable pg start", Exit.NOT_FOUND)
