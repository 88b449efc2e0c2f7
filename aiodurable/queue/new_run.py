"""What a run is accepted with: checked before anything is written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypedDict, get_args

from langchain_core.runnables import RunnableConfig
from langgraph.types import Command

from aiodurable.errors import GraphNotRegisteredError, InvalidArgumentError
from aiodurable.events import traceparent
from aiodurable.lock_keys import lock_key
from aiodurable.runs.graphs import BoundGraph, Graph
from aiodurable.runs.retry_policy import RetryPolicy
from aiodurable.runs.run_config import check_call, named_run, new_run_id, storable_part, usable
from aiodurable.runs.services import Services
from aiodurable.thread_id import has_nul, is_storable, validate_thread_id

__all__ = [
    "DEFAULT_QUEUE",
    "CreateOptions",
    "NewRun",
    "OnBusyThread",
    "QueueOptions",
    "Row",
    "check_name",
    "check_seconds",
    "row_of",
]

OnBusyThread = Literal["enqueue", "reject", "interrupt", "rollback"]
"""What becomes of a run whose thread has a run that is not over."""
DEFAULT_QUEUE: Final = "default"
_LONGEST: Final = 200
"""Characters of a queue's name or of a key: they stand in indexes."""


class Row(NamedTuple):
    """The parameters of `create` for one run, in their order."""

    run_id: str
    thread_id: str
    lock_key: int
    graph: str
    input_type: str | None
    input: bytes | None
    context_type: str | None
    context: bytes | None
    config_type: str | None
    config: bytes | None
    queue: str
    priority: int
    fairness_key: str
    concurrency_key: str | None
    run_at: datetime | None
    after_s: float | None
    max_attempts: int | None
    retry_policy: str | None
    timeout_s: float | None
    start_timeout_s: float | None
    dedup_key: str | None
    on_busy: str
    metadata: str | None
    summary: str | None
    schedule_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """One run for `durable.runs.create_many`; the arguments are those of `create`."""

    thread_id: str
    graph: Graph
    input: Any
    run_id: str | None = None
    on_busy: OnBusyThread = "enqueue"
    run_at: datetime | None = None
    after: float | timedelta | None = None
    priority: int = 0
    fairness_key: str | None = None
    concurrency_key: str | None = None
    queue: str = DEFAULT_QUEUE
    max_attempts: int | None = None
    retry_policy: RetryPolicy | None = None
    timeout: float | None = None
    start_timeout: float | None = None
    dedup_key: str | None = None
    context: Any = None
    config: RunnableConfig | None = None
    metadata: Mapping[str, Any] | None = None
    summary: str | None = None


class QueueOptions(TypedDict, total=False):
    """How workers execute a run: the options of `Runs.create` that `Schedules.create` has, too."""

    on_busy: OnBusyThread
    priority: int
    fairness_key: str | None
    concurrency_key: str | None
    queue: str
    max_attempts: int | None
    retry_policy: RetryPolicy | None
    timeout: float | None
    start_timeout: float | None
    config: RunnableConfig | None
    metadata: Mapping[str, Any] | None
    summary: str | None


class CreateOptions(QueueOptions, total=False):
    """The options of `Runs.create` whose types do not depend on the graph."""

    run_id: str | None
    run_at: datetime | None
    after: float | timedelta | None
    dedup_key: str | None
    conn: Any


async def row_of(services: Services, namespace: str, new: NewRun) -> Row:
    """The row of a run that is to be accepted.

    Raises:
        InvalidArgumentError: an argument cannot be used or stored.
        GraphNotRegisteredError: this process has graphs, and none of that name.
    """
    thread_id = validate_thread_id(new.thread_id)
    name, bound = _graph(services, new)
    if new.input is None:
        raise _refused(new, "input", "it has no input, and nothing would be done; pass one")
    if isinstance(new.input, Command) and new.input.resume is not None:
        raise _refused(new, "input", "an answer is no run of its own; run.answer(value) gives it")
    config = usable(new.config, thread_id)
    if bound is not None:
        check_call(bound.pregel, (), new.context, thread_id)
    _check(new)
    stored = await services.ledger.stored(
        new.input,
        new.context,
        storable_part(config),
        None if bound is None else bound.ledger_serde,
    )
    after_s = new.after.total_seconds() if isinstance(new.after, timedelta) else new.after
    return Row(
        named_run(new.run_id, new.config, thread_id) or new_run_id(),
        thread_id,
        lock_key(thread_id, namespace),
        name,
        *stored,
        new.queue,
        new.priority,
        new.fairness_key or "",
        new.concurrency_key,
        new.run_at,
        after_s,
        new.max_attempts,
        None if new.retry_policy is None else json.dumps(new.retry_policy.as_json()),
        new.timeout,
        new.start_timeout,
        new.dedup_key,
        new.on_busy,
        _json(new),
        new.summary,
        traceparent=traceparent(services.observers, name) if services.observers else None,
    )


