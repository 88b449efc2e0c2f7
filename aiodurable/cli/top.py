"""`aiodurable top`: the numbers of a database, live in the terminal."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import click

from aiodurable.cli.database import dsn_option, open_read_only
from aiodurable.cli.stats import numbers

__all__ = ["top"]

_MINUTES: Final = 5.0
_AGAIN_S: Final = 5.0
"""Seconds until the next try where Postgres cannot be reached."""


@click.command
@click.option(
    "--every",
    type=click.FloatRange(min=0.5, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How often it reads the database.",
)
@click.option("--once", is_flag=True, help="Print it once, for a file or another program.")
@dsn_option
def top(dsn: str | None, every: float, once: bool) -> None:
    """Show what the database is doing, live; q or Ctrl-C ends it.

    Throughput and times are of the last 5 minutes.
    """
    try:
        asyncio.run(_show(dsn, every, once=once or not sys.stdout.isatty()))
    except KeyboardInterrupt:
        pass
    except OSError as error:
        if error.errno != errno.EIO:  # the terminal is gone
            raise


async def _show(dsn: str | None, every: float, *, once: bool) -> None:
    from rich.console import Console  # noqa: PLC0415 - 0.1 s, which --help saves
    from rich.live import Live  # noqa: PLC0415 - as above

    from aiodurable.cli.numbers_view import unreachable, view  # noqa: PLC0415 - as above
    from aiodurable.errors import PostgresUnavailableError  # noqa: PLC0415 - as above

    console = Console()
    async with open_read_only(dsn) as durable:
        shown = view(await numbers(durable.insights, _MINUTES))
        if once:
            console.print(shown)
            return
        ended = asyncio.Event()
        with (
            _ending_at_q(ended),
            Live(shown, console=console, screen=True, auto_refresh=False) as live,
        ):
            wait_s = every
            while not ended.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await ended.wait()
                try:
                    shown, wait_s = view(await numbers(durable.insights, _MINUTES)), every
                    live.update(shown, refresh=True)
                except PostgresUnavailableError as error:
                    wait_s = max(every, _AGAIN_S)
                    live.update(unreachable(error), refresh=True)


@contextmanager
def _ending_at_q(ended: asyncio.Event) -> Iterator[None]:
    """Set the event when q is typed or the terminal is gone. Keys are neither echoed nor kept for
    the shell.
    """
    if not sys.stdin.isatty():
        yield
        return
    import termios  # noqa: PLC0415 - not on Windows
    import tty  # noqa: PLC0415 - as above

    loop, keys = asyncio.get_running_loop(), sys.stdin.fileno()

    def typed() -> None:
        try:
            read = os.read(keys, 100)
        except OSError:
            read = b""
        if not read or b"q" in read.lower():
            ended.set()

    before = termios.tcgetattr(keys)
    tty.setcbreak(keys)
    loop.add_reader(keys, typed)
    try:
        yield
    finally:
        loop.remove_reader(keys)
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(keys, termios.TCSADRAIN, before)
