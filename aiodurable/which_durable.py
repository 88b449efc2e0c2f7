"""Which `Durable` is the current one: the innermost around a task, else the default of its event
loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from aiodurable.errors import ClosedError, ConfigurationError

if TYPE_CHECKING:
    from aiodurable.durable import Durable

__all__ = ["current", "enter", "install", "leave", "no_durable", "opened", "uninstall"]

_entered: ContextVar[tuple[Durable, ...]] = ContextVar("aiodurable entered", default=())
"""The `Durable`s whose `async with` surrounds this task, or surrounded the task that started it;
the innermost is last.
"""
_installed: WeakKeyDictionary[asyncio.AbstractEventLoop, Durable] = WeakKeyDictionary()
"""The default of each event loop."""


def enter(durable: Durable) -> None:
    """Make it the current one of this task and of those that it starts."""
    _entered.set((*_entered.get(), durable))


def leave(durable: Durable) -> None:
    """End what `enter` began."""
    # Not ContextVar.reset(): the exit may run in another context than the entry, and in another
    # order.
    _entered.set(tuple(one for one in _entered.get() if one is not durable))


def install(durable: Durable) -> None:
    """Make it the default of the running event loop.

    Raises:
        ConfigurationError: another one is.
    """
    installed = _installed.setdefault(asyncio.get_running_loop(), durable)
    if installed is not durable:
        raise ConfigurationError(
            f"cannot install this Durable: that of {installed.dsn.safe} is already"
            " installed in this event loop; close it first, or pass durable= to use this one"
        )


def uninstall(durable: Durable) -> None:
    """It is the default of no event loop any more."""
    if durable.loop is not None and _installed.get(durable.loop) is durable:
        del _installed[durable.loop]


def current() -> Durable | None:
    """The innermost `Durable` whose `async with` surrounds this task; else the one that is
    installed in the event loop.

    Raises:
        ClosedError: that one is closed, or open in another event loop. No other one may replace it,
            because it could lead to another database.
    """
    loop = asyncio.get_running_loop()
    entered = _entered.get()
    here = [durable for durable in entered if durable.loop is loop]
    found = here[-1] if here else _installed.get(loop)
    if found is None and entered:
        raise ClosedError(
            "cannot use the Durable around this call: it is open in another event loop; open one in"
            " each loop, or pass `durable=` or `dsn=`"
        )
    if found is not None and not found.is_open:
        raise ClosedError(
            "cannot use the Durable around this call: it is closed; end the tasks that use it"
            " before its `async with` ends, or pass `durable=` or `dsn=`"
        )
    return found


@asynccontextmanager
async def opened(durable: Durable | None = None, dsn: str | None = None) -> AsyncIterator[Durable]:
    """The given `Durable`, else one opened on `dsn` for the body and current for nobody, else the
    current one.

    Raises:
        ConfigurationError: there is none of the three.
        ClosedError: see `current`.
    """
    if durable is not None:
        yield durable
    elif dsn is not None:
        from aiodurable.durable import Durable  # noqa: PLC0415 - which imports this module

        own = Durable(dsn)
        try:
            await own.open()
            yield own
        finally:
            await own.aclose()
    elif (found := current()) is not None:
        yield found
    else:
        raise no_durable()


def no_durable() -> ConfigurationError:
    """What is raised where there is no `Durable` to work with."""
    return ConfigurationError(
        "cannot find a Postgres to work on. There are four ways: open a Durable around this call"
        " (`async with Durable(dsn)`), install one (`durable.install()`), pass `durable=`, or pass"
        " `dsn=`"
    )