def _graph(services: Services, new: NewRun) -> tuple[str, BoundGraph | None]:
    """The graph's name, and the graph where this process has it."""
    if isinstance(new.graph, str):
        if not services.graphs.registered:
            return _text(new, "graph", new.graph), None
        try:
            return new.graph, services.graphs.bind(new.graph)
        except GraphNotRegisteredError as error:
            error.thread_id = new.thread_id
            raise
    bound = services.graphs.bind(new.graph)
    if bound.name is None:
        raise _refused(
            new, "graph", "it has no name by which a worker could find it; pass its name"
        )
    return bound.name, bound


def _check(new: NewRun) -> None:
    if new.on_busy not in get_args(OnBusyThread):
        choices = ", ".join(map(repr, get_args(OnBusyThread)))
        raise _refused(new, "on_busy", f"it is {new.on_busy!r}; choose from {choices}")
    _text(new, "queue", new.queue)
    for name in ("fairness_key", "concurrency_key", "dedup_key"):
        if getattr(new, name) is not None:
            _text(new, name, getattr(new, name))
    if new.summary is not None and not is_storable(new.summary):
        raise _refused(
            new, "summary", "Postgres cannot store a NUL character or a lone surrogate; remove it"
        )
    if not isinstance(new.priority, int) or not -(2**31) <= new.priority < 2**31:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise _refused(new, "priority", f"it must be a whole number of 32 bits, got {new.priority}")
    if new.max_attempts is not None and not 1 <= new.max_attempts < 2**31:
        raise _refused(new, "max_attempts", f"it must be 1 or more, got {new.max_attempts}")
    for name in ("timeout", "start_timeout"):
        check_seconds(name, getattr(new, name), thread_id=new.thread_id, least=0.001)
    _check_moment(new)


def _check_moment(new: NewRun) -> None:
    if new.run_at is not None and new.after is not None:
        raise _refused(new, "after", "run_at says the moment already; give one of them")
    if new.run_at is not None and new.run_at.utcoffset() is None:
        raise _refused(
            new, "run_at", f"{new.run_at.isoformat()} has no time zone; try datetime.now(UTC)"
        )
    after = new.after.total_seconds() if isinstance(new.after, timedelta) else new.after
    check_seconds("after", after, thread_id=new.thread_id)


def check_seconds(
    name: str, value: float | None, *, thread_id: str | None = None, least: float = 0
) -> None:
    """Refuse what is no number of seconds, or more than a thousand years of them."""
    if value is not None and not (math.isfinite(value) and least <= value <= 3.2e10):
        raise InvalidArgumentError(
            f"cannot use {name}={value!r}: it must be seconds, {least:g} or more",
            thread_id=thread_id,
            argument=name,
        )


def _json(new: NewRun) -> str | None:
    if new.metadata is None:
        return None
    try:
        text = json.dumps(dict(new.metadata), allow_nan=False, ensure_ascii=False)
        text.encode()  # a lone surrogate is a ValueError
    except (TypeError, ValueError, RecursionError) as error:
        raise _refused(
            new, "metadata", f"it is no JSON ({type(error).__name__}); pass plain data"
        ) from error
    if has_nul(text):
        raise _refused(new, "metadata", "Postgres cannot store a NUL character; remove it")
    return text


def _text(new: NewRun, name: str, value: object) -> str:
    return check_name(name, value, thread_id=new.thread_id)


def check_name(name: str, value: object, *, thread_id: str | None = None) -> str:
    """Refuse what cannot name a queue, or be a key."""
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST or not is_storable(value):
        raise InvalidArgumentError(
            f"cannot use {name}={value!r:.80}: it must be a text of 1 to {_LONGEST} characters",
            thread_id=thread_id,
            argument=name,
        )
    return value


def _refused(new: NewRun, argument: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"cannot use the {argument} of a run of thread {new.thread_id!r}: {why}",
        thread_id=new.thread_id,
        argument=argument,
    )
