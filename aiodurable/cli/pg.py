"""`aiodurable pg`: start and stop a local Postgres server, from a wheel or the system."""

from __future__ import annotations

import os
from pathlib import Path

import click

from aiodurable.cli.exit_codes import Exit, FailedCommand

__all__ = ["pg"]


def default_data() -> Path:
    """The default data directory. For root it is outside /root: Postgres then runs as another user,
    who cannot enter that.
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
        "The data directory. Default: AIODURABLE_PG_DATA, or aiodurable/postgres in your data"
        " folder."
    ),
)


@click.group
def pg() -> None:
    """Start and stop a local Postgres server, from a wheel or the system's programs."""


@pg.command
@_data_option
def start(data: Path) -> None:
    """Start the server, unless it is running, and print its URL."""
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
    """Stop the server, if it is running. Keeps its data."""
    from aiodurable import embedded  # noqa: PLC0415 - as above

    click.echo("stopped" if embedded.stop_server(data) else f"no server runs on {data}", err=True)


@pg.command
@_data_option
def url(data: Path) -> None:
    """Print the server's URL. Exit code 3: it is not running."""
    from aiodurable import embedded  # noqa: PLC0415 - as above

    if found := embedded.server_url(data):
        click.echo(found)
    else:
        raise FailedCommand(
            f"no server runs on {data}: start one with `aiodurable pg start`", Exit.NOT_FOUND
        )
