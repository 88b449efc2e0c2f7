"""What the library advises, as what a page has for it.

The library's messages name Python calls. Each call that a message may name stands here with the
button or the page that does it; `aiodurable.cli.advice` has the same for the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aiodurable.advice import advising, of_stored

__all__ = ["BUTTONS", "stored_with_buttons", "with_buttons"]

_RUN: Final = "the run's page"
_THREAD: Final = "the thread's page"
_RESUME: Final = f"Resume on {_THREAD}"

BUTTONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "runs.get(run_id)": _RUN,
        "runs.retry(run_id)": f"Retry on {_RUN}",
        "threads.retry(thread_id)": f"Retry on {_THREAD}",
        "threads.delete(thread_id)": f"Delete on {_THREAD}",
        "threads.history(thread_id)": _THREAD,
        "threads.fork(thread_id, before=…)": f"Fork at an earlier checkpoint on {_THREAD}",
        "threads.fork(thread_id, checkpoint_id=…)": f"Fork at a checkpoint on {_THREAD}",
        "threads.signal(thread_id, name, value)": "`aiodurable threads signal THREAD NAME VALUE`",
        "get_checkpoint_status(thread_id)": _THREAD,
        "get_checkpoint_status(thread_id).interrupts": _THREAD,
        ".interrupts has": f"{_THREAD} has",
        "run.answer(value)": f"Answer on {_THREAD}",
        "run.ainvoke()": _RESUME,
        "run.ainvoke() without input": _RESUME,
        "run.ainvoke() or resume_workflow(thread_id, past_gate=True)": _RESUME,
        ', on_unfinished="restart" with an input gives the work up': "",
        'wait for it with on_busy="wait", or come back later': (
            f"come back later, or end it with Cancel on {_THREAD}"
        ),
        "; inside of that run, pass its config": "",
    }
)
"""The words of the pages by what the library's messages have in their place."""

with_buttons: Final = advising(BUTTONS)
"""A message of the library for a person at a page."""

stored_with_buttons: Final = of_stored(with_buttons)
"""The same for the error of a run's row."""
