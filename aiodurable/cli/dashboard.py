"""`aiodurable dashboard`: serve the dashboard, by default to one person on this machine."""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from aiodurable.cli.app import App, app_option, load_app
from aiodurable.cli.audit import local_actor
from aiodurable.cli.database import dsn_option
from aiodurable.cli.exit_codes import FailedCommand
from aiodurable.cli.format import quoted

if TYPE_CHECKING:
    from aiodurable.durable import Durable

__all__ = ["dashboard", "served_app"]


@click.command(short_help="Serve the dashboard on this machine.")
@app_option()
@dsn_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8321,
    show_default=True,
    help="The port to listen at; 0: any that is free.",
)
@click.option("--writable", is_flag=True, help="Allow actions, not only reading.")
@click.option(
    "--states", is_flag=True, help="Let pages open states and questions; they may hold secrets."
)
@click.option(
    "--authorize",
    metavar="MODULE:FUNCTION",
    help=(
        "authorize(request, action, thread) decides who may do what, in place of the token and of"
        " --states. Needed for an address that other machines reach."
    ),
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="A host name that browsers use for it, with --authorize; may be given several times.",
)
def dashboard(
    app: str | None,
    dsn: str | None,
    host: str,
    port: int,
    writable: bool,
    states: bool,
    authorize: str | None,
    allowed_hosts: tuple[str, ...],
) -> None:
    """Serve the dashboard until Ctrl-C, and print its address.

    The address has a random token and works for one person on this machine. With --app the graphs
    of threads are drawn, and with --writable threads can be resumed here.
    """
    if authorize is None and not _is_loopback(host):
        raise click.UsageError(
            f"cannot serve the dashboard at {quoted(host)} without --authorize: other machines"
            " reach that address; name a function that decides who may do what, or leave out --host"
        )
    if authorize is None and allowed_hosts:
        raise click.UsageError(
            "--allowed-host needs --authorize: without it only this machine does"
        )
    if authorize is not None and states:
        raise click.UsageError(
            "cannot use --states with --authorize: that function decides about view_state, too"
        )
    asyncio.run(_serve(app, dsn, host, port, writable, states, authorize, allowed_hosts))


async def _serve(
    app: str | None,
    dsn: str | None,
    host: str,
    port: int,
    writable: bool,
    states: bool,
    authorize: str | None,
    allowed_hosts: Sequence[str],
) -> None:
    _need_libraries()
    import uvicorn  # noqa: PLC0415 - an extra

    loaded = App() if app is None else await load_app(app)
    may = None if authorize is None else _function(authorize)
    listening = _listen(host, port)
    with listening:
        bound = listening.getsockname()[1]
        async with _opened(loaded, dsn, writable=writable) as durable:
            served, path = served_app(durable, writable, states, may, allowed_hosts, host, bound)
            config = uvicorn.Config(
                served,
                log_level="warning",
                access_log=False,
                server_header=False,
                lifespan="off",
                timeout_graceful_shutdown=2,
            )
            click.echo(f"the dashboard is at http://{_in_address(host)}:{bound}{path}")
            await uvicorn.Server(config).serve(sockets=[listening])


def served_app(
    durable: Durable,
    writable: bool,
    states: bool,
    may: Any,
    allowed_hosts: Sequence[str],
    host: str,
    port: int,
) -> tuple[Any, str]:
    """The ASGI app, and the path to open first."""
    from aiodurable.dashboard import dashboard as application  # noqa: PLC0415 - an extra
    from aiodurable.dashboard.local import LocalDashboard  # noqa: PLC0415 - as above
    from aiodurable.dashboard.security import LOOPBACK  # noqa: PLC0415 - as above

    listened = _in_address(host)
    if may is None:
        local = LocalDashboard(
            durable,
            writable=writable,
            states=states,
            host=listened,
            port=port,
            actor=local_actor("dashboard"),
        )
        return local.app, local.login
    own = (*LOOPBACK, listened) if _is_loopback(host) and not allowed_hosts else (listened,)
    served = application(
        durable, authorize=may, read_only=not writable, allowed_hosts=(*allowed_hosts, *own)
    )
    return served, "/"


def _in_address(host: str) -> str:
    """A host as addresses and the Host header have it."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    return f"[{address}]" if address.version == 6 else str(address)


def _opened(app: App, dsn: str | None, *, writable: bool) -> AbstractAsyncContextManager[Durable]:
    return app.opened(dsn) if writable else app.read_only(dsn, {})


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise FailedCommand(
            f"cannot listen at {quoted(host)} port {port}: {error.strerror or error}; choose"
            " another with --port"
        ) from error


def _function(name: str) -> Any:
    """The function that `--authorize` names."""
    module, _, attribute = name.partition(":")
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 - sys.path has strings
        sys.path.insert(0, here)
    try:
        found = getattr(import_module(module), attribute) if module and attribute else None
    except (ImportError, AttributeError) as error:
        raise click.UsageError(f"cannot load --authorize {quoted(name)}: {error}") from error
    if not callable(found) or inspect.isclass(found):
        raise click.UsageError(
            f"--authorize must be MODULE:FUNCTION, such as my.web:may, got {quoted(name)}"
        )
    return found


def _need_libraries() -> None:
    for needed in ("uvicorn", "aiodurable.dashboard"):
        try:
            import_module(needed)
        except ModuleNotFoundError as error:
            raise FailedCommand(
                f"cannot serve the dashboard: {error.name} is missing; pip install"
                " 'aiodurable[dashboard]'"
            ) from error
