"""The event loop of the tests, and of the processes that they start: asyncio's, or uvloop with
`AIODURABLE_UVLOOP=1`; with `AIODURABLE_EAGER=1` its tasks begin as they are made
(`asyncio.eager_task_factory`, Python 3.12 and newer)."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

KIND: Final = (
    "selector"  # psycopg refuses the proactor
    if sys.platform == "win32"
    else "uvloop"
    if os.environ.get("AIODURABLE_UVLOOP") == "1"
    else "asyncio"
)


EAGER: Final = os.environ.get("AIODURABLE_EAGER") == "1"


def new_event_loop() -> asyncio.AbstractEventLoop:
    """One of that kind."""
    loop = _new_event_loop()
    if EAGER:
        loop.set_task_factory(asyncio.eager_task_factory)  # pyright: ignore[reportAttributeAccessIssue]
    return loop


def _new_event_loop() -> asyncio.AbstractEventLoop:
    match KIND:
        case "selector":
            return asyncio.SelectorEventLoop()
        case "uvloop":
            import uvloop

            return uvloop.new_event_loop()
        case _:
            return asyncio.new_event_loop()


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on one of that kind."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)
