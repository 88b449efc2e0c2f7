"""What hangs is named: by pytest for a test that goes on for too long, and here for what pytest does
not watch.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key


def watch_again(item: pytest.Item) -> None:
    """Watch the fixtures of a test that failed: for the sake of a debugger, pytest and pytest-timeout
    stop watching it then, and one that hangs would hang for good.
    """
    seconds = float(item.config.getini("faulthandler_timeout"))
    if seconds > 0 and not item.config.getoption("usepdb"):
        faulthandler.dump_traceback_later(
            seconds,
            exit=item.config.getini("faulthandler_exit_on_timeout"),
            file=item.config.stash[fault_handler_stderr_fd_key],
        )


def pending_tasks() -> str:
    """Where each task of this process waits: a traceback ends in the event loop."""
    tasks = [thing for thing in gc.get_objects() if isinstance(thing, asyncio.Task)]
    return "\n".join(
        "\n".join((repr(task), *_frames(task.get_coro()))) for task in tasks if not task.done()
    )


def _frames(waiting: Any) -> Iterator[str]:
    """Of a coroutine, what it awaits, what that awaits, and so on."""
    while waiting is not None:
        for kind in ("cr", "gi", "ag"):
            if (frame := getattr(waiting, f"{kind}_frame", None)) is not None:
                yield f"    {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
                waiting = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
                break
        else:  # what steps through an asynchronous generator does not say which
            yield f"    {waiting!r}"
            waiting = next(filter(inspect.isasyncgen, gc.get_referents(waiting)), None)


class FailuresAtOnce:
    """Prints a failure when it happens: a run that is killed prints no summary."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._reporter.write_sep("_", f"{report.nodeid}, {report.when}", red=True)
            self._reporter.write_line(report.longreprtext)
            for title, text in report.sections:
                self._reporter.write_sep("-", title)
                self._reporter.write_line(text)
