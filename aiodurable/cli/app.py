"""The option `--app MODULE:ATTRIBUTE`, which names an application's graphs as web servers name an
application.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.database import few_connections
from aiodurable.cli.exit_codes import FailedCommand
from aiodurable.cli.format import quoted

if TYPE_CHECKING:
    from aiodurable.durable import Durable
    from aiodurable.runs.graphs import Graph

__all__ = ["App", "app_option", "graph_option", "load_app"]


def app_option(**options: Any) -> Callable[[Any], Any]:
    """The option `--app`."""
    return click.option(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        envvar="AIODURABLE_APP",
        help=(
            "Your graphs: a dict of graphs by name, a graph, a Durable, or a function that returns"
            " one of these. Imports from the current folder, too. Default: AIODURABLE_APP."
        ),
        **options,
    )


graph_option = click.option(
    "--graph", metavar="NAME", help="The graph of --app, if the ledger does not name it."
)


@dataclass(frozen=True, slots=True)
class App:
    """The application that `--app` names.

    Attributes:
        graphs: the graphs by name.
        graph: the graph, if `--app` names a single one.
        durable: the `Durable`, if `--app` names one; it has its own DSN and settings.
    """

    graphs: Mapping[str, Graph] = field(default_factory=dict[str, Any])
    graph: Graph | None = None
    durable: Durable | None = None

    @asynccontextmanager
    async def opened(self, dsn: str | None) -> AsyncIterator[Durable]:
        """Open a `Durable` with these graphs. It does not migrate the tables.

        Raises:
            UsageError: `dsn` is given although `--app` names a `Durable`.
            SchemaMismatchError: the tables are missing, older or newer.
            ConfigurationError, PostgresUnavailableError: see `Durable`.
        """
        from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph

        self._check(dsn)
        async with self.durable or Durable(
            dsn, graphs=self.graphs, settings=few_connections()
        ) as durable:
            yield durable

    @asynccontextmanager
    async def read_only(
        self, dsn: str | None, renamed: Mapping[str, Any]
    ) -> AsyncIterator[Durable]:
        """Open a `Durable` with these graphs that takes no lease; works on a standby, too. Raises
        the same errors as `opened`.
        """
        from aiodurable.durable import Durable  # noqa: PLC0415 - as above

        self._check(dsn)
        settings = replace(few_connections(), lock_connections=0)
        reader = (
            Durable(dsn, graphs=self.graphs, settings=settings, renamed=renamed)
            if self.durable is None
            else self.durable.read_only(settings, renamed)
        )
        async with reader as durable:
            yield durable

    def _check(self, dsn: str | None) -> None:
        if self.durable is not None and dsn is not None:
            raise click.UsageError(
                "cannot use --dsn with --app: it names a Durable, which has its own DSN; leave out"
                " --dsn"
            )

    async def graph_for(self, durable: Durable, thread_id: str, name: str | None) -> Graph | None:
        """The graph to run a thread with: the one that `--graph` names, else the only one of
        `--app`. None: the one that the ledger names.

        Raises:
            UsageError: neither the command line nor the ledger names a graph.
        """
        if name is not None or self.graph is not None:
            return name if self.graph is None else self.graph
        thread = await durable.threads.status(thread_id)
        if thread.status != "new" and thread.graph is None:
            known = f" (one of {', '.join(sorted(self.graphs))})" if self.graphs else ""
            raise click.UsageError(
                f"cannot run thread {thread_id!r}: the ledger does not name its graph; name it with"
                f" --graph{known}"
            )
        return None


async def load_app(name: str) -> App:
    """Import the object that `--app` names. Call it if it is a function, and await the result if it
    is awaitable.

    Raises:
        UsageError: the module or attribute does not exist, or has no graphs.
        FailedCommand: importing the module or calling the function raised.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise click.UsageError(
            f"--app must be MODULE:ATTRIBUTE, such as my.service:graphs, got {name!r}"
        )
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path has strings
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _raised("importing", name, error) from error
        raise click.UsageError(
            f"cannot load --app {quoted(name)}: there is no module {error.name!r}, seen from"
            f" {here}; check the name and the folder"
        ) from error
    except Exception as error:  # an application's module may raise anything
        raise _raised("importing", name, error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise click.UsageError(
                f"cannot load --app {quoted(name)}: module {module_name!r} has no attribute"
                f" {attribute!r}"
            )
        found = getattr(found, part)
    return _app_of(name, await _called(name, found))


async def _called(name: str, found: Any) -> Any:
    if not callable(found) or _is_app(found):
        return found
    try:
        made = found()
        return await made if inspect.isawaitable(made) else made
    except Exception as error:  # an application's factory may raise anything
        raise _raised("calling", name, error) from error


def _is_app(found: Any) -> bool:
    from langgraph.graph import StateGraph  # noqa: PLC0415 - 0.8 s, which --help saves
    from langgraph.pregel import Pregel  # noqa: PLC0415 - as above

    from aiodurable.durable import Durable  # noqa: PLC0415 - as above

    return isinstance(found, Durable | Mapping | Pregel | StateGraph)


def _app_of(name: str, found: Any) -> App:
    from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph

    if not _is_app(found):
        raise click.UsageError(
            f"cannot use --app {quoted(name)}: it is {type(found).__name__}; name a dict of graphs"
            " by name, a graph, a Durable, or a function that returns one of these"
        )
    if isinstance(found, Durable):
        return App(durable=found)
    return App(graphs=dict(found)) if isinstance(found, Mapping) else App(graph=found)


def _raised(doing: str, name: str, error: Exception) -> FailedCommand:
    return FailedCommand(f"{doing} {quoted(name)} raised {type(error).__name__}: {error}")
