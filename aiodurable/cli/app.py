"""`--app MODULE:ATTRIBUTE`: where a command finds the graphs of an application, as web servers find
theirs.
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
            "Your graphs: a dict of them by name, a graph, a Durable, or a function that returns"
            " one of these. Looked for in the current folder, too. Default: AIODURABLE_APP."
        ),
        **options,
    )


graph_option = click.option(
    "--graph", metavar="NAME", help="Which of them, where the ledger does not know."
)


@dataclass(frozen=True, slots=True)
class App:
    """What `--app` named.

    Attributes:
        graphs: the graphs by name.
        graph: the only graph, where it named one.
        durable: the `Durable`, where it named one; its DSN and settings are its own.
    """

    graphs: Mapping[str, Graph] = field(default_factory=dict[str, Any])
    graph: Graph | None = None
    durable: Durable | None = None

    @asynccontextmanager
    async def opened(self, dsn: str | None) -> AsyncIterator[Durable]:
        """A `Durable` that knows the graphs; the tables are left as they are.

        Raises:
            UsageError: a DSN, though the application's own `Durable` has one.
            SchemaMismatchError: the tables are missing, older or newer.
            ConfigurationError, PostgresUnavailableError: as `Durable` does.
        """
        from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph

        if self.durable is not None and dsn is not None:
            raise click.UsageError(
                "--app names a Durable, which knows its database: leave --dsn out"
            )
        async with self.durable or Durable(
            dsn, graphs=self.graphs, settings=few_connections()
        ) as durable:
            yield durable

    @asynccontextmanager
    async def looking(self, dsn: str | None, renamed: Mapping[str, Any]) -> AsyncIterator[Durable]:
        """A `Durable` that knows the graphs and takes no lease, also at a standby. Raises as
        `opened` does.
        """
        from aiodurable.durable import Durable  # noqa: PLC0415 - as above

        if self.durable is not None and dsn is not None:
            raise click.UsageError(
                "--app names a Durable, which knows its database: leave --dsn out"
            )
        settings = replace(few_connections(), lock_connections=0)
        looking = (
            Durable(dsn, graphs=self.graphs, settings=settings, renamed=renamed)
            if self.durable is None
            else self.durable.looking_only(settings, renamed)
        )
        async with looking as durable:
            yield durable

    async def graph_for(self, durable: Durable, thread_id: str, name: str | None) -> Graph | None:
        """The graph to run a thread with: the one asked for, the only one, or None: the one the
        ledger names.

        Raises:
            UsageError: neither the command line nor the ledger names it.
        """
        if name is not None or self.graph is not None:
            return name if self.graph is None else self.graph
        thread = await durable.threads.status(thread_id)
        if thread.status != "new" and thread.graph is None:
            known = f" (one of {', '.join(sorted(self.graphs))})" if self.graphs else ""
            raise click.UsageError(
                f"the graph of thread {thread_id!r} is not recorded: name it with --graph{known}"
            )
        return None


async def load_app(name: str) -> App:
    """Import what `--app` names; a function is called, and awaited if it wants to be.

    Raises:
        UsageError: there is no such module or attribute, or it is nothing that has graphs.
        FailedCommand: importing the module, or calling the function, raised.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise click.UsageError(
            f"--app wants MODULE:ATTRIBUTE, such as my.service:graphs, got {name!r}"
        )
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path has strings
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _raised("importing", name, error) from error
        raise click.UsageError(
            f"--app names module {error.name!r}, which is not to be found from {here}"
        ) from error
    except Exception as error:  # whatever an application raises when it is imported
        raise _raised("importing", name, error) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise click.UsageError(
                f"--app names {attribute!r}, which module {module_name!r} does not have"
            )
        found = getattr(found, part)
    return _understood(name, await _called(name, found))


async def _called(name: str, found: Any) -> Any:
    if not callable(found) or _is_app(found):
        return found
    try:
        made = found()
        return await made if inspect.isawaitable(made) else made
    except Exception as error:  # whatever an application's factory raises
        raise _raised("calling", name, error) from error


def _is_app(found: Any) -> bool:
    from langgraph.graph import StateGraph  # noqa: PLC0415 - 0.8 s that --help need not take
    from langgraph.pregel import Pregel  # noqa: PLC0415 - as above

    from aiodurable.durable import Durable  # noqa: PLC0415 - as above

    return isinstance(found, Durable | Mapping | Pregel | StateGraph)


def _understood(name: str, found: Any) -> App:
    from aiodurable.durable import Durable  # noqa: PLC0415 - loads LangGraph

    if not _is_app(found):
        raise click.UsageError(
            "--app wants a dict of graphs by name, a graph, a Durable, or a function that returns"
            f" one of these; {name} is {type(found).__name__}"
        )
    if isinstance(found, Durable):
        return App(durable=found)
    return App(graphs=dict(found)) if isinstance(found, Mapping) else App(graph=found)


def _raised(doing: str, name: str, error: Exception) -> FailedCommand:
    return FailedCommand(f"{doing} {name} raised {type(error).__name__}: {error}")
