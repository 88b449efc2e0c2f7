"""`effect`: a side effect of a node that is never silently run twice."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import Future
from typing import Any, Final, TypeVar, cast

from aiodurable.errors import ClosedError, ConfigurationError, InvalidArgumentError
from aiodurable.runs.current_effects import current_effects
from aiodurable.runs.effect_steps import (
    Call,
    Effect,
    NeverRan,
    NotDone,
    OnLoop,
    Step,
    checked,
)
from aiodurable.shield import run_to_completion

__all__ = ["effect", "effect_sync"]

T = TypeVar("T")

_LOOK_S: Final = 1.0
"""Seconds between two looks at whether the event loop still runs."""


async def effect(
    name: str,
    do: Callable[[], Awaitable[T]],
    *,
    reconcile: Callable[[], Awaitable[T | NotDone]] | None = None,
    not_done: type[Exception] | tuple[type[Exception], ...] = (),
) -> T:
    """Run a side effect of this step once, and return its result; when the step runs again, return
    the stored result.

    Before `do` runs, a row says that it begins; after it, the row has its result. Where the row
    says "begun" and nothing more, the process died in between, or `do` raised: nobody knows whether
    it happened. Then `reconcile` says so, or a person does, through LangGraph's interrupt.

    Only the holder of the thread's lease can begin or finish one. A fork is another thread: it has
    the effect again.

    Args:
        name: tells the effects of one step apart; each name once in a step. In a loop, or in a tool
            that a model calls, it needs what tells the calls apart.
        do: has the side effect. Its result must be something that a state of the graph may hold.
        reconcile: looks whether it happened: returns its result, or `NOT_DONE`. If it raises, it
            stays unknown.
        not_done: exceptions of `do` that mean that it did not happen. The next try runs it again
            without a question.

    Returns:
        What `do` returned, or `reconcile`, or what a person says that it returned.

    Raises:
        ConfigurationError: it was called outside a node or task of a run.
        InvalidArgumentError: an argument cannot be used; nothing was run. Or the result cannot be
            stored: the effect is recorded as done without it.
        LeaseLostError: the lease is gone. If `do` was run, its next holder finds out.
        Exception: what `do` or `reconcile` raises.
    """
    classes = checked(name, not_done)
    effects, config = current_effects(f"effect {name!r}")
    if effects.loop is not asyncio.get_running_loop():
        raise ConfigurationError(
            f"cannot run effect {name!r}: this is not the event loop of its run; in a sync node use"
            " effect_sync"
        )
    key = effects.named(name, config)
    with effects.using(key):
        call = Effect[T](effects, key, do, reconcile=reconcile, not_done=classes)
        return await _driven(call.steps())


def effect_sync(
    name: str,
    do: Callable[[], T],
    *,
    reconcile: Callable[[], T | NotDone] | None = None,
    not_done: type[Exception] | tuple[type[Exception], ...] = (),
) -> T:
    """`effect` for nodes, tasks and tools that are plain functions, with plain functions.

    The node's thread waits while the run's event loop writes the rows; the loop itself never waits.

    Raises:
        ConfigurationError: also on the event loop itself, which it would block.
        ClosedError: the event loop has ended.
        Exception: see `effect`.
    """
    classes = checked(name, not_done)
    effects, config = current_effects(f"effect {name!r}")
    if _on_a_loop():
        raise ConfigurationError(
            f"cannot run effect {name!r} with effect_sync: it would block the event loop; in an"
            " async node use `await effect(…)`"
        )
    for function in (do, reconcile):
        if inspect.iscoroutinefunction(function):
            raise InvalidArgumentError(
                f"cannot run effect {name!r}: effect_sync takes plain functions; in an async node"
                " use `await effect(…)`",
                argument="do" if function is do else "reconcile",
            )
    key = effects.named(name, config)
    with effects.using(key):
        call = Effect[T](effects, key, do, reconcile=reconcile, not_done=classes)
        return _driven_by_thread(call.steps(), effects.loop, name)


async def _driven(steps: Generator[Step, Any, T]) -> T:
    value, error = None, None
    while True:
        try:
            step = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return cast("T", end.value)
        value, error = None, None
        try:
            value = await _taken(step)
        except BaseException as raised:  # the steps decide what comes of it
            error = raised


async def _taken(step: Step) -> Any:
    if isinstance(step, OnLoop):
        return await (run_to_completion(step.work()) if step.to_the_end else step.work())
    value = step.function()
    # Whatever it is: of a plain function the side effect has happened by now.
    return await value if inspect.isawaitable(value) else value


def _driven_by_thread(
    steps: Generator[Step, Any, T], loop: asyncio.AbstractEventLoop, name: str
) -> T:
    value, error = None, None
    while True:
        try:
            step = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return cast("T", end.value)
        value, error = None, None
        try:
            value = _on_loop(step, loop, name) if isinstance(step, OnLoop) else _called(step, name)
        except BaseException as raised:  # the steps decide what comes of it
            error = raised


def _called(step: Call, name: str) -> Any:
    value: Any = step.function()
    if inspect.iscoroutine(value):
        value.close()
        raise NeverRan from InvalidArgumentError(
            f"cannot run effect {name!r}: effect_sync takes plain functions, and one of them"
            " returned a coroutine, which was not run; in an async node use `await effect(…)`",
            argument="do",
        )
    return value


def _on_loop(step: OnLoop, loop: asyncio.AbstractEventLoop, name: str) -> Any:
    """Run the step on the loop, from a thread, and wait for it as long as the loop runs."""
    work = step.work()
    try:
        answer: Future[Any] = asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError as error:  # it is closed
        work.close()
        raise _loop_ended(name) from error
    while True:
        try:
            return answer.result(_LOOK_S)
        except TimeoutError as error:
            if answer.done():  # its own TimeoutError
                raise
            if not loop.is_running():
                answer.cancel()
                raise _loop_ended(name) from error


def _loop_ended(name: str) -> ClosedError:
    return ClosedError(
        f"cannot go on with effect {name!r}: the event loop of its run has ended; the run goes on"
        " when it is resumed"
    )


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
