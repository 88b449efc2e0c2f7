"""What the library advises, as commands.

The library's messages name Python calls. The commands mirror those (decision 0046), so each call
that a message may name stands here with its command.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from aiodurable.advice import advising, of_stored

__all__ = ["COMMANDS", "stored_with_commands", "with_commands"]

_RESUME: Final = "`aiodurable threads resume THREAD`"
_PAST_GATE: Final = "`aiodurable threads resume THREAD --past-gate`"

COMMANDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "runs.get(run_id)": "`aiodurable runs show RUN`",
        "runs.retry(run_id)": "`aiodurable runs retry RUN`",
        "threads.retry(thread_id)": "`aiodurable threads retry THREAD`",
        "threads.delete(thread_id)": "`aiodurable threads delete THREAD`",
        "threads.history(thread_id)": "`aiodurable threads show THREAD --json`",
        "threads.fork(thread_id, before=…)": "`aiodurable threads fork THREAD --before NODE`",
        "threads.fork(thread_id, checkpoint_id=…)": (
            "`aiodurable threads fork THREAD --checkpoint ID`"
        ),
        "threads.signal(thread_id, name, value)": ("`aiodurable threads signal THREAD NAME VALUE`"),
        "get_checkpoint_status(thread_id)": "`aiodurable threads status THREAD`",
        "get_checkpoint_status(thread_id).interrupts": "`aiodurable threads status THREAD --json`",
        ".interrupts has": "`aiodurable threads status THREAD --json` has",
        "run.answer(value)": "`aiodurable threads answer THREAD ANSWER`",
        "answer with a dict of interrupt ids": "name one with --question",
        "answer with a dict of its id": "name it with --question",
        "run.ainvoke()": _RESUME,
        "run.ainvoke() without input": _PAST_GATE,
        "run.ainvoke() or resume_workflow(thread_id, past_gate=True)": _PAST_GATE,
        ', on_unfinished="restart" with an input gives the work up': "",
        'wait for it with on_busy="wait", or come back later': (
            "come back later, or end it with `aiodurable threads cancel THREAD`"
        ),
        "; inside of that run, pass its config": "",
        'create with on_busy="enqueue"': "create with --on-busy enqueue",
        "pass replace=True": "pass --replace",
        "Durable(graphs=…)": "--app",
        "pass dsn='postgresql://user@host/database'": "pass --dsn postgresql://user@host/database",
        ", or open with auto_migrate=True": "",
        "open with auto_migrate=False": "set AIODURABLE_AUTO_MIGRATE=false",
    }
)
"""The commands or options by what the library's messages have in their place."""

with_commands: Final = advising(COMMANDS)
"""A message of the library for a person at the command line."""

stored_with_commands: Final = of_stored(with_commands)
"""The same for the error of a run's row."""
