"""The event loop of the tests, and of the processes that they start: asyncio's, or uvloop with `AIODURABLE_UVLOOP=1`."""

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


def new_event_loop() -> asyncio.AbstractEventLoop:
    """One of that kind."""
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
