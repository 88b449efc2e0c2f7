"""Every text that a public function takes may be any text: what Postgres cannot store or compare is
refused by an error of ours, and no driver's error reaches the caller.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, get_type_hints

import pytest

from aiodurable import (
    AiodurableError,
    Durable,
    DurableSaver,
    PostgresLockManager,
    Threads,
)
from aiodurable.insights import Insights
from aiodurable.queue import Queues, Runs, Schedules
from tests.support.scenario_graphs import chain, ok

HOSTILE = {
    "NUL": "a\0b",
    "empty": "",
    "10,000 characters": "x" * 10_000,
    "10,000 characters of four bytes": "\U0001f600" * 10_000,
    "a lone surrogate": "\ud800",
}
NOW = datetime.now(UTC)
USUAL: dict[str, Any] = {
    "thread_id": "t",
    "graph": "chain",
    "input": {"xs": []},
    "run_id": "r",
    "run_ids": ["r"],
    "schedule_id": "s",
    "name": "n",
    "older_than": timedelta(days=1),
    "start": NOW - timedelta(hours=1),
    "end": NOW,
    "queue": "default",
    "actor": "somebody",
    "action": "looks",
    "source_thread_id": "t",
    "target_thread_id": "u",
    "thread_ids": ["t"],
}
ALSO: dict[str, dict[str, Any]] = {
    "Schedules.create": {"every": 3600.0},
    "Runs.wait": {"timeout": 0.05},
    "Runs.wait_first": {"timeout": 0.05},
    "Threads.verify": {"recheck_s": 0.0},
    "Threads.fork": {"new_thread_id": "forked"},
}
"""What a call needs besides, to come as far as it can."""
OF_THE_SAVER = {"acopy_thread", "adelete_for_runs", "adelete_thread", "aprune"}
"""What people call of it; LangGraph calls the rest."""
LEFT_OUT = {"prune_every", "read_only"}  # never returns; takes objects of the command line
RESOURCES: dict[type, str] = {
    Durable: "",
    Threads: "threads",
    Runs: "runs",
    Schedules: "schedules",
    Queues: "queues",
    Insights: "insights",
    PostgresLockManager: "locks",
    DurableSaver: "checkpointer",
}


def takes_text(hint: Any) -> bool:
    return hint is str or any(takes_text(part) for part in typing.get_args(hint))


def texts_of(function: Any) -> Iterator[tuple[str, Callable[[str], Any]]]:
    """The parameters that take a text, and how they take it."""
    hints = get_type_hints(function)
    hints.pop("return", None)
    for options in [one for one in hints.values() if typing.get_origin(one) is typing.Unpack]:
        hints |= get_type_hints(*typing.get_args(options))
    for name, hint in hints.items():
        if typing.get_origin(hint) is typing.Unpack or not takes_text(hint):
            continue
        if "Mapping[" in str(hint):
            yield name, lambda text: {"key": text}
        elif name in ("run_ids", "thread_ids"):
            yield name, lambda text: [text]
        else:
            yield name, lambda text: text


def calls(kind: type) -> Iterator[tuple[str, dict[str, Any], str]]:
    """The name of each public method, and arguments with a hostile text at one place."""
    for name, function in inspect.getmembers(kind, inspect.isfunction):
        called = f"{kind.__name__}.{name}"
        if (
            name.startswith("_")
            or name in LEFT_OUT
            or (kind is DurableSaver and name not in OF_THE_SAVER)
        ):
            continue
        needed = {
            parameter.name: USUAL.get(parameter.name)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind is not parameter.VAR_KEYWORD
            and parameter.name != "self"
        }
        for text, as_taken in texts_of(function):
            if kind is DurableSaver and text == "strategy":  # the stock saver's ValueError
                continue
            for what, value in HOSTILE.items():
                given = {**needed, **ALSO.get(called, {}), text: as_taken(value)}
                yield name, given, f"{called}({text}={what})"


async def call(resource: Any, name: str, arguments: dict[str, Any]) -> None:
    result = getattr(resource, name)(**arguments)
    if isinstance(result, AsyncIterator):
        async for _ in result:
            break
    elif isinstance(result, AbstractAsyncContextManager):
        async with result:
            pass
    elif inspect.isawaitable(result):
        await result


@pytest.mark.parametrize("kind", RESOURCES, ids=lambda kind: kind.__name__)
async def test_no_text_makes_a_driver_fail(dsn: str, kind: type) -> None:
    wrong: list[str] = []
    async with Durable(dsn, graphs={"chain": chain(a=ok("a"))}) as durable:
        await durable.runs.create("t", "chain", {"xs": []}, run_id="r")
        await durable.schedules.create("s", "chain", {"xs": []}, every=3600.0)
        resource = getattr(durable, RESOURCES[kind]) if RESOURCES[kind] else durable
        for name, arguments, what in calls(kind):
            try:
                await call(resource, name, arguments)
            except AiodurableError:
                pass
            except Exception as error:
                wrong.append(f"{what}: {type(error).__module__}.{type(error).__name__}: {error}")
    assert wrong == []
