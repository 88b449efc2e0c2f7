"""`aiodurable worker MODULE:ATTRIBUTE`: execute accepted runs until SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import click

from aiodurable.cli.app import App, load_app
from aiodurable.cli.database import dsn_option
from aiodurable.cli.worker_pages import Pages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiodurable.durable import Durable

__all__ = ["worker"]


@click.command
@click.argument("app", metavar="MODULE:ATTRIBUTE", envvar="AIODURABLE_APP")
@dsn_option
@click.option(
    "--queue",
    "queues",
    metavar="NAME",
    multiple=True,
    default=("default",),
    show_default=True,
    help="A queue to serve; may be given several times.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many runs at a time.",
)
@click.option(
    "--drain",
    "drain_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="How long runs may go on to their next superstep after SIGTERM.",
)
@click.option(
    "--startup-timeout",
    "startup_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    envvar="AIODURABLE_STARTUP_TIMEOUT_S",
    default=60.0,
    show_default=True,
    help="How long to wait for a Postgres that is not ready; 0: not at all.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve /metrics for Prometheus, of this process and of the database; 0: a free port.",
)
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve /livez and /readyz; may be the same port.",
)
@click.option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Where these are served. Nothing there is secret, and nobody is authenticated.",
)
@click.option(
    "--check", is_flag=True, help="Load the graphs, reach the database, print both, and exit."
)
def worker(
    app: str,
    dsn: str | None,
    queues: tuple[str, ...],
    concurrency: int,
    drain_s: float,
    startup_s: float,
    metrics_port: int | None,
    health_port: int | None,
    host: str,
    check: bool,
) -> None:
    """Execute the runs that were accepted for the graphs of MODULE:ATTRIBUTE: a dict of them by
    name, a Durable, or a function that returns one of these.

    The first SIGTERM or Ctrl-C drains: nothing more is claimed, graphs stop at their next
    superstep, and their runs are handed back. The second one cancels them. One that comes before
    anything is claimed ends the command.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    pages = Pages(host, metrics_port, health_port)
    with asyncio.Runner(loop_factory=_fastest_loop()) as runner:
        wait_s = 0.0 if check else startup_s
        left = 0
        with suppress(asyncio.CancelledError):  # by SIGTERM, before it was at work
            left = runner.run(
                _work(app, dsn, queues, concurrency, drain_s, wait_s, pages, check=check)
            )
        if left:  # asyncio would wait for them, and nothing of theirs is waited for
            click.echo(f"ending although nodes of {left} handed-back runs go on", err=True)
            logging.shutdown()
            os._exit(1)


async def _work(
    app: str,
    dsn: str | None,
    queues: tuple[str, ...],
    concurrency: int,
    drain_s: float,
    startup_s: float,
    pages: Pages,
    *,
    check: bool,
) -> int:
    """Work; of how many runs a node swallows its cancellation."""
    loop, starting = asyncio.get_running_loop(), asyncio.current_task()
    assert starting is not None
    if not check:
        # The first process of a container ignores a SIGTERM that it does not handle, and would
        # begin to work after it.
        loop.add_signal_handler(signal.SIGTERM, starting.cancel)
    found = await load_app(app)
    async with _opened(found, dsn, pages, startup_s) as durable:
        working = durable.work(queues, concurrency=concurrency, drain_timeout_s=drain_s)
        if check:
            click.echo(f"graphs: {', '.join(working.graphs)}")
            click.echo(f"queues: {', '.join(working.queues)}")
            return 0
        # What was imported stays: the garbage collector would go through it again and again, which
        # takes a fifth of the CPU of small runs.
        gc.collect()
        gc.freeze()
        # The pages come first: a port that is taken ends the command before anything is claimed.
        # They go last, so that probes see the worker drain.
        async with pages.served(durable, working), working:
            # Printed once run_forever handles the signals: who reads it may send one at once.
            at_work = f"at work on {', '.join(working.queues)}"
            loop.call_soon(functools.partial(click.echo, at_work, err=True))
            await working.run_forever(signals=True)
        return len(working.health().running)


@asynccontextmanager
async def _opened(
    app: App, dsn: str | None, pages: Pages, startup_s: float
) -> AsyncIterator[Durable]:
    """The application's `Durable`, or one with its graphs and the settings of the environment. A
    Postgres that is not ready is waited for, as long as the Durable's own settings say, or else
    `startup_s`.
    """
    from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph
    from aiodurable.postgres.startup import wait_until_ready  # noqa: PLC0415 - as above

    if app.durable is not None and dsn is not None:
        raise click.UsageError(
            "MODULE:ATTRIBUTE names a Durable, which knows its database: leave --dsn out"
        )
    if app.durable is None and not app.graphs:
        raise click.UsageError(
            "a worker finds graphs by name: MODULE:ATTRIBUTE wants a dict of them, or a Durable"
        )
    durable = app.durable or Durable(dsn, graphs=app.graphs)
    pages.observe(durable)
    if startup_s and not durable.settings.startup_timeout_s:
        await wait_until_ready(durable.open, wanted="a Durable", timeout_s=startup_s)
    async with durable:
        yield durable


def _fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed; None: asyncio's."""
    try:
        import uvloop  # noqa: PLC0415  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
    except ImportError:
        return None
    return uvloop.new_event_loop
